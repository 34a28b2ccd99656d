"""What the pinned maps mean: endpoints, policies, addresses and settings, and the epochs that make changes count.

Order is everything here: the rows first, the epoch after, because a program that reads the new epoch must find the new rows.
An endpoint's epoch grows with its own rows; the address epoch grows when an address changes its endpoint or identity.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map, create_map, open_map, open_or_create
from services.datapath.operations import EndpointEntry, KernelError, PolicyCounters, PolicyKey, PolicyValue

_ZERO = struct.pack("=I", 0)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


class Tables:
    """All pinned maps of one node."""

    def __init__(self, pin_directory: Path, flows: int, addresses: int) -> None:
        self._directory = pin_directory
        self._specs = abi.map_specs(flows, addresses)
        self.maps: dict[str, Map] = {}
        self._policy_maps: dict[int, Map] = {}

    def open(self) -> None:
        """Open or make every map."""
        for name, spec in self._specs.items():
            if name not in self.maps:
                self.maps[name] = open_or_create(self._directory / f"{abi.PIN_PREFIX}{name}", name, spec)

    def close(self) -> None:
        """Close descriptors; the pins keep the maps."""
        for table in (*self.maps.values(), *self._policy_maps.values()):
            table.close()
        self.maps.clear()
        self._policy_maps.clear()

    # settings and versions

    def version(self) -> tuple[int, bytes]:
        """Return schema version and source hash of the programs that stand, or (0, ...) if none were finished."""
        schema, _, source = abi.ABI.unpack(self.maps["abi"].get(_ZERO) or bytes(abi.ABI.size))
        return schema, source

    def set_version(self, source: bytes) -> None:
        """Record that programs of this source stand complete."""
        self.maps["abi"].put(_ZERO, abi.ABI.pack(abi.SCHEMA_VERSION, 0, source))

    def set_settings(self, host_ifindex: int, times: tuple[int, ...], events_per_second: tuple[int, int]) -> None:
        """Tell the programs; the address epoch stays what it is."""
        epoch = self._settings()[0]
        self._write_settings((epoch, host_ifindex, *times, *events_per_second, 0))

    def _settings(self) -> tuple[int, ...]:
        return abi.SETTINGS.unpack(self.maps["settings"].get(_ZERO) or bytes(abi.SETTINGS.size))

    def _write_settings(self, fields: tuple[int, ...]) -> None:
        packed = abi.SETTINGS.pack(*fields)
        if packed != self.maps["settings"].get(_ZERO):
            self.maps["settings"].put(_ZERO, packed)

    def bump_addresses(self) -> None:
        """Have every flow judged anew."""
        epoch, *rest = self._settings()
        self._write_settings(((epoch + 1) & 0xFFFFFFFF, *rest))

    # endpoints

    def state(self, endpoint: int) -> tuple[int, ...]:
        """Return epoch, ifindex, identity, flags, both default denies, and the two MACs."""
        return abi.ENDPOINT_STATE.unpack(self.maps["endpoint_state"].get(_number(endpoint)) or b"")

    def _write_state(self, endpoint: int, fields: tuple[int | bytes, ...]) -> None:
        self.maps["endpoint_state"].put(_number(endpoint), abi.ENDPOINT_STATE.pack(*fields))

    def bump_endpoint(self, endpoint: int) -> None:
        """Have the endpoint's flows judged anew."""
        epoch, *rest = self.state(endpoint)
        self._write_state(endpoint, ((epoch + 1) & 0xFFFFFFFF, *rest))

    def addresses_by_endpoint(self) -> dict[int, list[Address]]:
        """Return which local addresses stand, by endpoint."""
        found: dict[int, list[Address]] = {}
        for key, value in self.maps["endpoints"].items().items():
            found.setdefault(struct.unpack("=I", value)[0], []).append(abi.unpack_address(key))
        return found

    def endpoints(self) -> dict[int, EndpointEntry]:
        """Return every endpoint that stands."""
        addresses = self.addresses_by_endpoint()
        found: dict[int, EndpointEntry] = {}
        for key, packed in self.maps["endpoint_state"].items().items():
            _, ifindex, identity, flags, ingress, egress, pod_mac, host_mac, _ = abi.ENDPOINT_STATE.unpack(packed)
            if flags & abi.ENDPOINT_PRESENT:
                number = struct.unpack("=I", key)[0]
                mine = tuple(sorted(addresses.get(number, [])))
                held = bool(flags & abi.ENDPOINT_HELD)
                found[number] = EndpointEntry(
                    number, ifindex, identity, host_mac, pod_mac, mine, held, ingress, egress
                )
        return found

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the entry, then its addresses, then the epochs."""
        epoch, *before = self.state(entry.endpoint)
        flags = abi.ENDPOINT_PRESENT | (abi.ENDPOINT_HELD if entry.held else 0)
        after = [entry.ifindex, entry.identity, flags, entry.ingress_default_deny, entry.egress_default_deny]
        after += [entry.pod_mac, entry.host_mac, 0]
        moved = self._set_addresses(entry.endpoint, {abi.pack_address(address) for address in entry.addresses})
        if after != before:
            self._write_state(entry.endpoint, (epoch, *after))
        if moved or after[1] != before[1] or not before[2] & abi.ENDPOINT_PRESENT:
            self.bump_addresses()
        self.bump_endpoint(entry.endpoint)

    def _set_addresses(self, endpoint: int, wanted: set[bytes]) -> bool:
        table, mine = self.maps["endpoints"], _number(endpoint)
        have = {key for key, value in table.items().items() if value == mine}
        table.put_all(dict.fromkeys(sorted(wanted - have), mine))
        gone = table.delete_all(sorted(have - wanted))
        return bool(gone or wanted - have)

    def delete_endpoint(self, endpoint: int) -> None:
        """Take the addresses away, then the entry; the epoch stays, so that the number can be used again."""
        epoch = self.state(endpoint)[0]
        gone = self._set_addresses(endpoint, set())
        blank = (0, 0, 0, 0, 0, bytes(6), bytes(6), 0)
        if gone or self.state(endpoint)[1:] != blank:
            self._write_state(endpoint, (epoch, *blank))
            self.bump_endpoint(endpoint)
            self.bump_addresses()

    # policies

    def policy_pin(self, endpoint: int) -> Path:
        """Return where the endpoint's policy map is pinned."""
        return self._directory / f"cilium_policy_{endpoint:05d}"

    def _policy_map(self, endpoint: int, create: bool) -> Map | None:
        if endpoint in self._policy_maps:
            return self._policy_maps[endpoint]
        pin, name = self.policy_pin(endpoint), f"policy_{endpoint:05d}"
        table = open_map(pin, name, abi.POLICY_MAP)
        if table is None and create:
            table = create_map(pin, name, abi.POLICY_MAP)
        if table is None:
            return None
        # also what a process that was killed between pinning and this would have done
        self.maps["policies"].put(_number(endpoint), struct.pack("=i", table.fd))
        self._policy_maps[endpoint] = table
        return table

    def policy(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map; empty when it has none."""
        table = self._policy_map(endpoint, create=False)
        rows = table.items() if table is not None else {}
        return {abi.unpack_policy_key(key): abi.unpack_policy_value(value) for key, value in rows.items()}

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the rows, then the epoch."""
        refused = [key for key, value in puts.items() if value.proxy_port]
        if refused:
            raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
        table = self._policy_map(endpoint, create=True)
        assert table is not None
        try:
            table.delete_all(abi.pack_policy_key(key) for key in deletes)
            table.put_all({abi.pack_policy_key(key): abi.pack_policy_value(value) for key, value in puts.items()})
        finally:
            self.bump_endpoint(endpoint)

    def delete_policy(self, endpoint: int) -> None:
        """Remove the endpoint's policy map."""
        self.maps["policies"].delete(_number(endpoint))
        table = self._policy_maps.pop(endpoint, None)
        if table is not None:
            table.close()
        self.policy_pin(endpoint).unlink(missing_ok=True)
        self.bump_endpoint(endpoint)

    # addresses of everybody else

    def addresses(self) -> dict[Prefix, int]:
        """Return prefix to identity."""
        exact = {abi.unpack_address(key).prefix: value for key, value in self.maps["ipcache"].items().items()}
        ranges = {abi.unpack_prefix(key): value for key, value in self.maps["ipcache_prefix"].items().items()}
        return {prefix: struct.unpack("=I", value)[0] for prefix, value in {**exact, **ranges}.items()}

    def apply_addresses(self, puts: Mapping[Prefix, int], deletes: Iterable[Prefix]) -> None:
        """Change the rows; the address epoch grows unless every row was there already."""
        changed = self._changed(puts)
        gone = [prefix for prefix in deletes if prefix not in puts]
        removed = 0
        try:
            for name, is_host in (("ipcache", True), ("ipcache_prefix", False)):
                removed += self.maps[name].delete_all(_row(prefix) for prefix in gone if prefix.is_host is is_host)
                self.maps[name].put_all({_row(p): _number(i) for p, i in changed.items() if p.is_host is is_host})
        finally:
            if changed or removed:
                self.bump_addresses()

    def _changed(self, puts: Mapping[Prefix, int]) -> dict[Prefix, int]:
        if len(puts) > 64:
            have = self.addresses()
        else:
            have = {prefix: identity for prefix in puts if (identity := self._identity(prefix)) is not None}
        return {prefix: identity for prefix, identity in puts.items() if have.get(prefix) != identity}

    def _identity(self, prefix: Prefix) -> int | None:
        table, row = self.maps["ipcache" if prefix.is_host else "ipcache_prefix"], _row(prefix)
        value = table.get(row)
        # the trie answers with the longest match, which may be a shorter prefix: ask it for the row itself
        if value is None or (not prefix.is_host and not self._has_prefix(row)):
            return None
        return int(struct.unpack("=I", value)[0])

    def _has_prefix(self, row: bytes) -> bool:
        return row in self.maps["ipcache_prefix"].items()

    def lookup_address(self, address: Address) -> tuple[Prefix, int] | None:
        """Return what the programs would find."""
        value = self.maps["ipcache"].get(abi.pack_address(address))
        if value is not None:
            return address.prefix, struct.unpack("=I", value)[0]
        prefixes = map(abi.unpack_prefix, self.maps["ipcache_prefix"].items())
        covering = sorted((prefix for prefix in prefixes if address in prefix), key=lambda prefix: prefix.length)
        if not covering:
            return None
        identity = self._identity(covering[-1])
        return (covering[-1], identity) if identity is not None else None

    def events_lost(self) -> int:
        """Return how many reports were not delivered."""
        lost = 0
        for kind in (0, 1):
            for value in self.maps["event_budget"].get_per_cpu(_number(kind)):
                lost += struct.unpack("=QQII", value)[1]
        return lost


def _row(prefix: Prefix) -> bytes:
    return abi.pack_address(prefix.address) if prefix.is_host else abi.pack_prefix(prefix)
