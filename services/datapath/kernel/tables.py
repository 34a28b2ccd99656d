"""What the pinned maps mean: endpoints, policies, addresses and settings, and the epochs that make changes count.

Order is everything here: the rows first, the epoch after, because a program that reads the new epoch must find the new
rows. An endpoint's epoch grows with its own rows; the address epoch when an address changes its endpoint or identity.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.address import Address, Prefix
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel import abi, glass, masquerade, syscalls
from services.datapath.kernel.ipcache import AddressTables
from services.datapath.kernel.maps import Map, open_or_create
from services.datapath.kernel.migration import Migration, check_schema
from services.datapath.kernel.policies import PolicyTables
from services.datapath.kernel.tunnels import TunnelTable
from services.datapath.operations import EndpointEntry, KernelError, PolicyKey, PolicyValue
from services.datapath.outside import Masquerade
from services.datapath.reports import PacketCounter

_ZERO = struct.pack("=I", 0)
_NUMBER = struct.Struct("=I")
_FLAGS_AT = abi.EndpointState._fields.index("flags")


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


class Tables:
    """All pinned maps of one node."""

    def __init__(self, pin_directory: Path, flows: int, addresses: int, masquerades: int = 1) -> None:
        self._directory = pin_directory
        self._specs = abi.map_specs(flows, addresses, masquerades)
        self.maps: dict[str, Map] = {}
        self.policies = PolicyTables(pin_directory)
        self.migration = Migration(pin_directory, self._specs)

    def open(self) -> tuple[str, ...]:
        """Open or make every map; return those that had to be moved to another shape. Raises KernelError for unknown ones."""
        self._open({"abi": self._specs["abi"]})
        check_schema(*self.version()[:2])
        moved = self.migration.begin()
        self._open(self._specs)
        self.policies.open(self.maps["policies"], self.maps["policy_ranges"])
        return moved

    def _open(self, specs: Mapping[str, abi.MapSpec]) -> None:
        for name, spec in specs.items():
            pin = self.migration.where(name)
            if name in self.migration.former and name in self.maps:
                self.maps.pop(name).close()
            if name not in self.maps:
                self.maps[name] = open_or_create(pin, name, spec)
            elif not pin.exists():  # somebody took the name away
                syscalls.object_pin(self.maps[name].fd, str(pin))

    def close(self) -> None:
        """Close descriptors; the pins keep the maps."""
        self.policies.close()
        for table in self.maps.values():
            table.close()
        self.maps.clear()

    # settings and versions

    def version(self) -> tuple[int, int, bytes]:
        """Return schema, its oldest reader and source hash of the programs that stand, or zeros if none were finished."""
        schema, oldest_reader, source = abi.ABI.unpack(self.maps["abi"].get(_ZERO) or bytes(abi.ABI.size))
        return schema, oldest_reader, source

    def unset_version(self) -> None:
        """Record that programs of another source may be pinned from now on, so that whoever starts next does not take them for its own."""
        self.maps["abi"].put(_ZERO, abi.ABI.pack(*self.version()[:2], bytes(32)))

    def set_version(self, source: bytes) -> None:
        """Record that programs of this source stand complete."""
        self.maps["abi"].put(_ZERO, abi.ABI.pack(abi.SCHEMA_VERSION, abi.OLDEST_READER, source))

    def set_settings(self, settings: abi.Settings) -> None:
        """Tell the programs; the address epoch, masquerade and whether the node is filtered stay what they are."""
        stands = self.settings()
        kept = {"address_epoch": stands.address_epoch, "nat_first_port": stands.nat_first_port}
        features = masquerade.keep(stands, settings) | stands.features & abi.FEATURE_FIREWALL
        kept |= {"nat_last_port": stands.nat_last_port, "features": features}
        self._write_settings(settings._replace(**kept))

    # masquerade: rows first, settings after

    @property
    def outer_ends(self) -> masquerade.MasqueradeTables:
        """Return the tables of masquerade."""
        return masquerade.MasqueradeTables(self.maps)

    def set_masquerade(self, wanted: Masquerade, addresses: Mapping[masquerade.WayOut, Address]) -> None:
        """Tell the programs what leaves as the node's, and as whom."""
        self.outer_ends.set_addresses(addresses)
        self.outer_ends.set_exclusions(wanted.exclusions)
        self._write_settings(masquerade.settings_with(self.settings(), wanted))

    def standing_masquerade(self) -> Masquerade:
        """Return what the programs are told."""
        return masquerade.standing(self.settings(), self.outer_ends)

    def set_feature(self, feature: int, *, on: bool) -> None:
        """Turn one feature on or off."""
        settings = self.settings()
        features = settings.features | feature if on else settings.features & ~feature
        self._write_settings(settings._replace(features=features))

    def settings(self) -> abi.Settings:
        """Return what the programs are told."""
        return abi.Settings(*abi.SETTINGS.unpack(self.maps["settings"].get(_ZERO) or bytes(abi.SETTINGS.size)))

    def _write_settings(self, settings: abi.Settings) -> None:
        packed = abi.SETTINGS.pack(*settings)
        if packed != self.maps["settings"].get(_ZERO):
            self.maps["settings"].put(_ZERO, packed)

    def bump_addresses(self) -> None:
        """Have every flow judged anew."""
        settings = self.settings()
        self._write_settings(settings._replace(address_epoch=(settings.address_epoch + 1) & 0xFFFFFFFF))

    # endpoints

    def state(self, endpoint: int) -> abi.EndpointState:
        """Return the endpoint's state; all zero where none stands. Raises KernelError."""
        packed = self.maps["endpoint_state"].get(_number(endpoint))
        if packed is None:
            raise KernelError(f"endpoint {endpoint} is out of range: numbers go from 1 to {abi.MAX_ENDPOINTS - 1}")
        return abi.EndpointState(*abi.ENDPOINT_STATE.unpack(packed))

    def _write_state(self, endpoint: int, state: abi.EndpointState) -> None:
        self.maps["endpoint_state"].put(_number(endpoint), abi.ENDPOINT_STATE.pack(*state))

    def bump_endpoint(self, endpoint: int) -> None:
        """Have the endpoint's flows judged anew."""
        state = self.state(endpoint)
        self._write_state(endpoint, state._replace(epoch=(state.epoch + 1) & 0xFFFFFFFF))

    def addresses_by_endpoint(self) -> dict[int, list[Address]]:
        """Return which local addresses stand, by endpoint."""
        found: dict[int, list[Address]] = {}
        for key, value in self.maps["endpoints"].items().items():
            found.setdefault(struct.unpack("=I", value)[0], []).append(abi.unpack_address(key))
        return found

    def endpoints(self) -> dict[int, EndpointEntry]:
        """Return every endpoint that stands, but for the node itself."""
        addresses = self.addresses_by_endpoint()
        found: dict[int, EndpointEntry] = {}
        for keys, values in self.maps["endpoint_state"].packed():
            states = zip(_NUMBER.iter_unpack(keys), abi.ENDPOINT_STATE.iter_unpack(values), strict=True)
            for (number,), fields in states:  # there is one for every number that an endpoint could have
                if fields[_FLAGS_AT] & abi.ENDPOINT_PRESENT and number != HOST_ENDPOINT:
                    found[number] = _entry(number, abi.EndpointState(*fields), addresses.get(number, []))
        return found

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the entry, then its addresses, then the epochs."""
        before = self.state(entry.endpoint)
        after = abi.EndpointState(
            before.epoch,
            entry.ifindex,
            entry.identity,
            _flags(entry),
            entry.ingress_default_deny,
            entry.egress_default_deny,
            entry.pod_mac,
            entry.host_mac,
        )
        if after != before:
            self._write_state(entry.endpoint, after)
        moved = self._set_addresses(entry.endpoint, {abi.pack_address(address) for address in entry.addresses})
        if moved or after.identity != before.identity:
            self.bump_addresses()
        self.bump_endpoint(entry.endpoint)

    def _set_addresses(self, endpoint: int, wanted: set[bytes]) -> bool:
        table, mine = self.maps["endpoints"], _number(endpoint)
        have = table.keys_of(endpoint)
        table.put_all(dict.fromkeys(sorted(wanted - have), mine))
        gone = table.delete_all(sorted(have - wanted))
        return bool(gone or wanted - have)

    def broken_glass(self) -> dict[int, int]:
        """Return until when somebody broke the glass, by endpoint number."""
        return glass.read(self.maps["break_glass"])

    def delete_endpoint(self, endpoint: int) -> None:
        """Take the addresses away, then the entry; the epoch stays, so that the number can be used again."""
        before = self.state(endpoint)
        glass.forget(self.maps["break_glass"], endpoint)
        blank = abi.EndpointState(before.epoch)
        gone = self._set_addresses(endpoint, set())
        if gone or before != blank:
            self._write_state(endpoint, blank)
            self.bump_endpoint(endpoint)
            self.bump_addresses()

    # policies and addresses: rows first, epoch after

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the endpoint's policy map, then the endpoint's epoch."""
        try:
            self.policies.change(endpoint, puts, deletes)
        finally:
            self.bump_endpoint(endpoint)

    def delete_policy(self, endpoint: int) -> None:
        """Remove the endpoint's policy map, then change the endpoint's epoch."""
        self.policies.delete(endpoint)
        self.bump_endpoint(endpoint)

    @property
    def ipcache(self) -> AddressTables:
        """Return the table of addresses."""
        return AddressTables(self.maps["ipcache"], self.maps["ipcache_prefix"])

    def apply_addresses(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> None:
        """Change address to identity; then the address epoch, unless nothing was different."""
        changed = True
        try:
            changed = self.ipcache.change(puts, deletes)
        finally:
            if changed:
                self.bump_addresses()

    def tunnels(self) -> dict[Prefix, Address]:
        """Return prefix to node."""
        return TunnelTable(self.maps["tunnels"]).all()

    def apply_tunnels(self, puts: Mapping[Prefix, Address], deletes: Iterable[Prefix]) -> None:
        """Change prefix to node; then the address epoch, because flows know which node they go to."""
        try:
            TunnelTable(self.maps["tunnels"]).change(puts, deletes)
        finally:
            self.bump_addresses()

    def counters(self) -> list[PacketCounter]:
        """Return the packets per reason and direction, over all processors."""
        found = []
        for index in range(self._specs["metrics"].entries):
            values = [struct.unpack("=QQ", value) for value in self.maps["metrics"].get_per_cpu(_number(index))]
            packets, length = (sum(part) for part in zip(*values, strict=True))
            if packets:
                found.append(PacketCounter(index >> 1, index & 1, packets, length))
        return found

    def events_lost(self) -> tuple[int, int]:
        """Return how many reports were above the ration, and how many found no room in the ring buffer."""
        kinds = range(self._specs["event_budget"].entries)
        values = [value for kind in kinds for value in self.maps["event_budget"].get_per_cpu(_number(kind))]
        losses = [(lost, no_room) for _, lost, _, no_room in map(struct.Struct("=QQII").unpack, values)]
        no_room = sum(no_room for _, no_room in losses)
        return sum(lost for lost, _ in losses) - no_room, no_room


def _flags(entry: EndpointEntry) -> int:
    held = abi.ENDPOINT_HELD if entry.held else 0
    audit_ingress = abi.ENDPOINT_AUDIT_INGRESS if entry.audit_ingress else 0
    audit_egress = abi.ENDPOINT_AUDIT_EGRESS if entry.audit_egress else 0
    return abi.ENDPOINT_PRESENT | held | audit_ingress | audit_egress


def _entry(number: int, state: abi.EndpointState, addresses: Iterable[Address]) -> EndpointEntry:
    return EndpointEntry(
        endpoint=number,
        ifindex=state.ifindex,
        identity=state.identity,
        host_mac=state.host_mac,
        pod_mac=state.pod_mac,
        addresses=tuple(sorted(addresses)),
        held=bool(state.flags & abi.ENDPOINT_HELD),
        ingress_default_deny=state.ingress_default_deny,
        egress_default_deny=state.egress_default_deny,
        audit_ingress=bool(state.flags & abi.ENDPOINT_AUDIT_INGRESS),
        audit_egress=bool(state.flags & abi.ENDPOINT_AUDIT_EGRESS),
    )
