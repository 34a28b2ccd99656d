"""The rows that the programs read: endpoints, policies, identities of addresses, and the epochs that make changes count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fairlead.address import Address, Prefix
from fairlead.schema.identity import HOST, WORLD
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel.abi import pack_address
from services.datapath.kernel.twin.flows import Stamp
from services.datapath.kernel.twin.policy import Policy
from services.datapath.kernel.twin.prefixes import PrefixTable
from services.datapath.operations import EndpointEntry, PolicyKey, PolicyValue


class Rows:
    """What user space has told the kernel."""

    def __init__(self) -> None:
        self.entries: dict[int, EndpointEntry] = {}
        self.endpoint_with: dict[bytes, int] = {}
        self.policies: dict[int, Policy] = {}
        self.glass: dict[int, float] = {}
        """Until when (the clock of `meet`, seconds) somebody broke the glass, by endpoint; 0 is the whole node."""
        self.host: HostEntry | None = None
        """How the node itself is filtered; None: it is not."""
        self._host_entry: EndpointEntry | None = None
        self._own: frozenset[bytes] = frozenset()
        self.address_epoch = 0
        self.epochs: Counter[int] = Counter()
        self.identities: PrefixTable[int] = PrefixTable()
        self.tunnels: PrefixTable[bytes] = PrefixTable()

    def show(
        self,
        entries: Mapping[int, EndpointEntry],
        policies: Mapping[int, Mapping[PolicyKey, PolicyValue]],
        identities: Mapping[Prefix, int],
        host: HostEntry | None = None,
        tunnels: Mapping[Prefix, Address] | None = None,
    ) -> None:
        """Make these be the rows, and have judged anew what depends on those that are different."""
        for endpoint in self.entries.keys() - entries.keys():
            self.forget_endpoint(endpoint)
        for endpoint, entry in entries.items():
            if self.entries.get(endpoint) != entry:
                self.put_endpoint(entry)
        for endpoint in self.policies.keys() | policies.keys():
            known, wanted = self.policies.get(endpoint), policies.get(endpoint, {})
            if known is None or known.given != wanted:
                self.put_policy(endpoint, wanted)
        if dict(identities) != self.identities.given:
            self.put_identities(identities)
        if host != self.host:
            self.put_host(host)
        if {prefix: pack_address(node) for prefix, node in (tunnels or {}).items()} != self.tunnels.given:
            self.put_tunnels(tunnels or {})

    def put_endpoint(self, entry: EndpointEntry) -> None:
        """Write an endpoint; addresses that another one had become its own."""
        before, had = self._take(entry.endpoint)
        self.entries[entry.endpoint] = entry
        has = {pack_address(address) for address in entry.addresses}
        self.endpoint_with |= dict.fromkeys(has, entry.endpoint)
        self.epochs[entry.endpoint] += 1
        # flows between others need not be judged anew when nobody's address or identity is another one
        if had != has or before is None or before.identity != entry.identity:
            self.address_epoch += 1

    def forget_endpoint(self, endpoint: int) -> None:
        """Remove the endpoint and its addresses."""
        self.glass.pop(endpoint, None)
        if self._take(endpoint) != (None, set()):
            self.epochs[endpoint] += 1
            self.address_epoch += 1

    def put_host(self, host: HostEntry | None) -> None:
        """Filter the node itself, or do so no more; all flows are judged anew if that is a change."""
        if host is None and self.host is None:
            return
        self.host, self._host_entry, self._own = host, None, frozenset()
        if host is not None:
            self._own = frozenset(pack_address(address) for address in host.addresses)
            silent = host.ingress_default_deny, host.egress_default_deny, host.audit_ingress, host.audit_egress
            self._host_entry = EndpointEntry(HOST_ENDPOINT, 0, HOST, b"", b"", host.addresses, False, *silent)
        else:
            self.glass.pop(HOST_ENDPOINT, None)
        self.address_epoch += 1

    def entry(self, endpoint: int) -> EndpointEntry | None:
        """Return the endpoint's entry; the node itself has one while it is filtered."""
        return self._host_entry if endpoint == HOST_ENDPOINT else self.entries.get(endpoint)

    def standing(self, endpoint: int) -> EndpointEntry:
        """Return the entry of an endpoint that is there."""
        entry = self.entry(endpoint)
        if entry is None:
            raise KeyError(f"endpoint {endpoint} has no entry")
        return entry

    def identity_of(self, endpoint: int) -> int:
        """Return an endpoint's identity; 0 if there is none."""
        entry = self.entry(endpoint)
        return entry.identity if entry else 0

    def is_own(self, address: bytes) -> bool:
        """Tell whether the address is the node's, which is filtered."""
        return address in self._own

    def receiver(self, address: bytes, *, from_stack: bool) -> int:
        """Return the endpoint whose packet it is, or the node itself for what others send it while it is filtered."""
        found = self.endpoint_with.get(address, 0)
        return found or (HOST_ENDPOINT if not from_stack and self.is_own(address) else 0)

    def _take(self, endpoint: int) -> tuple[EndpointEntry | None, set[bytes]]:
        """Remove the endpoint's entry and addresses, and return them."""
        had = {address for address, owner in self.endpoint_with.items() if owner == endpoint}
        for address in had:
            del self.endpoint_with[address]
        return self.entries.pop(endpoint, None), had

    def put_policy(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> None:
        """Make the endpoint's policy be just these entries; its flows are judged anew."""
        self.policies[endpoint] = Policy(entries)
        self.epochs[endpoint] += 1

    def put_identities(self, identities: Mapping[Prefix, int]) -> None:
        """Make these prefixes, and no others, have identities; all flows are judged anew if that is a change."""
        changed = self.identities.given != dict(identities)
        self.identities = PrefixTable(identities)
        self.address_epoch += changed

    def put_tunnels(self, tunnels: Mapping[Prefix, Address]) -> None:
        """Have other nodes, by their addresses outside, be behind these prefixes and no others; all flows are judged anew."""
        self.tunnels = PrefixTable({prefix: pack_address(node) for prefix, node in tunnels.items()})
        self.address_epoch += 1

    def identity_with(self, address: bytes, family: int) -> int:
        """Return who an address is that no local endpoint has; who is not known is the world."""
        return self.identities.best(address, family) or int(WORLD)

    def is_glass_broken(self, endpoint: int, now_s: float) -> bool:
        """Tell whether what the endpoint's policy denies passes at this moment."""
        return any(now_s < self.glass.get(number, now_s) for number in (endpoint, 0))

    def stamp(self, *endpoints: int) -> Stamp:
        """Return the epochs of this moment for a flow between these endpoints (0: none)."""
        return self.address_epoch, tuple((endpoint, self.epochs[endpoint]) for endpoint in sorted(set(endpoints)))


def sender_identity(identity: int) -> int:
    """Return who an address is as a sender that is not this node: nobody else speaks as the host."""
    return int(WORLD) if identity == HOST else identity
