"""The datapath service of one node: its topics, and the loops that keep the kernel as it should be.

attach ──> record on disk ──> decision ──> endpoints table ──> kernel thread ──> realised row
              │                  ^
              └─> identity       │ identities, policy (mirrors, kept on disk)
addresses, nodes, cidrs ──> address book ──> addresses table ──> kernel thread
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

from fairlead.address import Address
from fairlead.announce import Projector
from fairlead.bus import Bus, Route, route
from fairlead.clock import Clock
from fairlead.errors import FairleadError, NotFound, Unavailable
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.features import FEATURES
from fairlead.schema.flow import Flow
from fairlead.schema.held import RELEASE_HELD, HeldRows
from services.datapath import host
from services.datapath.audit import audited
from services.datapath.breakglass import BreakGlassLog
from services.datapath.capabilities import Capabilities
from services.datapath.collector import Collector
from services.datapath.endpoints import EndpointOperations
from services.datapath.explain import Circumstances, explain
from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.flows import FlowRecorder
from services.datapath.following import Mirrors
from services.datapath.health import Report, conditions
from services.datapath.loops import Tools, reconcilers
from services.datapath.metrics import Metrics
from services.datapath.node import Node
from services.datapath.openglass import OpenGlass
from services.datapath.operations import Kernel
from services.datapath.outside import Masquerade
from services.datapath.overlay import Overlay
from services.datapath.policies import realised
from services.datapath.questions import HOST, Questions
from services.datapath.realise import Realiser
from services.datapath.reports import Event
from services.datapath.settings import DatapathSettings, failsafe_of
from services.datapath.store import Store
from services.datapath.verification import Verification
from services.datapath.verify import Inspector
from services.datapath.worker import KernelThread

_LOG = logging.getLogger("datapath")
_START_RETRY_S = 1.0
_TICK_S = 0.5


class Datapath:
    """One node's datapath: owns every eBPF map, link and route of it."""

    def __init__(
        self,
        kernel: Kernel,
        bus: Bus,
        store: Store,
        settings: DatapathSettings,
        clock: Clock,
        report: Report,
        *,
        addresses: tuple[Address, ...] = (),
        random: Random | None = None,
        inspector: Inspector | None = None,
        overlay: Overlay | None = None,
        masquerade: Masquerade | None = None,
    ) -> None:
        self.name = NodeName(settings.node)
        self._kernel, self._bus, self._store, self._clock, self._report = kernel, bus, store, clock, report
        self._settings = settings
        self._started, self._to_tell = asyncio.Event(), asyncio.Event()
        self.kernel_error = "starting"
        self.node = Node(self.name, addresses, store, clock, overlay, failsafe_of(settings, overlay), masquerade)
        self.node.registration.labels = settings.node_labels
        self.mirrors = Mirrors(bus, store, clock, self.node)
        self.capabilities = Capabilities(self.name)
        self.thread = KernelThread()
        self.breakglass = BreakGlassLog(self.name, store, clock)
        self._realiser = Realiser(kernel, store, self.breakglass.found)
        self.node.endpoints.kept.update(self._realiser.kept())
        self._random = random or Random()  # noqa: S311 - spreads retries and names flows, guards no secret
        self._verification = Verification(self.node, kernel, self.thread, self._realiser, inspector)
        self._look_on(kernel, settings)
        self._realised = Projector(bus.bucket(topics.REALISED), clock=clock)
        self._endpoint_operations = EndpointOperations(self.node.endpoints, self._realiser, self.thread)
        self.node.on_hosted = self.mirrors.host
        self.node.on_realised = self._to_tell.set
        self._adopted: set[int] = set()
        """Endpoints that an earlier process left, and that were not looked at yet."""
        tools = Tools(kernel, self.thread, bus, clock, self._realiser)
        self.reconcilers = reconcilers(self.node, self._endpoint_operations, tools, settings)

    def _look_on(self, kernel: Kernel, settings: DatapathSettings) -> None:
        """Have what only watches and tells."""
        budgets = (settings.flow_records_per_s, settings.flow_messages_per_s)
        self.flows = FlowRecorder(kernel, self._explain, self._clock, self._random, budgets)
        self.collector = Collector(kernel, self.thread, self._clock, self.flows.record)
        numbers = (lambda: self.collector.collection), self.flows.losses.shown
        self.metrics = Metrics(self.name, kernel, self.thread, self._clock, *numbers)
        self.glass = OpenGlass(self.name, self._store.folder, kernel, self.thread, self._clock)
        read = self.flows, self.metrics, self._verification
        self.questions = Questions(self.node, kernel, self.thread, *read, require_started=self._require_started)

    @property
    def unreadable(self) -> list[str]:
        """Return the files that were set aside at start."""
        return self._store.unreadable

    async def begin(self) -> None:
        """Want what disk and mirrors' copies say; nothing is done before the tasks run."""
        await self._recall()
        self.node.begin()
        self.node.host.begin(self._realiser.kept().get(HOST_ENDPOINT))
        self._adopted = {record.endpoint for record in self.node.endpoints.live()}
        self.breakglass.names = {record.endpoint: record.name for record in self.node.endpoints.live()}
        self.breakglass.names[HOST_ENDPOINT] = HOST

    async def _recall(self) -> None:
        """Hear what the mirrors' copies say, beside what was ordered by it."""
        ordered = {id(policy.entries): policy.entries for policy in self.node.endpoints.kept.values()}
        self.node.policies.stood = ordered.values()
        await self.mirrors.recall()
        self.node.policies.stood = ()

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what has to run for ever, by name."""
        after_start = {
            **{
                name: self.reconcilers[name].run
                for name in ("endpoints", "addresses", "prefixes", "tunnels", "host policy", "masquerade")
            },
            "patrol": self._patrol,
            "open glass": self.glass.run,
            "flows": self.flows.read,
            "collector": self.collector.run,
            "metrics": self.metrics.run,
            "tell realised": self._tell_for_ever,
        }
        return {
            "kernel": self._start_kernel,
            **{name: self._after_start(work) for name, work in after_start.items()},
            "registration": self.reconcilers["registration"].run,
            "realised": self._realised.run,
            "flow-messages": lambda: self.flows.publish(self._bus, self.name),
            "breakglass": lambda: self.breakglass.run(self._bus),
            "break-glass book": lambda: self.glass.publish(self._bus),
            "conditions": self._watch,
            **{f"mirror-{name}": work for name, work in self.mirrors.tasks().items()},
        }

    def _after_start(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def waiting() -> None:
            await self._started.wait()
            await work()

        return waiting

    async def _start_kernel(self) -> None:
        """Start the kernel's side; again, with pauses, while the machine is not ready for it."""
        while True:
            try:
                links = [record.link for record in self.node.endpoints.live()]
                report = await self.thread.call(self._realiser.start, links)
            except FairleadError as error:
                self.kernel_error = error.message
                _LOG.error("the kernel's side does not start: %s", error.message)
                await self._clock.sleep(_START_RETRY_S)
                continue
            _LOG.info("kernel: %s", report)
            self.capabilities.hear(report)
            self.kernel_error = ""
            self._started.set()
            return

    async def _patrol(self) -> None:
        await self._look_once()
        while True:
            await self._clock.sleep(self._settings.reconcile_s)
            await self._endpoint_operations.patrol()
            await self._verification.repair_plumbing()
            await self.node.addresses.keep_ages()

    async def _look_once(self) -> None:
        """Look for what was changed within endpoints' namespaces while nobody lived, as soon as all that stood is taken over."""
        endpoints = self.node.endpoints
        while (self._adopted & endpoints.decisions.keys()) - endpoints.standing.keys():
            await self._clock.sleep(_TICK_S)
        await self._verification.repair_plumbing()

    async def _watch(self) -> None:
        """State how things are, and do what a person or the mirrors' completeness makes possible."""
        while True:
            if self.mirrors.nodes.complete or self.mirrors.nodes.rows:
                self.node.masquerade.tell()
            if self.mirrors.addresses_known:
                self.node.addresses.initialise()
                self.node.tunnels.table.initialise()
            if self._store.take_release():
                _LOG.warning("held deletions are released by hand")
                await self.mirrors.release()
                self.node.addresses.release()
                self.node.tunnels.release()
            for condition in conditions(self, self._settings.break_glass_alarm_s):
                self._report(*condition)
            await self._clock.sleep(_TICK_S)

    async def _tell_for_ever(self) -> None:
        """Say what is realised as often as the bus takes it: however many endpoints were touched meanwhile, it is worked out once."""
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            if self._tell_realised():
                await self._realised.flushed()

    def _tell_realised(self) -> bool:
        """Tell the bus; False before every endpoint of the disk was looked at once, since half a row would look like a step back."""
        standing, decisions = self.node.endpoints.standing, self.node.endpoints.decisions
        self._adopted = {one for one in self._adopted if one in decisions and one not in standing}
        if not self.node.host.is_settled or self._adopted:
            return False
        row = realised(self.name, self.node.endpoints, self.node.trace)
        self._realised.set(self.name, self.node.host.report(row))
        return True

    def _explain(self, event: Event, uuid: str, lost: dict[str, int]) -> Flow:
        event = audited(event, *(self.node.staged_end(address) for address in (event.source, event.destination)))
        age = timedelta(seconds=max(0.0, self._clock.monotonic_s() - event.time_ns / 1e9))
        around = Circumstances(
            node=self.name,
            uuid=uuid,
            time=self._clock.now() - age,
            source=self.node.end(event.source, event.source_identity),
            destination=self.node.end(event.destination, event.destination_identity),
            subject=self.node.subject(event.endpoint),
            origins=self.node.origins.texts(event.provenance),
            lost_by_stage=lost,
            interface=host.interface(event.ifindex),
        )
        return explain(event, around)

    async def attach(self, ask: topics.AttachEndpoint) -> topics.EndpointStatus:
        """Connect a namespace; the answer never waits for the bus."""
        record = await self.node.endpoints.attach(ask)
        self.breakglass.names[record.endpoint] = record.name
        await self.node.endpoints.wait_ready(record.endpoint, ask.wait_s)
        if record.endpoint not in self.node.endpoints.decisions:
            raise NotFound(f"endpoint {ask.name} was detached meanwhile")
        return self.node.endpoints.status(record.endpoint)

    async def detach(self, ask: topics.DetachEndpoint) -> topics.Detached:
        """Disconnect a namespace."""
        return topics.Detached(removed=await self.node.endpoints.detach(ask.name))

    @property
    def held_rows(self) -> dict[str, int]:
        """Return how many rows are kept although they should go, because too many would, by what they are rows of."""
        held = {"kernel addresses": self.node.addresses.held, "tunnels": self.node.tunnels.held}
        return self.mirrors.held | {name: len(rows) for name, rows in held.items() if rows}

    async def release_held(self, _ask: Empty) -> HeldRows:
        """Let held deletions happen with the next look at them."""
        held = HeldRows(node=self.name, rows=self.held_rows)
        self._store.ask_release()
        return held

    def _require_started(self) -> None:
        if not self._started.is_set():
            raise Unavailable(f"the datapath of node {self.name} is not up: {self.kernel_error}")

    def routes(self) -> tuple[Route, ...]:
        """Return the topics that this node answers."""
        return (
            route(topics.ATTACH, self.attach, self.name),
            route(topics.DETACH, self.detach, self.name),
            route(FEATURES, self.capabilities.show, self.name),
            *self.questions.routes(),
            route(RELEASE_HELD, self.release_held, self.name),
        )

    def close(self) -> None:
        """Close descriptors; everything in the kernel stays as it is."""
        self.thread.close()
        self._kernel.stop()
