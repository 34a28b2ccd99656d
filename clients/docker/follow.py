"""Labels become identity, and nothing outlives its container: the engine is followed and compared with, for ever.

The engine tells a driver neither a container's name nor its labels, and may not be asked while it waits for our answer. So a look at it is
taken after every `join`, at every event (listened to before the first look, from the last event seen on), and every `docker_resync_s`.
An endpoint is held by the datapath from its making until a look has found its container's labels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from clients.docker.engine import NO_CONTAINER, Container, Engine, Member, NetworkView
from clients.docker.labeller import Labeller
from clients.docker.networks import options_of
from clients.docker.node import NodeServices
from clients.docker.publish import PortPublisher
from clients.docker.settings import DockerSettings
from clients.docker.spares import Stock
from clients.docker.state import Endpoint, Network, State
from fairlead.clock import Clock
from fairlead.containers import marked
from fairlead.errors import FairleadError

_LOG = logging.getLogger("docker.follow")
_AGAIN_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_EVENTS_AGAIN_S = 1.0
_SETTLE_S = 0.003
_LATE_S = 5.0
_NAMELESS_S = 1.0
"""How long an endpoint made from a spare waits for its labels under the spare's name."""
SetCondition = Callable[[str, bool, str], None]


@dataclass(frozen=True)
class Parts:
    """What the follower works with."""

    engine: Engine
    node: NodeServices
    state: State
    labeller: Labeller
    publisher: PortPublisher
    stock: Stock


