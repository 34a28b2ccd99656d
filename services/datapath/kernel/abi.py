"""Twins of the structs and maps in `bpf/lib/abi.h`. The loader compares the sizes with what the compiler made of the C.

Byte order: `>` parts are network order, all else is the host's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fairlead.address import Address, Prefix
from services.datapath.failsafe import FailsafePort
from services.datapath.kernel.syscalls import NO_PREALLOC
from services.datapath.operations import PolicyCounters, PolicyKey, PolicyValue
from services.datapath.reports import Event, EventKind

SCHEMA_VERSION = 2
"""Grows when a map's shape changes: `migration.py` has the rules."""

OLDEST_READER = 1
"""The oldest schema from which, and to which, maps can be moved: since then values have only grown at their ends."""

PIN_PREFIX = "fairlead_"
PROGRAMS = ("from_pod", "from_network", "from_host", "from_overlay", "to_uplink")
POLICY_ENTRIES = 16384
POLICY_SIZES = (256, 1024, 4096, POLICY_ENTRIES)
MAX_ENDPOINTS = 65536
MAX_TUNNELS = 65536
"""Prefixes of other nodes, their own addresses among them."""
GATEWAY_MAC = bytes.fromhex("02666c000001")
"""The host side of every veth pair, and fairlead_host; neighbour.h answers with it."""

ENDPOINT_PRESENT, ENDPOINT_HELD, ENDPOINT_AUDIT_INGRESS, ENDPOINT_AUDIT_EGRESS = 1, 2, 4, 8
FEATURE_FIREWALL = 4
BY_GLASS = 2
"""What a report has as `audited` when break-glass let the packet pass."""
BPF_DIRECTORY = Path(__file__).resolve().parent.parent / "bpf"

ENDPOINT_STATE = struct.Struct("=6I6s6sI")
BREAK_GLASS = struct.Struct("=Q")
"""Nanoseconds of CLOCK_MONOTONIC, by endpoint number; 0 is the whole node."""
SETTINGS = struct.Struct("=14I2HI")
FLOW_KEY = struct.Struct("=16s16s2s2sB3x")
FLOW = struct.Struct("=QIHHIIII4QQI16s2B2s16sQI4x")
MASQUERADE_KEY = struct.Struct("=16s16s2s2sB3x")
MASQUERADE = struct.Struct("=Q16s2s6x")
EVENT = struct.Struct("=Q16s16s4I2s2sHBBBB2BBB2x4QI4x")
SHORTEST_EVENT_BYTES = 72
"""What programs of the first schema report; the rest has come to its end since, and zero there means as before."""
ABI = struct.Struct("=II32s")
_POLICY_REST = struct.Struct("=BBIQQ")
_KINDS = frozenset(int(kind) for kind in EventKind)
_RANGE_BITS = struct.Struct("=IIBB")
_RANGE_FIXED_BITS = 48


class EndpointState(NamedTuple):
    """Twin of `struct endpoint_state`; the endpoint without a row is all zero."""

    epoch: int = 0
    ifindex: int = 0
    identity: int = 0
    flags: int = 0
    ingress_default_deny: int = 0
    egress_default_deny: int = 0
    pod_mac: bytes = bytes(6)
    host_mac: bytes = bytes(6)
    reserved: int = 0


class Settings(NamedTuple):
    """Twin of `struct settings`; all times in jiffies."""

    address_epoch: int = 0
    host_ifindex: int = 0
    second: int = 0
    syn_timeout: int = 0
    established_timeout: int = 0
    closing_timeout: int = 0
    other_timeout: int = 0
    drops_per_second: int = 0
    """Reports per second, per processor and kind; the next three alike."""
    new_flows_per_second: int = 0
    closed_flows_per_second: int = 0
    audits_per_second: int = 0
    features: int = 0
    tunnel_ifindex: int = 0
    report_interval: int = 0
    nat_first_port: int = 0
    nat_last_port: int = 0
    mtu_bytes: int = 0
    """Of the narrowest uplink."""


@dataclass(frozen=True)
class MapSpec:
    """The shape of one pinned map."""

    kind: str
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int = 0


