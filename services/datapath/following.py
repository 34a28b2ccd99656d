"""The buckets that this node follows, each with its copy on disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.mirror import Mirror
from fairlead.schema.identity import ADDRESSES, IDENTITIES, NODES
from fairlead.schema.ipam import CLAIMS
from fairlead.schema.policy import CIDRS, POLICY_ROWS
from services.datapath.node import Node
from services.datapath.store import Store


class Mirrors:
    """What the bus says, as far as this node follows it."""

    def __init__(self, bus: Bus, store: Store, clock: Clock, node: Node) -> None:
        self._own_policy = node.host.key
        self.identities = Mirror(
            bus.bucket(IDENTITIES), on_change=node.on_identity, cache=store.cache(IDENTITIES.name), clock=clock
        )
        self.policy = Mirror(
            bus.bucket(POLICY_ROWS),
            on_change=node.on_policy,
            cache=store.cache(POLICY_ROWS.name),
            clock=clock,
            keys={node.host.key},
            lazily=True,
        )
        self.addresses = Mirror(
            bus.bucket(ADDRESSES),
            on_change=node.on_group,
            cache=store.cache(ADDRESSES.name),
            clock=clock,
            lazily=True,
        )
        self.nodes = Mirror(bus.bucket(NODES), on_change=node.on_node, cache=store.cache(NODES.name), clock=clock)
        self.cidrs = Mirror(bus.bucket(CIDRS), on_change=node.on_cidrs, cache=store.cache(CIDRS.name), clock=clock)
        self.claims = Mirror(
            bus.bucket(CLAIMS),
            on_change=node.on_claim,
            cache=store.cache(CLAIMS.name),
            clock=clock,
            keys={node.name},
        )

    async def recall(self) -> None:
        """Tell the node what the copies on disk hold."""
        for mirror in (self.identities, self.policy, self.cidrs, self.nodes, self.addresses, self.claims):
            await mirror.recall()

    def host(self, identities: set[int]) -> None:
        """Follow the policy of just these identities, and of the node itself."""
        self.policy.want({self._own_policy, *(str(identity) for identity in identities)})

    @property
    def unknown(self) -> list[str]:
        """Return the buckets that have not been heard completely yet."""
        vouched = [name for name, mirror in self._all().items() if not mirror.complete and name != CLAIMS.name]
        return vouched if self.claims.rows else [*vouched, "own prefixes"]  # every node writes claims: nobody can vouch

    @property
    def addresses_known(self) -> bool:
        """Tell whether everything that puts addresses into the kernel has been heard."""
        return self.addresses.complete and self.nodes.complete and self.cidrs.complete

    @property
    def held(self) -> dict[str, int]:
        """Return how many rows each bucket's copy holds although a listing lacked them."""
        return {name: len(mirror.held) for name, mirror in self._all().items() if mirror.held}

    async def release(self) -> None:
        """Let held rows go."""
        for mirror in self._all().values():
            await mirror.release_held()

    def _all(self) -> dict[str, Mirror]:  # type: ignore[type-arg] # mirrors of different rows
        return {
            "identities": self.identities,
            "policy": self.policy,
            "addresses": self.addresses,
            "nodes": self.nodes,
            "cidrs": self.cidrs,
            "claims": self.claims,
        }

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what has to run for ever, by name."""
        return {name: mirror.run for name, mirror in self._all().items()}
