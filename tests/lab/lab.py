"""The running lab: what steps, tests and benchmarks start, ask and stop.

async with Lab() as lab:
    await lab.attach("web", "n2", ("app=web",))
    await lab.run("web", "ping", "-c", "1", address)
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from clients.cli.workload import Attached, Workload, attach, detach
from fairlead import codec
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema.base import Message, NodeName
from fairlead.schema.datapath import EndpointStatus
from tests.lab import cleanup, network
from tests.lab.credentials import OPERATOR, SABOTEUR
from tests.lab.network import LabError
from tests.lab.processes import ROOT, Process, Spec
from tests.lab.programs import Programs
from tests.lab.resident import Resident
from tests.lab.topology import Topology, describe
from tests.lab.waiting import until

T = TypeVar("T")
_COMMAND_S = 30.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """Tell whether its exit status was 0."""
        return self.status == 0

    @property
    def said(self) -> str:
        """Return its last line, of output or else of complaint."""
        lines = (self.out.strip() or self.err.strip()).splitlines()
        return lines[-1].strip() if lines else f"status {self.status}"


class _Added(Message, frozen=True, kw_only=True):
    """What `fairlead workload add -o json` prints."""

    endpoint: EndpointStatus
    elapsed_ms: float


class Lab:
    """Three nodes, two routers and their neighbours on this machine. Raises LabError when one of this prefix stands already."""

    def __init__(self, topology: Topology | None = None) -> None:
        self.topology = topology or describe()
        self.folder = cleanup.folder_of(self.topology.prefix)
        self.programs = Programs(self.topology, self.folder)
        self.processes: dict[str, Process] = {}
        self.workloads: dict[str, Attached] = {}
        self.routes_before: dict[str, list[str]] = {}
        """The nodes' main routing tables before anything was started, by node."""
        self._residents: dict[str, Resident] = {}
        self._lock = ExitStack()

    async def __aenter__(self) -> Lab:
        self.take_lock()
        try:
            self.build()
            self.start_all()
        except BaseException:
            await self.remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.remove()

    def take_lock(self) -> None:
        """Make sure that this is the only lab. Raises LabError."""
        self._lock.enter_context(cleanup.only_one(self.topology.prefix))
        left = cleanup.leftovers(self.topology.prefix)
        if left:
            self._lock.close()
            raise LabError(f"a lab was left standing ({', '.join(left[:3])}, ...): remove it with `make lab-down`")

    def build(self) -> None:
        """Make the network, and bpffs where it is missing; remember the nodes' routing tables."""
        cleanup.mount_bpffs(self.topology.prefix)
        network.build(self.topology)
        self.routes_before = {node.name: network.main_routes(self.topology, node.name) for node in self.topology.nodes}

    def start_all(self) -> None:
        """Start every process at once: each waits for what it lacks. The store is told who may do what."""
        for spec in self.programs.all():
            self.start(spec)
        control = network.inside(self.topology.path("ctl"))
        self.programs.credentials.give_rights(self.programs.etcd_url, control)

    def start(self, spec: Spec) -> Process:
        """Start one more process; it ends with the lab."""
        process = Process(spec, self.topology.path(spec.namespace), self.folder)
        self.processes[spec.name] = process
        process.start()
        return process

    def start_program(self, place: str, name: str, *command: str) -> Process:
        """Start a program of a workload or a step."""
        return self.start(Spec(f"{place}/{name}", command))

    def process(self, name: str) -> Process:
        """Return the process `<namespace>/<program>`. Raises LabError."""
        if name not in self.processes:
            raise LabError(f"no process {name}: there are {', '.join(sorted(self.processes))}")
        return self.processes[name]

    def rss_bytes(self) -> dict[str, int]:
        """Return the resident memory of every process by name."""
        return {name: process.rss_bytes() for name, process in sorted(self.processes.items())}

    async def remove(self) -> str:
        """End and remove everything, and say what there was."""
        await self.disconnect()
        said = await asyncio.to_thread(cleanup.clean, self.topology.prefix)
        self._lock.close()
        return said

    async def keep(self) -> None:
        """Leave everything running; `make lab-down` removes it."""
        await self.disconnect()
        self._lock.close()

    async def disconnect(self) -> None:
        """Close this process's own connections into the lab."""
        for resident in self._residents.values():
            await resident.close()
        self._residents.clear()

    def environment(self, place: str) -> dict[str, str]:
        """Return what the command line needs to know on a machine of the lab."""
        keys = self.programs.credentials
        who = keys.at_hub(OPERATOR) if place == "ctl" else keys.at_node(place, "client")
        return {**self.programs.settings(place), **who, "FAIRLEAD_TRACES": self.programs.traces_url}

    async def run(self, place: str, *command: str, text: str = "", timeout_s: float = _COMMAND_S) -> Done:
        """Run a command in a namespace of the lab, to its end."""
        return await execute(network.inside(self.topology.path(place), *command), text, timeout_s)

    async def etcdctl(self, *words: str) -> Done:
        """Run etcdctl as a person does who may do everything."""
        files = [f"ETCDCTL_{name.upper()}={file}" for name, file in self.programs.credentials.of_store().items()]
        return await self.run("ctl", "env", "ETCDCTL_API=3", *files, "etcdctl", *words)

    async def fairlead(self, place: str, *arguments: str, text: str = "") -> Done:
        """Run the command line tool on a machine of the lab."""
        command = network.inside(self.topology.path(place), str(ROOT / ".venv/bin/fairlead"), *arguments)
        return await execute(command, text, _COMMAND_S, self.environment(place))

    async def ask(self, place: str, work: Callable[[NatsBus], Awaitable[T]]) -> T:
        """Return what `work` returns when it runs on that machine, with its bus."""
        return await self.resident(place).ask(work)

    async def sabotage(self, work: Callable[[NatsBus], Awaitable[T]]) -> T:
        """Return what `work` returns when it is given a bus at the hub on which it may do anything."""
        foot = Resident(self.topology.path("ctl"), self.programs.credentials.at_hub(SABOTEUR))
        try:
            return await foot.ask(work)
        finally:
            await foot.close()

    def resident(self, place: str) -> Resident:
        """Return this process's foot in a namespace, made on first use."""
        if place not in self._residents:
            self._residents[place] = Resident(self.topology.path(place), self.environment(place))
        return self._residents[place]

    async def attach(self, name: str, node: str, labels: tuple[str, ...], *, wait_s: float = 10) -> Attached:
        """Make a namespace and attach it through the node's own bus. Raises FairleadError."""
        path = network.add_namespace(self.topology, name)
        wanted = Workload(name=name, node=NodeName(node), netns=path, labels=labels, wait_s=wait_s)
        done = await self.ask(node, lambda bus: attach(bus, wanted))
        self.workloads[name] = done
        return done

    async def add_workload(self, name: str, node: str, label: str) -> Done:
        """Make a namespace and attach it with the command line tool; it stands in `workloads` when that worked."""
        path = network.add_namespace(self.topology, name)
        done = await self.fairlead(
            node, "workload", "add", name, "--node", node, "--label", label, "--netns", path, "-o", "json"
        )
        try:
            said = codec.from_builtins(json.loads(done.out), _Added)
        except (ValueError, FairleadError):
            return done
        self.workloads[name] = Attached(said.endpoint, said.elapsed_ms)
        return done

    async def listening(self, place: str, port: int, *, within_s: float = 5) -> None:
        """Wait until something listens on the port in that namespace. Raises LabError."""

        async def bound() -> bool:
            return f":{port} " in (await self.run(place, "ss", "-Hltn")).out

        if not (await until(bound, bool, within_s=within_s, every_s=0.05)).ok:
            raise LabError(f"nothing listens on port {port} in {place}")

    async def main_routes(self, node: str) -> list[str]:
        """Return the main routing tables of a node, both families, as they are now."""
        return await asyncio.to_thread(network.main_routes, self.topology, node)

    async def detach(self, name: str, node: str) -> None:
        """Detach a workload and remove its namespace."""
        await self.ask(node, lambda bus: detach(bus, name, NodeName(node)))
        network.remove_namespace(self.topology, name)
        self.workloads.pop(name, None)

    def address(self, name: str, family: int = 0) -> str:
        """Return the address of a workload or of a host beside the lab; of the story's family unless another is asked for."""
        family = family or self.topology.ways.family
        attached = self.workloads.get(name)
        known = attached.endpoint.addresses if attached else self.topology.addresses[name]
        return next(str(one) for one in known if (":" in one) == (family == 6))


async def execute(
    command: list[str], text: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Done:
    """Run a command to its end; after `timeout_s` it is killed and counts as failed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(text.encode()), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return Done(124, "", f"no end within {timeout_s:.0f} s: {' '.join(command)}")
    return Done(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))
