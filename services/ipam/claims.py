"""Claims the node's prefixes in etcd by compare-and-swap, asserts them for ever, and announces them.

The claim on the disk outlives etcd: a node that had a prefix keeps serving it whatever the store says. If another node turns out to hold
it, nothing is taken away from workloads; there are no new leases from it, and the service is degraded until a person decides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from fairlead import codec, telemetry
from fairlead.address import Prefix
from fairlead.announce import Follower, Projector
from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.errors import Conflict, Exhausted, FairleadError
from fairlead.kv import Change, Check, Delete, Item, Kv, Put
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import CLAIMS as CLAIMS_BUCKET
from fairlead.schema.ipam import Claim
from services.ipam.model import Pool, choose_prefix, overlapping
from services.ipam.service import Ipam, SetCondition
from services.ipam.store import CLAIMS, StoredClaim, claim_key, claimed_prefix, read_claim

_RETRY_S = 1.0
_ATTEMPTS = 50
_LOG = logging.getLogger(__name__)


class Claims:
    """The claims of one node."""

    def __init__(
        self, kv: Kv, bus: Bus, ipam: Ipam, pools: Sequence[Pool], condition: SetCondition, clock: Clock
    ) -> None:
        self._kv = kv
        self._ipam = ipam
        self._node: NodeName = ipam.node
        self._pools = pools
        self._condition = condition
        self._clock = clock
        self._standing: dict[Prefix, Item] = {}
        """Our claims as they stand in etcd."""
        self.projector = Projector[Claim](bus.bucket(CLAIMS_BUCKET), clock=clock)

    async def run(self) -> None:
        """Claim what is missing, then follow our own keys for ever."""
        while True:
            try:
                await self._claim_missing()
                break
            except FairleadError as error:
                self._wait(error.message)
                await self._clock.sleep(_RETRY_S)
        keys = [claim_key(prefix) for prefix in self._ipam.state().prefixes]
        await Follower(
            self._kv, keys, on_snapshot=self._on_snapshot, on_changes=self._on_changes, clock=self._clock
        ).run()

    def _wait(self, reason: str) -> None:
        self._ipam.wait_for(reason)
        self._condition("claim", False, f"waiting: {reason}")

    async def _claim_missing(self) -> None:
        """Claim one prefix per family that has none. A pool that is full does not keep the other family from serving.

        All are taken at once: a workload that asks meanwhile must not get an address of one family and stay without the other.
        """
        full: list[str] = []
        claimed: list[Prefix] = []
        for choices in missing_pools(self._pools, self._ipam.state().prefixes):
            try:
                with telemetry.span("claim prefix", node=self._node):
                    claimed.append(await self._claim_first(choices))
            except Exhausted as error:
                full.append(error.message)
        await self._ipam.take(claimed)
        if full and not self._ipam.state().prefixes:
            raise Exhausted("; ".join(full))
        self._condition("claim", not full, "; ".join(full))

    async def _claim_first(self, choices: Sequence[Pool]) -> Prefix:
        """Claim out of the first pool with room. Raises Exhausted when none has."""
        reasons: list[str] = []
        for pool in choices:
            try:
                return await self._claim(pool)
            except Exhausted as error:
                reasons.append(error.message)
        raise Exhausted("; ".join(reasons))

    async def _claim(self, pool: Pool) -> Prefix:
        """Claim a free prefix of the pool, or find the one that is ours already. Raises Exhausted."""
        for _ in range(_ATTEMPTS):
            items = (await self._kv.list(CLAIMS)).items
            ours = own_claim(items, self._node, pool)
            prefix = ours or choose_prefix(pool, self._node, filter(None, map(claimed_prefix, items)))
            try:
                revision = 0 if ours else await self._put(prefix, 0)
            except Conflict:
                continue
            if ours or await self._is_first(prefix, revision):
                _LOG.info("claimed %s of pool %s", prefix, pool.prefix)
                return prefix
        raise Conflict(f"no prefix of {pool.prefix} in {_ATTEMPTS} attempts: too many nodes claim at once")

    async def _put(self, prefix: Prefix, expected: int) -> int:
        claim = StoredClaim(node=self._node, prefix=prefix, trace=telemetry.traceparent())
        key = claim_key(prefix)
        return await self._kv.commit([Check(key, expected)], [Put(key, codec.encode(claim))])

    async def _is_first(self, prefix: Prefix, revision: int) -> bool:
        """Withdraw a claim that overlaps an older one of another length, which its key could not tell."""
        older = [item for item in (await self._kv.list(CLAIMS)).items if item.created < revision]
        if not overlapping(prefix, filter(None, map(claimed_prefix, older))):
            return True
        await self._kv.commit([Check(claim_key(prefix), revision)], [Delete(claim_key(prefix))])
        return False

    async def _on_snapshot(self, items: Mapping[str, Item], _revision: int) -> None:
        self._standing.clear()
        for prefix in self._ipam.state().prefixes:
            await self._assert(prefix, items.get(claim_key(prefix)))
        self._announce()

    async def _on_changes(self, changes: tuple[Change, ...]) -> None:
        item_by_key = {change.key: change.item for change in changes}
        for prefix in self._ipam.state().prefixes:
            if claim_key(prefix) in item_by_key:
                await self._assert(prefix, item_by_key[claim_key(prefix)])
        self._announce()

    async def _assert(self, prefix: Prefix, item: Item | None) -> None:
        """Take note of who holds our prefix; a key that is gone is put again, the change comes back to us."""
        claim = read_claim(item) if item else None
        if claim is not None and item is not None and claim.node == self._node:
            self._standing[prefix] = item
            await self._check_overlap(prefix, item)
        elif item is not None:
            self._standing.pop(prefix, None)
            self._lose(prefix, f"etcd has it for {claim.node if claim else 'an unreadable claim'}")
        else:
            await self._assert_again(prefix)

    async def _assert_again(self, prefix: Prefix) -> None:
        """Put our claim where there is none, unless somebody has an overlapping one."""
        items = (await self._kv.list(CLAIMS)).items
        foreign = _foreign(prefix, items, self._node)
        if foreign:
            self._lose(prefix, f"etcd has {foreign[0]} for another node")
            return
        try:
            await self._put(prefix, 0)
        except Conflict:
            _LOG.info("%s was claimed by somebody at the same moment", prefix)

    async def _check_overlap(self, prefix: Prefix, item: Item) -> None:
        items = (await self._kv.list(CLAIMS)).items
        foreign = _foreign(prefix, [other for other in items if other.created < item.created], self._node)
        if foreign:
            self._lose(prefix, f"etcd has {foreign[0]} for another node")
        else:
            self._ipam.lost.pop(prefix, None)
            self._report()

    def _lose(self, prefix: Prefix, reason: str) -> None:
        self._ipam.lost[prefix] = f"{reason}; leases stand, remove one of the two claims under {CLAIMS}"
        self._report()

    def _report(self) -> None:
        lost = self._ipam.lost
        detail = "; ".join(f"{prefix}: {reason}" for prefix, reason in lost.items())
        self._condition("claim conflict", not lost, detail)

    def _announce(self) -> None:
        """Tell what etcd says is ours; while it says nothing, what was told before stands."""
        if not self._standing:
            return
        newest = max(self._standing.values(), key=lambda item: item.revision)
        claim = read_claim(newest)
        row = Claim(
            node=self._node,
            prefixes=tuple(prefix for prefix in self._ipam.state().prefixes if prefix in self._standing),
            revision=newest.revision,
            trace=claim.trace if claim else "",
        )
        if self.projector.rows.get(self._node) != row:
            self.projector.set(self._node, row)


def missing_pools(pools: Iterable[Pool], held: Iterable[Prefix]) -> list[list[Pool]]:
    """Return, for each family without a prefix, its pools in the order to try."""
    families = {prefix.family for prefix in held}
    by_family: dict[int, list[Pool]] = {}
    for pool in pools:
        if pool.prefix.family not in families:
            by_family.setdefault(pool.prefix.family, []).append(pool)
    return list(by_family.values())


def own_claim(items: Iterable[Item], node: str, pool: Pool) -> Prefix | None:
    """Return the prefix of the pool that the node has claimed before and forgotten."""
    for item in items:
        claim = read_claim(item)
        if claim is not None and claim.node == node and claim.prefix in pool.prefix:
            return claim.prefix
    return None


def _foreign(prefix: Prefix, items: Iterable[Item], node: str) -> tuple[Prefix, ...]:
    others = [item for item in items if (claim := read_claim(item)) is None or claim.node != node]
    return overlapping(prefix, filter(None, map(claimed_prefix, others)))