POLICY_MAP = MapSpec("hash", 8, 24, POLICY_ENTRIES, NO_PREALLOC)
RANGE_MAP = MapSpec("lpm_trie", 12, 24, POLICY_ENTRIES, NO_PREALLOC)
MOVE_MAPS = {"move": MapSpec("array", 4, 4, 1), "moved_row": MapSpec("percpu_array", 4, 512, 1)}
"""What there is only while recorded tables move to another shape."""
INNER_MAPS = {"policies": POLICY_MAP, "policy_ranges": RANGE_MAP}
"""What stands in the arrays of maps."""


def map_specs(flows: int, addresses: int, masquerades: int = 1) -> dict[str, MapSpec]:
    """Return every map of the programs by name, for a flow table of `flows`, room for `addresses` and for `masquerades`."""
    return {
        "endpoints": MapSpec("hash", 16, 4, MAX_ENDPOINTS, NO_PREALLOC),
        "endpoint_state": MapSpec("array", 4, ENDPOINT_STATE.size, MAX_ENDPOINTS),
        "break_glass": MapSpec("hash", 4, BREAK_GLASS.size, MAX_ENDPOINTS, NO_PREALLOC),
        "policies": MapSpec("array_of_maps", 4, 4, MAX_ENDPOINTS),
        "policy_ranges": MapSpec("array_of_maps", 4, 4, MAX_ENDPOINTS),
        "ipcache": MapSpec("hash", 16, 4, addresses, NO_PREALLOC),
        "ipcache_prefix": MapSpec("lpm_trie", 24, 4, addresses, NO_PREALLOC),
        "tunnels": MapSpec("lpm_trie", 24, 16, MAX_TUNNELS, NO_PREALLOC),
        "host_addresses": MapSpec("hash", 16, 4, 4096, NO_PREALLOC),
        "failsafe": MapSpec("hash", 4, 4, 4096, NO_PREALLOC),
        "conntrack": MapSpec("lru_hash", FLOW_KEY.size, FLOW.size, flows),
        "scratch": MapSpec("percpu_array", 4, 376, 1),
        "masquerade": MapSpec("lru_hash", MASQUERADE_KEY.size, MASQUERADE.size, masquerades),
        "masquerade_addresses": MapSpec("hash", 8, 16, 256, NO_PREALLOC),
        "masquerade_exclusions": MapSpec("lpm_trie", 24, 4, 65536, NO_PREALLOC),
        "masquerade_scratch": MapSpec("percpu_array", 4, MASQUERADE_KEY.size + MASQUERADE.size, 1),
        "fragments": MapSpec("lru_hash", 40, 8, 8192),
        "settings": MapSpec("array", 4, SETTINGS.size, 1),
        "denials": MapSpec("percpu_array", 4, 96, 1024),
        "metrics": MapSpec("percpu_array", 4, 16, 512),
        "events": MapSpec("ringbuf", 0, 0, 1 << 20),
        "event_budget": MapSpec("percpu_array", 4, 24, 4),
        "abi": MapSpec("array", 4, ABI.size, 1),
    }


def pack_address(address: Address) -> bytes:
    """Return the 16 bytes of an address, IPv4 as v4-mapped."""
    packed = address.packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def unpack_address(packed: bytes) -> Address:
    """Return the address that 16 bytes hold."""
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return Address(str(ipaddress.IPv4Address(packed[12:])))
    return Address(str(ipaddress.IPv6Address(packed)))


def pack_prefix(prefix: Prefix) -> bytes:
    """Return a key of the prefix trie."""
    mapped_bits = 96 if prefix.family == 4 else 0
    return struct.pack("=II16s", 32 + mapped_bits + prefix.length, prefix.family, pack_address(prefix.address))


def unpack_prefix(key: bytes) -> Prefix:
    """Return the prefix that a key of the trie means."""
    length, family, packed = struct.unpack("=II16s", key)
    return Prefix(f"{unpack_address(packed)}/{length - 32 - (96 if family == 4 else 0)}")


def pack_policy_key(key: PolicyKey) -> bytes:
    """Return the documented 8 bytes."""
    return struct.pack("=I", key.identity) + struct.pack(">HBB", key.port, key.protocol, key.direction)


