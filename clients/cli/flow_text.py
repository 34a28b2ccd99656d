"""A flow as text, in the shapes that `hubble observe` has."""

from __future__ import annotations

from clients.cli import output
from fairlead import codec
from fairlead.schema.flow import Flow, FlowEnd

FORMS = ("table", "compact", "dict", "json", "jsonpb")
TITLES = ("TIME", "NODE", "TYPE", "VERDICT", "DIRECTION", "PROTO", "SOURCE", "DESTINATION", "REASON", "UUID")
_L4 = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP", "ICMP": "ICMPv4", "ICMPv6": "ICMPv6"}


def row(flow: Flow) -> tuple[object, ...]:
    """Return the cells of the table."""
    return (
        flow.time.astimezone().strftime("%H:%M:%S.%f")[:-3],
        flow.node_name,
        flow.event_type,
        flow.verdict,
        flow.traffic_direction,
        flow.protocol,
        end(flow.source),
        end(flow.destination),
        flow.drop_reason_desc or _counts(flow),
        flow.uuid,
    )


def line(flow: Flow, form: str) -> str:
    """Return the flow in one of the forms, for a stream; all but `dict` are one line."""
    if form == "json":
        return output.as_json(flow, line=True)
    if form == "jsonpb":
        return output.as_json(hubble(flow), line=True)
    if form == "compact":
        return output.plain(_compact(flow))
    if form == "dict":
        return "\n".join(f"{title:>12}: {output.plain(str(cell))}" for title, cell in _facts(flow)) + "\n"
    return "  ".join(output.plain(str(cell)) for cell in row(flow))


def end(one: FlowEnd) -> str:
    """Return one end of a flow: address and port, then who that is."""
    place = f"[{one.address}]:{one.port}" if one.port and ":" in one.address else f"{one.address}:{one.port}"
    who = one.name or output.labels(one.labels) or f"identity {one.identity}"
    return f"{place if one.port else one.address} ({who})"


def _counts(flow: Flow) -> str:
    if flow.event_type not in ("closed", "lasting"):
        return ""
    counts = f"{flow.packets}/{flow.reply_packets} packets, {flow.bytes}/{flow.reply_bytes} bytes"
    return f"{flow.explanation}: {counts}"


def _facts(flow: Flow) -> tuple[tuple[str, object], ...]:
    times = zip(TITLES, row(flow), strict=True)
    return (*times, ("TCP FLAGS", ",".join(flow.tcp_flags)), ("SUMMARY", flow.explanation))


def _compact(flow: Flow) -> str:
    arrow = "<-" if flow.is_reply else "->"
    ends = (flow.destination, flow.source) if flow.is_reply else (flow.source, flow.destination)
    told = flow.drop_reason_desc or flow.event_type
    flags = f" Flags: {', '.join(flow.tcp_flags)}" if flow.tcp_flags else ""
    at = flow.time.astimezone().strftime("%b %d %H:%M:%S.%f")[:-3]
    return f"{at}: {end(ends[0])} {arrow} {end(ends[1])} {told} {flow.verdict} ({flow.protocol}{flags})"


def hubble(flow: Flow) -> dict[str, object]:
    """Return the flow in the shape of Hubble's flow.proto as JSON, as far as the meaning is equal."""
    plain = codec.to_builtins(flow)
    ports = {"source_port": flow.source.port, "destination_port": flow.destination.port}
    layer4: dict[str, object] = {"type": flow.destination.port} if flow.protocol.startswith("ICMP") else {**ports}
    if flow.tcp_flags:
        layer4["flags"] = dict.fromkeys(flow.tcp_flags, True)
    shown = {
        "time": plain["time"],
        "uuid": flow.uuid,
        "verdict": flow.verdict,
        "drop_reason": flow.drop_reason,
        "drop_reason_desc": flow.drop_reason_desc,
        "IP": {"source": flow.source.address, "destination": flow.destination.address, "ipVersion": _version(flow)},
        "l4": {_L4.get(flow.protocol, flow.protocol): layer4},
        "source": _endpoint(flow.source),
        "destination": _endpoint(flow.destination),
        "Type": "L3_L4",
        "node_name": flow.node_name,
        "is_reply": flow.is_reply,
        "event_type": {"name": flow.event_type},
        "traffic_direction": flow.traffic_direction,
        "interface": {"name": flow.interface} if flow.interface else {},
        "Summary": flow.explanation,
    }
    return {"flow": {name: value for name, value in shown.items() if value not in ("", 0, {})}}


def _version(flow: Flow) -> str:
    return f"IPv{flow.ip_version or (6 if ':' in flow.source.address else 4)}"


def _endpoint(one: FlowEnd) -> dict[str, object]:
    found = {"ID": one.endpoint, "identity": one.identity, "labels": list(one.labels), "pod_name": one.name}
    return {name: value for name, value in found.items() if value}
