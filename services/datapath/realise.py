"""The one place that changes endpoints in the kernel. Everything here runs in the kernel thread.

What stands is remembered, so that a change costs only its difference; `inspect` compares the memory with the kernel now and then.
An entry of a policy map that nobody ordered is somebody's emergency measure (or an attack): it is reported, then removed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from fairlead import telemetry
from services.datapath.ledger import Entries, Ledger
from services.datapath.model import EndpointWant, PolicyMap
from services.datapath.operations import EndpointEntry, Kernel, KernelError, Link, Plugged, PolicyKey, PolicyValue
from services.datapath.plan import Change, foreign, plan
from services.datapath.reports import KernelReport
from services.datapath.store import Store

_LOG = logging.getLogger("datapath.realise")

_NOTHING: Entries = {}
"""What stands for a new endpoint: one object, so that the difference to a policy is worked out once for all that begin with it."""

OnForeign = Callable[[int, Mapping[PolicyKey, PolicyValue]], None]


@dataclass(frozen=True)
class Standing:
    """What stands in the kernel for one endpoint."""

    plugged: Plugged | None = None
    entry: EndpointEntry | None = None
    policy: PolicyMap | None = None

    @property
    def passes(self) -> bool:
        """Tell whether packets are judged by its policy rather than held."""
        return self.plugged is not None and self.entry is not None and not self.entry.held


class Realiser:
    """Makes endpoints real."""

    def __init__(self, kernel: Kernel, store: Store, on_foreign: OnForeign) -> None:
        self._kernel = kernel
        self._store = store
        self._on_foreign = on_foreign
        self._links: dict[int, Link] = {}
        self._plugged: dict[int, Plugged] = {}
        self._entries: dict[int, EndpointEntry] = {}
        self._maps: dict[int, Entries] = {}
        self._ledgers: dict[int, Ledger] = store.ledgers()
        self._planned: tuple[Entries, Entries, Change[PolicyKey, PolicyValue]] | None = None

    def start(self, wanted: Collection[Link] = ()) -> KernelReport:
        """Start the kernel's side, and learn what stands there already: of the wanted links those that need nothing done."""
        report = self._kernel.start()
        self._entries = self._kernel.endpoints()
        self._plugged = self._kernel.intact_links(wanted)
        self._links = {link.endpoint: link for link in wanted if link.endpoint in self._plugged}
        return report

    def kept(self) -> dict[int, PolicyMap]:
        """Return the policy that was confirmed last, by endpoint."""
        return {endpoint: ledger.policy for endpoint, ledger in self._ledgers.items() if ledger.policy is not None}

    def standing(self, endpoint: int) -> Standing:
        """Return what stands for the endpoint, as far as is known without asking the kernel."""
        ledger = self._ledgers.get(endpoint, Ledger())
        return Standing(self._plugged.get(endpoint), self._entries.get(endpoint), ledger.policy)

    def realise(self, want: EndpointWant, *, anew: bool = False) -> Standing:
        """Make the endpoint as it should be; `anew`: trust nothing that is remembered of it. Raises KernelError.

        The policy map is written even when the link cannot be made: then what stands is right as soon as the link is there.
        """
        endpoint, refusal, plugged = want.link.endpoint, "", None
        if anew:
            self.forget(endpoint)
        try:
            plugged = self._plug(want.link)
        except KernelError as error:
            refusal = error.message
        if want.policy is not None:
            self.write_policy(endpoint, want.policy)
        if plugged is None:
            raise KernelError(refusal)
        self._enter(entry_of(want, plugged))
        return self.standing(endpoint)

    def remove(self, endpoint: int) -> None:
        """Make the endpoint be gone."""
        self._kernel.delete_endpoint(endpoint)
        self._kernel.unplug(endpoint)
        self._store.drop_ledger(endpoint)
        self.forget(endpoint)
        self._entries.pop(endpoint, None)
        self._ledgers.pop(endpoint, None)

    def forget(self, endpoint: int) -> None:
        """Look at the endpoint's link and map in the kernel before the next change, instead of trusting memory."""
        self._links.pop(endpoint, None)
        self._plugged.pop(endpoint, None)
        self._maps.pop(endpoint, None)

    def inspect(self) -> tuple[set[int], set[int]]:
        """Compare links and entries with memory; return the endpoints that drifted, and the kernel's that memory does not know."""
        plugged, entries = self._kernel.plugged(), self._kernel.endpoints()
        drifted = {endpoint for endpoint, link in self._plugged.items() if plugged.get(endpoint) != link}
        drifted |= {endpoint for endpoint, entry in self._entries.items() if entries.get(endpoint) != entry}
        for endpoint in drifted:
            _LOG.warning("endpoint %d: link or entry is not as it was made: repairing", endpoint)
            self.forget(endpoint)
        strangers = (plugged.keys() | entries.keys()) - self._plugged.keys() - drifted
        self._entries = entries
        return drifted, strangers

    def inspect_policy(self, endpoint: int) -> bool:
        """Tell whether the endpoint's policy map drifted from what was written."""
        have = self._maps.get(endpoint)
        if have is None or self._kernel.holds_policy(endpoint, have):
            return False
        _LOG.warning("endpoint %d: the policy map is not as it was written: repairing", endpoint)
        self._maps.pop(endpoint)
        return True

    def _read(self, endpoint: int) -> Entries:
        return {key: value for key, (value, _) in self._kernel.policy(endpoint).items()} or _NOTHING

    def _plug(self, link: Link) -> Plugged:
        old = self._links.get(link.endpoint)
        if old == link:
            return self._plugged[link.endpoint]
        if old is not None and (old.netns, old.interface) != (link.netns, link.interface):
            self._kernel.unplug(link.endpoint)  # the far end cannot move
            self._entries.pop(link.endpoint, None)
            self._maps.pop(link.endpoint, None)
        self._links.pop(link.endpoint, None)
        plugged = self._kernel.plug(link)
        self._links[link.endpoint], self._plugged[link.endpoint] = link, plugged
        return plugged

    def _enter(self, entry: EndpointEntry) -> None:
        if self._entries.get(entry.endpoint) != entry:
            self._kernel.put_endpoint(entry)
            self._entries[entry.endpoint] = entry

    def write_policy(self, endpoint: int, policy: PolicyMap) -> None:
        """Bring the map to the policy; every order is in the ledger before the kernel hears of it."""
        ledger, have = self._ledgers.get(endpoint, Ledger()), self._maps.get(endpoint)
        if have is not None and ledger.policy == policy:
            return
        if have is None and self._kernel.holds_policy(endpoint, policy.entries):
            have = policy.entries
        if have is None:
            have = self._read(endpoint)
            self._report(endpoint, have, policy, ledger)
        change = self._plan(policy.entries, have)
        if change.puts:
            others = ledger.others | change.ordered if ledger.others else change.ordered
            self._keep(endpoint, Ledger(ledger.policy, others))
        self._maps.pop(endpoint, None)
        if change or not have:  # an empty map is made too: people must find it in an emergency
            with _span(endpoint, policy):
                self._kernel.apply_policy(endpoint, change.puts, change.deletes)
        self._maps[endpoint] = policy.entries
        if self._ledgers.get(endpoint) != Ledger(policy):
            self._keep(endpoint, Ledger(policy))
        self._ledgers[endpoint] = Ledger(
            policy
        )  # shares the entries with other endpoints; those from the disk were a copy

    def drop_policy(self, endpoint: int) -> None:
        """Forget what was ordered of a policy map that is gone."""
        self._store.drop_ledger(endpoint)
        self._maps.pop(endpoint, None)
        self._ledgers.pop(endpoint, None)

    def _plan(self, want: Entries, have: Entries) -> Change[PolicyKey, PolicyValue]:
        """Return the difference; endpoints of one identity go from the same entries to the same entries."""
        if self._planned is None or self._planned[0] is not want or self._planned[1] is not have:
            self._planned = want, have, plan(want, have)
        return self._planned[2]

    def _report(self, endpoint: int, have: Entries, policy: PolicyMap, ledger: Ledger) -> None:
        strangers = foreign(have, ledger.ordered() | set(policy.entries.items()))
        if strangers:
            self._on_foreign(endpoint, strangers)

    def _keep(self, endpoint: int, ledger: Ledger) -> None:
        self._store.save_ledger(endpoint, ledger)
        self._ledgers[endpoint] = ledger


def _span(endpoint: int, policy: PolicyMap) -> AbstractContextManager[object]:
    return telemetry.span(
        "datapath.policy.write",
        parent=policy.trace,
        endpoint=endpoint,
        identity=policy.identity,
        revision=policy.revision,
        entries=len(policy.entries),
    )


def entry_of(want: EndpointWant, plugged: Plugged) -> EndpointEntry:
    """Return the entry that should stand for the endpoint behind this link."""
    policy = want.policy
    return EndpointEntry(
        endpoint=want.link.endpoint,
        ifindex=plugged.ifindex,
        identity=want.identity,
        host_mac=plugged.host_mac,
        pod_mac=plugged.pod_mac,
        addresses=tuple(sorted(want.link.addresses)),
        held=want.held,
        ingress_default_deny=policy.ingress_default_deny if policy else 0,
        egress_default_deny=policy.egress_default_deny if policy else 0,
        audit_ingress=policy is not None and policy.audit_ingress,
        audit_egress=policy is not None and policy.audit_egress,
    )
