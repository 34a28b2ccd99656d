"""The node itself under host policies: what its row comes to, and the operations that make it real.

A node that never heard of a host policy is not filtered. One that had keeps it through outages, refused rows and restarts, until a row says
that no rule selects the node any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fairlead.errors import FairleadError
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import RealisedRow
from fairlead.schema.policy import HOST_ROWS, PolicyRow
from fairlead.table import Table, TableRow
from services.datapath.failsafe import EGRESS, HOST_ENDPOINT, INGRESS, FailsafePort, HostEntry, shown
from services.datapath.model import PolicyMap
from services.datapath.operations import Kernel, PolicyKey
from services.datapath.plan import Numbering, expand
from services.datapath.realise import Realiser
from services.datapath.worker import KernelThread

_NODE = "node"
_ANY = (PolicyKey(0, 0, 0, INGRESS), PolicyKey(0, 0, 0, EGRESS))


@dataclass(frozen=True)
class HostWant:
    """What should stand in the kernel for the node itself; without a policy nothing is filtered."""

    revision: int
    policy: PolicyMap | None
    failsafe: frozenset[FailsafePort]


def denies_nothing(policy: PolicyMap) -> bool:
    """Tell whether no packet could be denied: no rule selects the node, or all of them only allow."""
    return all(key in policy.entries for key in _ANY) and not any(value.deny for value in policy.entries.values())


class HostPolicy:
    """What is known of the node's own policy, and how far it has come."""

    def __init__(self, node: NodeName, number: Numbering, failsafe: frozenset[FailsafePort]) -> None:
        self.key = f"{HOST_ROWS}{node}"
        """Of the node's row in the bucket `policy`, and of what is realised of it."""
        self.table: Table[str, HostWant] = Table("host policy")
        self.standing: HostWant | None = None
        """What the kernel holds; None: nothing was done yet."""
        self.looked_at = False
        self.refusal = ""
        self._number, self._failsafe = number, failsafe

    def begin(self, kept: PolicyMap | None) -> None:
        """Want what stood last, unless something newer was heard."""
        if kept is not None and self.table.get(_NODE) is None:
            self.table.put(_NODE, HostWant(kept.revision, kept, self._failsafe))
        self.table.initialise()

    def hear(self, row: PolicyRow | None) -> None:
        """Learn the node's newest row; one that is gone, or cannot be realised, changes nothing."""
        if row is None:
            return
        try:
            policy = expand(row, self._number)
        except FairleadError as error:
            self.refusal = f"revision {row.revision} is refused: {error.message}"
            return
        self.refusal = ""
        wanted = None if denies_nothing(policy) else policy
        self.table.put(_NODE, HostWant(row.revision, wanted, self._failsafe))

    @property
    def want(self) -> HostWant | None:
        """Return what should stand; None while nothing is known."""
        return self.table.desired().get(_NODE)

    @property
    def hindrance(self) -> str:
        """Return why the newest row does not stand; empty when it does."""
        return self.table.failed().get(_NODE) or self.refusal

    @property
    def is_settled(self) -> bool:
        """Tell whether what was wanted at start was looked at."""
        return self.looked_at or self.want is None

    def settled(self, rows: Sequence[TableRow[str, HostWant]]) -> str:
        """Hear from the reconciler; return the event behind the policy that was written, if there was one."""
        return next((row.value.policy.trace for row in rows if row.value.policy), "")

    def report(self, row: RealisedRow) -> RealisedRow:
        """Add to what is realised on the node what is realised of itself."""
        rows = {self.key: self.standing.revision} if self.standing else {}
        failed = {self.key: f"the node itself: {self.hindrance}"} if self.hindrance else {}
        return msgspec.structs.replace(row, rows=row.rows | rows, failed=row.failed | failed)

    @property
    def words(self) -> str:
        """Return how the node is filtered, for people."""
        if self.hindrance:
            return self.hindrance
        if self.standing is None or self.standing.policy is None:
            return "the node itself is not filtered: no host policy selects it"
        ports = self.standing.failsafe
        return (
            f"the node itself is filtered by revision {self.standing.revision}; always open to it: "
            f"{' '.join(shown(ports, INGRESS))}; from it: {' '.join(shown(ports, EGRESS))}"
        )


def entry_of_host(want: HostWant, kernel: Kernel) -> HostEntry | None:
    """Return what should stand in the kernel for the node itself. Runs in the kernel thread, as all below does."""
    policy = want.policy
    if policy is None:
        return None
    return HostEntry(
        addresses=kernel.own_addresses(),
        failsafe=want.failsafe,
        ingress_default_deny=policy.ingress_default_deny,
        egress_default_deny=policy.egress_default_deny,
        audit_ingress=policy.audit_ingress,
        audit_egress=policy.audit_egress,
    )


class HostOperations:
    """What the reconciler does to the node itself."""

    def __init__(self, host: HostPolicy, realiser: Realiser, kernel: Kernel, thread: KernelThread) -> None:
        self._host, self._realiser, self._kernel, self._thread = host, realiser, kernel, thread

    async def update(self, rows: Mapping[str, HostWant]) -> Mapping[str, str]:
        """Filter the node as its row says, or no more."""
        hindered = {}
        for key, want in rows.items():
            try:
                await self._thread.call(self._realise, want)
                self._host.standing = want
            except FairleadError as error:
                hindered[key] = error.message
            self._host.looked_at = True
        return hindered

    async def delete(self, rows: Mapping[str, HostWant]) -> Mapping[str, str]:
        """Do nothing: a row is changed, and never removed."""
        del rows
        return {}

    async def prune(self, desired: Mapping[str, HostWant]) -> None:
        """Have what drifted made again: a changed entry, an address that the node has got or lost."""
        for key, want in desired.items():
            if await self._thread.call(self._drifted, want):
                self._host.table.touch([key])

    def _realise(self, want: HostWant) -> None:
        entry = entry_of_host(want, self._kernel)
        if want.policy is None or entry is None:
            if self._kernel.host() is not None:
                self._kernel.delete_host()
            self._realiser.drop_policy(HOST_ENDPOINT)
            return
        # the rules stand before anything is judged by them
        self._realiser.write_policy(HOST_ENDPOINT, want.policy)
        if self._kernel.host() != entry:
            self._kernel.put_host(entry)

    def _drifted(self, want: HostWant) -> bool:
        drifted = self._realiser.inspect_policy(HOST_ENDPOINT)
        return self._kernel.host() != entry_of_host(want, self._kernel) or drifted
