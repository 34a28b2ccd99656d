"""The node itself as an endpoint in the maps: its addresses, its failsafe ports, its state, and the switch that makes programs look."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from fairlead.address import Address
from fairlead.schema.identity import HOST
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel import abi, links
from services.datapath.kernel.maps import Map
from services.datapath.kernel.netlink import Message, Netlink, body
from services.datapath.kernel.tables import Tables
from services.datapath.operations import EndpointEntry, KernelError

_THERE = struct.pack("=I", HOST_ENDPOINT)


class Firewall:
    """The node's own rows."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @property
    def is_on(self) -> bool:
        """Tell whether programs filter the node itself."""
        return bool(self._tables.settings().features & abi.FEATURE_FIREWALL)

    def entry(self) -> HostEntry | None:
        """Return how the node itself is filtered; None: it is not."""
        if not self.is_on:
            return None
        state = self._tables.state(HOST_ENDPOINT)
        return HostEntry(
            addresses=tuple(sorted(abi.unpack_address(key) for key in self._tables.maps["host_addresses"].items())),
            failsafe=frozenset(abi.unpack_failsafe(key) for key in self._tables.maps["failsafe"].items()),
            ingress_default_deny=state.ingress_default_deny,
            egress_default_deny=state.egress_default_deny,
            audit_ingress=bool(state.flags & abi.ENDPOINT_AUDIT_INGRESS),
            audit_egress=bool(state.flags & abi.ENDPOINT_AUDIT_EGRESS),
        )

    def put(self, entry: HostEntry) -> None:
        """Write the rows, failsafe ports first; then the switch, and last the epoch."""
        if self._tables.state(HOST_ENDPOINT).ifindex:
            raise KernelError(
                f"endpoint {HOST_ENDPOINT} is a workload, from a version that gave this number to workloads; host policies "
                f"need it: detach that workload and attach it again"
            )
        _bring(self._tables.maps["failsafe"], {abi.pack_failsafe(port): _THERE for port in entry.failsafe})
        _bring(self._tables.maps["host_addresses"], {abi.pack_address(one): _THERE for one in entry.addresses})
        self._tables.put_endpoint(_endpoint(entry))
        self._tables.set_feature(abi.FEATURE_FIREWALL, on=True)
        self._tables.bump_addresses()

    def delete(self) -> None:
        """Turn the switch off, then remove the rows; the address epoch has every flow judged anew."""
        self._tables.set_feature(abi.FEATURE_FIREWALL, on=False)
        for name in ("host_addresses", "failsafe"):
            _bring(self._tables.maps[name], {})
        self._tables.delete_endpoint(HOST_ENDPOINT)
        self._tables.delete_policy(HOST_ENDPOINT)
        self._tables.bump_addresses()


def _endpoint(entry: HostEntry) -> EndpointEntry:
    return EndpointEntry(
        endpoint=HOST_ENDPOINT,
        ifindex=0,
        identity=HOST,
        host_mac=bytes(6),
        pod_mac=bytes(6),
        addresses=(),  # they stand apart: see abi.h
        held=False,
        ingress_default_deny=entry.ingress_default_deny,
        egress_default_deny=entry.egress_default_deny,
        audit_ingress=entry.audit_ingress,
        audit_egress=entry.audit_egress,
    )


def _bring(table: Map, wanted: Mapping[bytes, bytes]) -> None:
    have = table.items()
    table.put_all({key: value for key, value in wanted.items() if have.get(key) != value})
    table.delete_all(sorted(have.keys() - wanted.keys()))


class FirewallCalls:
    """What a kernel is asked about the node itself."""

    _firewall: Firewall
    _uplinks: tuple[str, ...]

    @property
    def _wire(self) -> Netlink:
        raise NotImplementedError

    def _attach(self, ifindex: int, hook: int, program: str) -> None:
        raise NotImplementedError

    def own_addresses(self) -> tuple[Address, ...]:
        """Return every address of the node itself, link-local ones too, sorted; loopback's are left out."""
        return own_addresses(self._wire)

    def host(self) -> HostEntry | None:
        """Return how the node itself is filtered; None: it is not."""
        return self._firewall.entry()

    def put_host(self, entry: HostEntry) -> None:
        """Filter what the node itself receives and sends by the policy map of HOST_ENDPOINT. Flows are judged anew."""
        self._firewall.put(entry)
        self._guard_uplinks()

    def delete_host(self) -> None:
        """Filter the node itself no more, and remove its policy map."""
        self._firewall.delete()
        self._guard_uplinks()

    def _guard_uplinks(self) -> None:
        """Have what leaves by the uplinks looked at while the node itself is filtered, and only then."""
        for name in self._uplinks:
            ifindex = links.find_uplink(self._wire, name).ifindex
            if self._firewall.is_on:
                self._attach(ifindex, links.EGRESS, "to_uplink")
            elif links.attached(self._wire, ifindex, links.EGRESS) is not None:
                self._wire.send([links.detach(ifindex, links.EGRESS)])


def own_addresses(wire: Netlink) -> tuple[Address, ...]:
    """Return every address of the namespace's devices, link-local ones too, sorted; loopback's are left out."""
    found = set()
    for answer in wire.dump(Message(rtnl.RTM_GETADDR, body(ifaddrmsg, {}), "list addresses")):
        if answer["scope"] != rtnl.rt_scope["host"]:
            found.add(Address(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")))
    return tuple(sorted(found))