class Follower:
    """Follows one engine."""

    def __init__(self, parts: Parts, settings: DockerSettings, clock: Clock, condition: SetCondition) -> None:
        self._engine, self._node, self._state = parts.engine, parts.node, parts.state
        self._labeller, self._publisher, self._stock = parts.labeller, parts.publisher, parts.stock
        self._settings, self._clock, self._condition = settings, clock, condition
        self._awake = asyncio.Event()
        self._missing: dict[str, int] = {}
        """How often in a row something was unknown to the engine, by name."""
        self._named: set[str] = set()
        """Endpoints made from spares that have their own names although they have no labels."""
        self._in_doubt = True
        """Whether the engine is to be asked although nothing is to be learned: it did not answer the last time."""
        self._checkpoint = Path(settings.state_dir) / "docker" / "events"

    def wake(self) -> None:
        """Have a look taken soon."""
        self._awake.set()

    async def events(self) -> None:
        """Take a look whenever the engine says that something happened; what was missed while away is replayed."""
        while True:
            try:
                self.wake()
                async for event in self._engine.events(self._seen_ns()):
                    self.wake()
                    await asyncio.to_thread(self._checkpoint.write_text, str(event.time_ns))
            except FairleadError as error:
                self._doubt(error)
            await self._clock.sleep(_EVENTS_AGAIN_S)

    def _doubt(self, error: FairleadError) -> None:
        self._in_doubt = True
        self._condition("engine", False, error.message)

    def _seen_ns(self) -> int:
        try:
            return int(self._checkpoint.read_text())
        except (OSError, ValueError):
            return 0

    async def looks(self) -> None:
        """Take looks: soon after being woken, sooner again while labels are missing; and a whole one first, and now and then."""
        tries, whole_s = 0, -self._settings.docker_resync_s
        while True:
            waiting = any(one.sandbox for one in self._unlabelled())
            rest_s = whole_s + self._settings.docker_resync_s - self._clock.monotonic_s()
            woken = await self._rest(min(rest_s, _AGAIN_S[min(tries, len(_AGAIN_S) - 1)]) if waiting else rest_s)
            tries = 0 if woken else tries + 1
            await self._clock.sleep(_SETTLE_S)  # a burst is one look
            self._awake.clear()
            whole = self._clock.monotonic_s() - whole_s >= self._settings.docker_resync_s
            try:
                await self._look(everything=whole)
            except FairleadError as error:
                self._doubt(error)
            whole_s = self._clock.monotonic_s() if whole else whole_s
            self._tell_late()

    async def _rest(self, pause_s: float) -> bool:
        """Wait until woken, at most so long; whether it was."""
        try:
            async with asyncio.timeout(pause_s):
                await self._awake.wait()
        except TimeoutError:
            return False
        return True

    def _unlabelled(self) -> list[Endpoint]:
        return [one for one in self._state.endpoints.values() if not one.container and not one.doomed]

    def _tell_late(self) -> None:
        before = self._clock.now() - timedelta(seconds=_LATE_S)
        late = [one.id[:12] for one in self._unlabelled() if one.sandbox and one.created < before]
        reasons = [f"{name}: {reason}" for name, reason in sorted(self._labeller.refused.items())]
        told = [f"held without labels: {', '.join(late)}"] if late else []
        self._condition("labels", not late and not reasons, "; ".join([*told, *reasons]))

    async def _look(self, *, everything: bool) -> None:
        """Label what can be labelled; with `everything` compare all with the engine and sweep."""
        wanted = {one.network for one in self._unlabelled()}
        if everything or self._in_doubt or not self._knows(wanted):
            networks = [one.id for one in await self._ask_networks()]
            wanted = set(networks) if everything else wanted & set(networks)
        views = [await self._engine.network(network) for network in sorted(wanted)]
        present = [view for view in views if view is not None]
        await self._label(present)
        await self._name()
        if everything:
            self._labeller.recheck()
            await self._finish_doomed()
            members = await self._members(present)
            await self._adopt(members)
            await self._sweep([member for _, member in members])
            await self._publisher.restore()
            await self._start_again(networks)

    def _knows(self, networks: set[str]) -> bool:
        """Tell whether these networks, and all others that there are, have been seen at the engine: they never change."""
        return networks <= self._state.networks.keys() and all(one.name for one in self._state.networks.values())

    async def _ask_networks(self) -> list[NetworkView]:
        found = await self._engine.networks()
        self._in_doubt = False
        self._condition("engine", True, "")
        await self._learn(found)
        return found

    async def _start_again(self, networks: Sequence[str]) -> None:
        """Have those started that the engine could not start while we were not ready, as at a boot."""
        for one in await self._engine.stranded(networks) if networks else ():
            _LOG.warning("%s: could not be started (%s): again", one.name.lstrip("/"), one.state.error)
            try:
                await self._engine.start(one.id)
            except (FairleadError, TimeoutError) as error:
                _LOG.warning("%s: still cannot be started: %s", one.name.lstrip("/"), error)

    async def _learn(self, networks: Iterable[NetworkView]) -> None:
        """Learn names and options of networks, and networks that the state has lost."""
        for view in networks:
            known = self._state.networks.get(view.id)
            network = options_of(view.options, known or Network(id=view.id), view.name)
            if network != known:
                await self._state.put(network)
                if self._settings.isolates(network):
                    await self._labeller.isolate(network.name)
        await self._forget_outdated()

    async def _forget_outdated(self) -> None:
        """Have those labelled anew who were labelled while their network was isolated and is not, or the other way round."""
        for endpoint in [one for one in self._state.endpoints.values() if one.container and not one.doomed]:
            network = self._state.networks.get(endpoint.network)
            if network is not None and network.name and marked(endpoint.labels) != self._settings.isolates(network):
                await self._state.change(endpoint.id, container="", labels=())

    async def _label(self, views: Iterable[NetworkView]) -> None:
        """Give the endpoints of these networks their containers' labels, all at once."""
        owners = {
            member.endpoint: container
            for view in views
            for container, member in (view.members or {}).items()
            if not container.startswith(NO_CONTAINER)
        }
        wanted = {one.id: owners[one.id] for one in self._unlabelled() if one.id in owners}
        if not wanted:
            return
        found: dict[str, Container] = {one.id: one for one in await self._engine.containers(set(wanted.values()))}
        pairs = [(endpoint, found[owner]) for endpoint, owner in wanted.items() if owner in found]
        await asyncio.gather(*(self._labeller.label(endpoint, container) for endpoint, container in pairs))

    async def _name(self) -> None:
        """Have endpoints made from spares that stay without labels be known by their own names: somebody will look for them."""
        before = self._clock.now() - timedelta(seconds=_NAMELESS_S)
        for one in [one for one in self._unlabelled() if one.spare and one.id not in self._named]:
            if one.created < before:
                await self._node.attach(one, self._state.networks.get(one.network, Network(id=one.network)).mtu_bytes)
                self._named.add(one.id)
        self._named &= self._state.endpoints.keys()

    async def _finish_doomed(self) -> None:
        for endpoint in [one for one in self._state.endpoints.values() if one.doomed]:
            await self._node.remove(endpoint)
            await self._state.drop(endpoint)

    async def _members(self, views: Iterable[NetworkView]) -> list[tuple[str, Member]]:
        """Return the endpoints of containers that exist, with their networks. The engine also lists what it failed to delete."""
        owned = [
            (container, view.id, member)
            for view in views
            for container, member in (view.members or {}).items()
            if not container.startswith(NO_CONTAINER)
        ]
        existing = {one.id for one in await self._engine.containers({container for container, _, _ in owned})}
        return [(network, member) for container, network, member in owned if container in existing]

    async def _adopt(self, members: Iterable[tuple[str, Member]]) -> None:
        """Remember endpoints of the engine that the state has lost, and have those made that the datapath has lost."""
        standing = await self._node.endpoints()
        for owner, member in members:
            known = self._state.endpoints.get(member.endpoint)
            if known is None and member.endpoint and member.addresses:
                known = Endpoint(
                    id=member.endpoint, network=owner, addresses=member.addresses, created=self._clock.now()
                )
                await self._state.put(known)
            if known is not None and not known.doomed and not known.names & standing.keys():
                network = self._state.networks.get(owner, Network(id=owner))
                await self._node.attach(known, network.mtu_bytes)

    async def _sweep(self, members: Sequence[Member]) -> None:
        """Remove what the engine knows nothing of, twice in a row and long enough after it was made."""
        endpoints = {member.endpoint for member in members}
        addresses = {address for member in members for address in member.addresses}
        before = self._clock.now() - timedelta(seconds=self._settings.docker_orphan_s)
        # whatever their sandboxes look like: the engine leaves the files of dead ones for a while
        orphans = {one.name: one for one in self._state.endpoints.values() if one.id not in endpoints}
        known = self._state.names()
        leases = {lease.address: lease for lease in await self._node.leases() if lease.address not in addresses}
        standing = await self._node.endpoints()
        strays = {name for name in standing if name not in known}
        await self._stock.compare(standing, addresses, before)
        for name in self._often({*orphans, *strays, *leases}):
            if name in orphans and orphans[name].created < before:
                _LOG.warning("%s: the engine knows no such endpoint: removed", name)
                await self._publisher.withdraw(orphans[name].id)
                await self._node.remove(orphans[name])
                await self._state.drop(orphans[name])
            elif name in strays:
                _LOG.warning("%s: nobody knows this endpoint: removed", name)
                await self._node.detach(name)
        for address, lease in leases.items():
            if not self._state.holds(address) and self._missing.get(str(address), 0) > 1 and lease.since < before:
                _LOG.warning("%s: no container has this address: given back", address)
                await self._node.release(address)

    def _often(self, names: set[str]) -> list[str]:
        """Count what is missing; return what was missing the last time too."""
        self._missing = {str(name): self._missing.get(str(name), 0) + 1 for name in names}
        return [name for name in names if self._missing[str(name)] > 1]