def unpack_policy_key(packed: bytes) -> PolicyKey:
    """Return what 8 bytes of a policy map's key mean."""
    port, protocol, direction = struct.unpack_from(">HBB", packed, 4)
    return PolicyKey(struct.unpack_from("=I", packed)[0], port, protocol, direction)


def pack_range_key(key: PolicyKey) -> bytes:
    """Return the key of a block of ports."""
    return _RANGE_BITS.pack(_RANGE_FIXED_BITS + key.port_bits, key.identity, key.protocol, key.direction) + struct.pack(
        ">H", key.port
    )


def unpack_range_key(packed: bytes) -> PolicyKey:
    """Return the block of ports that a key means."""
    bits, identity, protocol, direction = _RANGE_BITS.unpack_from(packed)
    (port,) = struct.unpack_from(">H", packed, _RANGE_BITS.size)
    return PolicyKey(identity, port, protocol, direction, bits - _RANGE_FIXED_BITS)


def pack_policy_value(value: PolicyValue) -> bytes:
    """Return the documented 24 bytes, counters zero."""
    rest = _POLICY_REST.pack(int(value.deny), value.precedence, value.provenance, 0, 0)
    return struct.pack(">H", value.proxy_port) + rest


def unpack_policy_value(packed: bytes) -> tuple[PolicyValue, PolicyCounters]:
    """Return the value and the counters in 24 bytes."""
    (proxy_port,) = struct.unpack_from(">H", packed)
    flags, precedence, provenance, packets, length = _POLICY_REST.unpack_from(packed, 2)
    return PolicyValue(bool(flags & 1), precedence, proxy_port, provenance), PolicyCounters(packets, length)


def pack_failsafe(port: FailsafePort) -> bytes:
    """Return the key of a port of this node that no policy can close."""
    return struct.pack(">HBB", port.port, port.protocol, port.direction)


def unpack_failsafe(key: bytes) -> FailsafePort:
    """Return the port that a key means."""
    port, protocol, direction = struct.unpack(">HBB", key)
    return FailsafePort(direction, protocol, port)


def unpack_event(packed: bytes) -> Event | None:
    """Return the report that the programs wrote, of this version or another; None for a kind that only a newer one knows."""
    if len(packed) < SHORTEST_EVENT_BYTES:
        return None
    fields = EVENT.unpack(packed[: EVENT.size].ljust(EVENT.size, b"\0"))
    time_ns, source, destination, source_identity, destination_identity, provenance, length = fields[:7]
    sport, dport, endpoint, kind, reason, direction, protocol = fields[7:14]
    forward_flags, reply_flags, is_reply, audited, *counts, ifindex = fields[14:]
    if kind not in _KINDS:
        return None
    return Event(
        kind=EventKind(kind),
        reason=reason,
        direction=direction,
        protocol=protocol,
        source=unpack_address(source),
        destination=unpack_address(destination),
        sport=int.from_bytes(sport, "big"),
        dport=int.from_bytes(dport, "big"),
        source_identity=source_identity,
        destination_identity=destination_identity,
        endpoint=endpoint,
        provenance=provenance,
        length_bytes=length,
        time_ns=time_ns,
        tcp_flags=(forward_flags, reply_flags),
        is_reply=bool(is_reply),
        audited=bool(audited),
        by_glass=audited == BY_GLASS,
        packets=(counts[0], counts[1]),
        bytes=(counts[2], counts[3]),
        ifindex=ifindex,
    )


def source_text() -> str:
    """Return the C of all programs as one text, headers inlined: BCC rewrites map accesses in the main file only."""
    seen: set[Path] = set()

    def expand(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)
        lines = path.read_text().splitlines()
        return "\n".join(expand_line(path, line) for line in lines if line != "#pragma once")

    def expand_line(path: Path, line: str) -> str:
        if not line.startswith('#include "'):
            return line
        name = line.split('"')[1]
        inside = path.parent if (path.parent / name).exists() else BPF_DIRECTORY
        return expand(inside / name)

    return "\n".join(expand(BPF_DIRECTORY / name) for name in ("pod.c", "host.c", "overlay.c")) + "\n"


def source_hash() -> bytes:
    """Return what tells one version of the programs from another."""
    return hashlib.sha256(source_text().encode()).digest()
