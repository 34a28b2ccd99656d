"""What was ordered of a policy map, in memory and as a file: the service can tell its own entries from foreign ones after any crash."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping

import msgspec

from fairlead import codec
from services.datapath.model import PolicyMap
from services.datapath.operations import PolicyKey, PolicyValue

_PACKED_KEPT = 4
_ENTRY = struct.Struct(">IHBB?BHI")
"""The fourth is the direction in bit 0 and the bits of a block of ports above it."""

Entry = tuple[PolicyKey, PolicyValue]
Entries = Mapping[PolicyKey, PolicyValue]


class Ledger(msgspec.Struct, frozen=True):
    """What was ordered of one policy map: the policy that stands, and entries of orders that were given but not confirmed."""

    policy: PolicyMap | None = None
    others: frozenset[Entry] = frozenset()

    def ordered(self) -> set[Entry]:
        """Return every entry that may stand in the kernel because we ordered it."""
        return {*(self.policy.entries.items() if self.policy else ()), *self.others}


class _LedgerFile(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: int
    applied: bytes
    others: bytes
    identity: int = 0
    revision: int = 0
    ingress_default_deny: int = 0
    egress_default_deny: int = 0
    audit_ingress: bool = False
    audit_egress: bool = False
    trace: str = ""
    is_applied: bool = False


def _pack(entries: Iterable[Entry]) -> bytes:
    return b"".join(
        _ENTRY.pack(
            *(key.identity, key.port, key.protocol, key.direction | key.port_bits << 1),
            *(v.deny, v.precedence, v.proxy_port, v.provenance),
        )
        for key, v in entries
    )


def _unpack(data: bytes) -> Iterable[Entry]:
    for identity, port, protocol, flags, deny, precedence, proxy_port, provenance in _ENTRY.iter_unpack(data):
        key = PolicyKey(identity, port, protocol, flags & 1, flags >> 1)
        yield key, PolicyValue(deny, precedence, proxy_port, provenance)


class Packed:
    """The bytes of the entries packed last: many endpoints share one policy and one order, and packing costs more than writing."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}

    def bytes_of(self, entries: Entries | frozenset[Entry]) -> bytes:
        """Return the packed entries; neither policies nor orders ever change, so the same object means the same entries."""
        known = self._known.get(id(entries))
        if known is None or known[0] is not entries:
            items: Collection[Entry] = entries.items() if isinstance(entries, Mapping) else entries
            known = self._known[id(entries)] = (entries, _pack(items))
            while len(self._known) > _PACKED_KEPT:
                del self._known[next(iter(self._known))]
        return known[1]


def pack_ledger(endpoint: int, ledger: Ledger, packed: Packed) -> bytes:
    """Return the ledger of an endpoint as a file."""
    policy, others = ledger.policy, packed.bytes_of(ledger.others)
    file = _LedgerFile(endpoint=endpoint, applied=b"", others=others)
    if policy is not None:
        file = _LedgerFile(
            endpoint=endpoint,
            applied=packed.bytes_of(policy.entries),
            others=others,
            identity=policy.identity,
            revision=policy.revision,
            ingress_default_deny=policy.ingress_default_deny,
            egress_default_deny=policy.egress_default_deny,
            audit_ingress=policy.audit_ingress,
            audit_egress=policy.audit_egress,
            trace=policy.trace,
            is_applied=True,
        )
    return codec.pack(msgspec.structs.asdict(file))


def unpack_ledger(data: bytes, shared: dict[bytes, Entries]) -> tuple[int, Ledger]:
    """Return the ledger in a file; endpoints with the same policy share its entries, as they did when it was written."""
    file = codec.decode(data, _LedgerFile)
    if not file.is_applied:
        return file.endpoint, Ledger(None, frozenset(_unpack(file.others)))
    if file.applied not in shared:
        shared[file.applied] = dict(_unpack(file.applied))
    policy = PolicyMap(
        identity=file.identity,
        revision=file.revision,
        entries=shared[file.applied],
        ingress_default_deny=file.ingress_default_deny,
        egress_default_deny=file.egress_default_deny,
        audit_ingress=file.audit_ingress,
        audit_egress=file.audit_egress,
        trace=file.trace,
    )
    return file.endpoint, Ledger(policy, frozenset(_unpack(file.others)))
