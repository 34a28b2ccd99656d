"""Policies, identities and endpoints by chance, put into the kernel and into the twin alike."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field, replace
from random import Random

from fairlead.address import Address, Family, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort, HostEntry
from services.datapath.kernel import abi
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.twin.machine import Machine
from services.datapath.operations import EndpointEntry, PolicyKey, PolicyValue
from services.datapath.outside import Masquerade
from tests.fuzz.packets.frames import OUTER_PORTS
from tests.fuzz.packets.places import OTHER_NODE
from tests.kernel.rig import NODE as NODE_ADDRESSES

IDENTITIES = (1001, 1002, 1003)
FAR_IDENTITIES = (2, 2001, (1 << 24) + 5)
PREFIXES = tuple(
    Prefix(text)
    for text in (
        *("198.51.100.0/24", "198.51.0.0/16", "2001:db8:7::/48", "192.0.2.2/32"),
        *("10.7.1.0/24", "10.7.1.5/32", "fd07:1::/64", "fd07:1::6/128"),
    )
)
OTHERS = tuple(Prefix(address) for address in OTHER_NODE.values())
TUNNELLED = (*OTHERS, *(Prefix(text) for text in ("10.7.1.0/24", "fd07:1::/64", "10.7.1.6/32", "fd07:1::6/128")))
NODE = tuple(Prefix(text) for text in ("192.0.2.1/32", "2001:db8::1/128"))
_HOST, _REMOTE_NODE = 1, 6
_DENIALS_S = 0.03
"""For longer the programs remember no denial, which the twin does not know."""
_PROTOCOLS = (6, 6, 17, 132, 1, 58)
_PORTS = (80, 81, 443, 1000, 0, 0, 0)
_FAILSAFE = (80, 443, 1000, 1001)
_BLOCKS = ((80, 15), (80, 12), (0, 4), (4096, 4), (992, 11), (1000, 16))


@dataclass
class Rows:
    """What stands at this moment."""

    entries: dict[int, EndpointEntry] = field(default_factory=dict)
    policies: dict[int, dict[PolicyKey, PolicyValue]] = field(default_factory=dict)
    identities: dict[Prefix, int] = field(default_factory=dict)
    host: HostEntry | None = None
    tunnels: dict[Prefix, Address] = field(default_factory=dict)


def some_policy(chance: Random) -> dict[PolicyKey, PolicyValue]:
    """Return a policy; a third of them let nearly everything pass, so that there is something to talk about."""
    found: dict[PolicyKey, PolicyValue] = {}
    if chance.random() < 0.35:
        found |= {PolicyKey(0, 0, 0, direction): _value(chance, deny=0.0) for direction in (0, 1)}
    blocks: list[PolicyKey] = []
    for _ in range(chance.randrange(14)):
        peer, direction = chance.choice((0, 0, 1, _REMOTE_NODE, *IDENTITIES, *FAR_IDENTITIES)), chance.randrange(2)
        protocol = chance.choice((0, *_PROTOCOLS, *_PROTOCOLS))
        key = PolicyKey(peer, chance.choice(_PORTS) if protocol else 0, protocol, direction)
        if protocol and chance.random() < 0.25:
            port, bits = chance.choice(_BLOCKS)
            key = PolicyKey(peer, port, protocol, direction, bits)
            if any(_overlap(key, other) for other in blocks):
                continue
            blocks.append(key)
        found[key] = _value(chance, deny=0.25)
    if chance.random() < 0.1:
        found[PolicyKey(0, 80, 6, chance.randrange(2))] = PolicyValue(proxy_port=15001, provenance=7)
    return found


def _overlap(one: PolicyKey, other: PolicyKey) -> bool:
    bits = min(one.port_bits, other.port_bits)
    alike = (one.identity, one.protocol, one.direction) == (other.identity, other.protocol, other.direction)
    return alike and one.port >> 16 - bits == other.port >> 16 - bits


def _value(chance: Random, deny: float) -> PolicyValue:
    return PolicyValue(
        deny=chance.random() < deny,
        precedence=chance.choice((0, 0, 0, 1, 255)),
        provenance=chance.randrange(1, 1 << 20),
    )


def _audited(entry: EndpointEntry, chance: Random) -> EndpointEntry:
    return replace(entry, audit_ingress=chance.random() < 0.2, audit_egress=chance.random() < 0.2)


def _some_host(chance: Random) -> HostEntry:
    """Return how the node itself is filtered; it may not know all of its addresses yet, or have one more."""
    addresses = {Address(address) for address in NODE_ADDRESSES.values()}
    if chance.random() < 0.2:
        addresses.pop()
    if chance.random() < 0.2:
        addresses.add(Address("203.0.113.9"))
    ports = {FailsafePort(chance.randrange(2), chance.choice((6, 17)), chance.choice(_FAILSAFE)) for _ in range(4)}
    silent = chance.randrange(99), chance.randrange(99)
    audited = chance.random() < 0.2, chance.random() < 0.2
    return HostEntry(tuple(sorted(addresses)), frozenset(ports), *silent, *audited)


class Both:
    """The kernel and its twin, told the same."""

    def __init__(self, kernel: LinuxKernel, machine: Machine, entries: dict[int, EndpointEntry]) -> None:
        self._kernel, self._machine, self._begun = kernel, machine, entries
        stands = {endpoint: dict.fromkeys(kernel.policy(endpoint), PolicyValue()) for endpoint in entries}
        self.rows = Rows(policies=stands, identities=kernel.addresses())

    def begin(self, chance: Random) -> None:
        """Make everything anew."""
        for endpoint in self._begun:
            self._put(_audited(replace(self._begun[endpoint], identity=IDENTITIES[endpoint - 1]), chance))
            self._put_policy(endpoint, some_policy(chance))
        self._put_identities(chance)
        self._put_tunnels(chance)
        self._put_outside(chance)
        self._put_host(chance, 0.6)
        table = self._kernel._tables.maps["break_glass"]
        table.delete_all(table.items())
        self._machine.rows.glass = {}

    def change(self, chance: Random) -> None:
        """Change one thing."""
        if chance.random() < 0.25:
            chance.choice((self._put_tunnels, self._put_outside, *(self._change_host,) * 4))(chance)
            return
        endpoint = chance.choice(sorted(self._begun))
        entry = self.rows.entries.get(endpoint) or self._begun[endpoint]
        how = chance.random()
        if how < 0.35:
            self._put_policy(endpoint, some_policy(chance))
        elif how < 0.5:
            self._put(replace(entry, held=not entry.held))
        elif how < 0.58:
            self._put(_audited(entry, chance))
        elif how < 0.65:
            self._put(replace(entry, identity=chance.choice(IDENTITIES), ingress_default_deny=chance.randrange(99)))
        elif how < 0.8:
            self._put(replace(entry, addresses=self._some_addresses(endpoint, chance)))
        elif how < 0.85:
            self._break_glass(chance)
        elif how < 0.9:
            self._kernel.delete_endpoint(endpoint)
            self._machine.rows.forget_endpoint(endpoint)
            self.rows.entries.pop(endpoint, None)
        else:
            self._put_identities(chance)

    def _break_glass(self, chance: Random) -> None:
        """Make everybody's glass whole again, but that of one: for hours, or over by now."""
        table = self._kernel._tables.maps["break_glass"]
        table.delete_all(table.items())
        number, lasts = chance.choice((0, HOST_ENDPOINT, *self._begun)), chance.random() < 0.7
        table.put(number.to_bytes(4, sys.byteorder), abi.BREAK_GLASS.pack((1 << 62) if lasts else 1))
        self._machine.rows.glass = {number: math.inf if lasts else -1.0}
        time.sleep(_DENIALS_S)

    def _change_host(self, chance: Random) -> None:
        if self.rows.host is not None and chance.random() < 0.5:
            self._put_policy(HOST_ENDPOINT, some_policy(chance))
        else:
            self._put_host(chance, 0.8)

    def _put_outside(self, chance: Random) -> None:
        """Masquerade in both families, in one or in none; few ports, so that they run out."""
        families = frozenset(family for family in Family if chance.random() < 0.6)
        excluded = frozenset(prefix for prefix in PREFIXES if chance.random() < 0.2)
        own = tuple(Address(address) for address in NODE_ADDRESSES.values())
        wanted = Masquerade(families, *OUTER_PORTS, excluded, own)
        self._kernel.set_masquerade(wanted)
        self._machine.outside.put(wanted)

    def _put_tunnels(self, chance: Random) -> None:
        """Have another node behind tunnels, at one of its addresses, with all of its prefixes or fewer; or none."""
        wanted: dict[Prefix, Address] = {}
        if chance.random() < 0.7:
            ends = [Address(address) for address in OTHER_NODE.values()]
            wanted = {prefix: chance.choice(ends) for prefix in TUNNELLED if chance.random() < 0.9}
        self._kernel.apply_tunnels(wanted, self.rows.tunnels.keys() - wanted.keys())
        self._machine.rows.put_tunnels(wanted)
        self.rows.tunnels = wanted

    def _put_host(self, chance: Random, likely: float) -> None:
        """Have the node itself filtered, or not."""
        host = _some_host(chance) if chance.random() < likely else None
        if host is not None:
            self._put_policy(HOST_ENDPOINT, some_policy(chance))
            self._kernel.put_host(host)
        elif self.rows.host is not None:
            self._kernel.delete_host()
            self._machine.rows.put_policy(HOST_ENDPOINT, {})
            self.rows.policies.pop(HOST_ENDPOINT)
        self._machine.rows.put_host(host)
        self.rows.host = host

    def _some_addresses(self, endpoint: int, chance: Random) -> tuple[Address, ...]:
        """Return the endpoint's own addresses or fewer, or those of another one."""
        mine = self._begun[chance.choice((endpoint, endpoint, chance.choice(sorted(self._begun))))].addresses
        return mine[: chance.randint(1, len(mine))]

    def _put(self, entry: EndpointEntry) -> None:
        self._kernel.put_endpoint(entry)
        self._machine.rows.put_endpoint(entry)
        self.rows.entries[entry.endpoint] = entry

    def _put_policy(self, endpoint: int, policy: dict[PolicyKey, PolicyValue]) -> None:
        gone = self.rows.policies.get(endpoint, {}).keys() - policy.keys()
        by_hand = {key: value for key, value in policy.items() if value.proxy_port}
        if endpoint not in self.rows.policies:
            self._kernel.apply_policy(endpoint, {}, ())
        table = self._kernel._tables.policies.table(endpoint)
        if by_hand and table is not None:  # the datapath itself writes no such entry
            table.put_all({abi.pack_policy_key(key): abi.pack_policy_value(value) for key, value in by_hand.items()})
        self._kernel.apply_policy(endpoint, {key: policy[key] for key in policy.keys() - by_hand.keys()}, gone)
        self._machine.rows.put_policy(endpoint, policy)
        self.rows.policies[endpoint] = policy

    def _put_identities(self, chance: Random) -> None:
        wanted = dict.fromkeys(NODE, _HOST) | {node: _REMOTE_NODE for node in OTHERS if chance.random() < 0.85}
        wanted |= {prefix: chance.choice(FAR_IDENTITIES) for prefix in PREFIXES if chance.random() < 0.7}
        if chance.random() < 0.1:
            wanted[Prefix("192.0.2.2/32")] = _HOST
        self._kernel.apply_addresses(wanted, self.rows.identities.keys() - wanted.keys())
        self._machine.rows.put_identities(wanted)
        self.rows.identities = wanted
