"""`fairlead bpf policy get`, and where `bpf nat list` hangs: an endpoint's policy map, read back from the kernel."""

from __future__ import annotations

from clients.cli import command, nat, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.errors import InvalidInput
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import POLICY_MAP, EndpointQuery, PolicyMapDump, PolicyMapEntry
from fairlead.schema.policy import Direction

HOST = "host"
"""What a node itself is called where an endpoint is asked for."""
_PROTOCOLS = {0: "ANY", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


async def run(session: Session) -> Answer:
    """Dump the policy map of one endpoint, or of a node itself."""
    number, node = await _meant(session)
    dump = await session.ask(POLICY_MAP, EndpointQuery(endpoint=number), node)
    return Answer(dump, _text(dump), session.status)


async def _meant(session: Session) -> tuple[str, NodeName]:
    asked, node = session.options.endpoint, session.options.node
    if asked != HOST:
        endpoint = await session.endpoint(asked)
        return str(endpoint.endpoint), endpoint.node
    if not node:
        raise InvalidInput(f"`{HOST}` is a node itself: say which one with --node")
    return HOST, NodeName(node)


def _text(dump: PolicyMapDump) -> str:
    titles = ("POLICY", "DIRECTION", "IDENTITY", "LABELS", "PORT/PROTO", "PREC", "PACKETS", "BYTES", "ORIGIN")
    entries = sorted(dump.entries, key=lambda one: (one.direction, one.identity, one.protocol, one.port))
    return f"{dump.name} (endpoint {dump.endpoint}), {dump.pin}\n" + output.table(titles, map(_row, entries))


def _row(one: PolicyMapEntry) -> tuple[object, ...]:
    verdict = "Deny" if one.deny else "Allow"
    peer = output.labels(one.labels) or ("any" if one.identity == 0 else "")
    direction = Direction(one.direction).name.capitalize()
    return verdict, direction, one.identity, peer, ports(one), one.precedence, one.packets, one.bytes, one.origin


def ports(one: PolicyMapEntry) -> str:
    """Return port and protocol as `cilium bpf policy get` writes them."""
    protocol = _PROTOCOLS.get(one.protocol, str(one.protocol))
    return f"{one.port or 'ANY'}/{protocol}" if one.protocol else "ANY"


def register(commands: command.Subcommands) -> None:
    """Declare `bpf policy get`."""
    group = command.group(commands, "bpf", "what stands in the kernel", "fairlead bpf policy get web")
    policy = command.group(group, "policy", "policy maps", "fairlead bpf policy get web")
    getting = command.add(policy, "get", run, "dump an endpoint's policy map", "fairlead bpf policy get web --node n2")
    getting.add_argument(
        "endpoint", metavar="ENDPOINT", help=f"name, address, or number; `{HOST}` with --node: the node itself"
    )
    command.node_option(getting)
    nat.register(group)
