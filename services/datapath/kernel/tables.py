"""What the pinned maps mean: endpoints, policies, addresses and settings, and the epochs that make changes count.

Order is everything here: the rows first, the epoch after, because a program that reads the new epoch must find the new rows.
An endpoint's epoch grows with its own rows; the address epoch grows when an address changes its endpoint or identity.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairlead.address import Address, Prefix
from services.datapath.kernel import abi
from services.datapath.kernel.maps import Map, create_map, open_map, open_or_create
from services.datapath.operations import EndpointEntry, KernelError, PolicyCounters, PolicyKey, PolicyValue

_ZERO = struct.pack("=I", 0)
_FEW = 256


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

    def _state(self, endpoint: int) -> abi.EndpointState:
        packed = self.maps["endpoint_state"].get(_number(endpoint))
        if packed is None:
            raise KernelError(f"endpoint {endpoint} is out of range: numbers go from 1 to {abi.MAX_ENDPOINTS - 1}")
        return abi.EndpointState(*abi.ENDPOINT_STATE.unpack(packed))

    def _write_state(self, endpoint: int, state: abi.EndpointState) -> None:
        self.maps["endpoint_state"].put(_number(endpoint), abi.ENDPOINT_STATE.pack(*state))

    def bump_endpoint(self, endpoint: int) -> None:
        """Have the endpoint's flows judged anew."""
        state = self._state(endpoint)
        self._write_state(endpoint, state._replace(epoch=(state.epoch + 1) & 0xFFFFFFFF))

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
            state = abi.EndpointState(*abi.ENDPOINT_STATE.unpack(packed))
            if state.flags & abi.ENDPOINT_PRESENT:
                number = int(struct.unpack("=I", key)[0])
                found[number] = _entry(number, state, addresses.get(number, []))
        return found

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write the entry, then its addresses, then the epochs."""
        before = self._state(entry.endpoint)
        after = abi.EndpointState(
            before.epoch,
            entry.ifindex,
            entry.identity,
            abi.ENDPOINT_PRESENT | (abi.ENDPOINT_HELD if entry.held else 0),
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
        have = {key for key, value in table.items().items() if value == mine}
        table.put_all(dict.fromkeys(sorted(wanted - have), mine))
        gone = table.delete_all(sorted(have - wanted))
        return bool(gone or wanted - have)

    def delete_endpoint(self, endpoint: int) -> None:
        """Take the addresses away, then the entry; the epoch stays, so that the number can be used again."""
        before = self._state(endpoint)
        blank = abi.EndpointState(before.epoch)
        gone = self._set_addresses(endpoint, set())
        if gone or before != blank:
            self._write_state(endpoint, blank)
            self.bump_endpoint(endpoint)
            self.bump_addresses()

    # policies

    def policy_pin(self, endpoint: int) -> Path:
        """Return where the endpoint's policy map is pinned."""
        return self._directory / f"cilium_policy_{endpoint:05d}"

    def _policy_map(self, endpoint: int) -> Map | None:
        if endpoint not in self._policy_maps:
            table = open_map(self.policy_pin(endpoint), f"policy_{endpoint:05d}", abi.POLICY_MAP)
            if table is None:
                return None
            # also what a process killed between pinning and this would have done
            self.maps["policies"].put(_number(endpoint), struct.pack("=i", table.fd))
            self._policy_maps[endpoint] = table
        return self._policy_maps[endpoint]

    def _policy_map_with_room(self, endpoint: int, more: int) -> Map:
        """Return the endpoint's policy map, made or exchanged for a larger one if `more` rows would crowd it.

        A hash of 16384 costs 256 KiB empty, and most endpoints have a dozen rows. The exchange is atomic for the programs.
        """
        table = self._policy_map(endpoint)
        rows = table.items() if table is not None else {}
        wanted = len(rows) + more
        size = next((size for size in abi.POLICY_SIZES if wanted * 4 <= size * 3), abi.POLICY_ENTRIES)
        if table is not None and table.spec.entries >= size:
            return table
        larger = self._exchange_policy_map(endpoint, size, rows)
        if table is not None:
            table.close()
        return larger

    def _exchange_policy_map(self, endpoint: int, size: int, rows: Mapping[bytes, bytes]) -> Map:
        pin = self.policy_pin(endpoint)
        new = pin.with_name(pin.name + "_new")
        new.unlink(missing_ok=True)
        table = create_map(new, f"policy_{endpoint:05d}", dataclasses.replace(abi.POLICY_MAP, entries=size))
        table.put_all(rows)
        new.rename(pin)
        self.maps["policies"].put(_number(endpoint), struct.pack("=i", table.fd))
        self._policy_maps[endpoint] = table
        return table

    def policy(self, endpoint: int) -> dict[PolicyKey, tuple[PolicyValue, PolicyCounters]]:
        """Return the endpoint's policy map; empty when it has none."""
        table = self._policy_map(endpoint)
        rows = table.items() if table is not None else {}
        return {abi.unpack_policy_key(key): abi.unpack_policy_value(value) for key, value in rows.items()}

    def apply_policy(self, endpoint: int, puts: Mapping[PolicyKey, PolicyValue], deletes: Iterable[PolicyKey]) -> None:
        """Change the rows, then the epoch."""
        refused = [key for key, value in puts.items() if value.proxy_port]
        if refused:
            raise KernelError(f"{refused[0]} asks for an L7 proxy, which this datapath does not have")
        # denies come first and go last, so that a change that breaks off lets through less, not more
        ordered = sorted(puts.items(), key=lambda row: not row[1].deny)
        rows = {abi.pack_policy_key(key): abi.pack_policy_value(value) for key, value in ordered}
        gone = [row for key in deletes if (row := abi.pack_policy_key(key)) not in rows]
        table = self._policy_map_with_room(endpoint, len(rows))
        try:
            self._change_policy(table, rows, gone)
        finally:
            self.bump_endpoint(endpoint)

    def _change_policy(self, table: Map, rows: Mapping[bytes, bytes], gone: list[bytes]) -> None:
        try:
            table.put_all(rows)
        except KernelError:
            # what goes may be what makes room
            table.delete_all(gone)
            table.put_all(rows)
        denies = {row for row in gone if (table.get(row) or b"\0\0\0")[2] & 1}
        table.delete_all(sorted(gone, key=lambda row: row in denies))

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
        """Change the rows; the address epoch grows unless nothing was different."""
        deletes = list(deletes)
        changed = 0
        try:
            for name, is_host in (("ipcache", True), ("ipcache_prefix", False)):
                rows = {
                    _row(prefix): _number(identity) for prefix, identity in puts.items() if prefix.is_host is is_host
                }
                gone = [_row(prefix) for prefix in deletes if prefix.is_host is is_host]
                changed += self._change_rows(self.maps[name], rows, gone)
        finally:
            if changed:
                self.bump_addresses()

    def _change_rows(self, table: Map, puts: Mapping[bytes, bytes], deletes: Iterable[bytes]) -> int:
        """Change the rows; return how many were different."""
        have = self._rows(table, puts)
        new = {row: value for row, value in puts.items() if have.get(row) != value}
        table.put_all(new)
        return len(new) + table.delete_all(row for row in deletes if row not in puts)

    def _rows(self, table: Map, keys: Iterable[bytes]) -> Mapping[bytes, bytes]:
        asked = list(keys)
        # a trie answers with the longest match, which may be another row: only its list tells what it holds
        if asked and (table.spec.kind == "lpm_trie" or len(asked) > _FEW):
            return table.items()
        return {key: value for key in asked if (value := table.get(key)) is not None}

    def lookup_address(self, address: Address) -> tuple[Prefix, int] | None:
        """Return what the programs would find."""
        value = self.maps["ipcache"].get(abi.pack_address(address))
        if value is not None:
            return address.prefix, struct.unpack("=I", value)[0]
        rows = self.maps["ipcache_prefix"].items()
        by_prefix = {prefix: value for row, value in rows.items() if address in (prefix := abi.unpack_prefix(row))}
        if not by_prefix:
            return None
        longest = max(by_prefix, key=lambda prefix: prefix.length)
        return longest, int(struct.unpack("=I", by_prefix[longest])[0])

    def events_lost(self) -> int:
        """Return how many reports were not delivered."""
        lost = 0
        for kind in (0, 1):
            for value in self.maps["event_budget"].get_per_cpu(_number(kind)):
                lost += struct.unpack("=QQII", value)[1]
        return lost


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
    )


def _row(prefix: Prefix) -> bytes:
    return abi.pack_address(prefix.address) if prefix.is_host else abi.pack_prefix(prefix)
