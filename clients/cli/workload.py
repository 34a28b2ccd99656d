"""Attach a workload to the network and take it off again: addresses from ipam, then the endpoint from datapath.

`attach` and `detach` are for other programs too (the lab, container plugins). What `attach` took it gives back when it fails, but
never more than that: addresses and an endpoint that stood before are left alone.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from clients.cli import command, namespace
from clients.cli.output import Answer, Exit, labels
from clients.cli.session import Session
from fairlead.address import Address
from fairlead.bus import Bus
from fairlead.clock import SYSTEM, Clock
from fairlead.errors import FairleadError
from fairlead.node import Node
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import AttachEndpoint, EndpointState, EndpointStatus


@dataclass(frozen=True)
class Workload:
    """What is to be attached, and where. `addresses` empty lets ipam choose; `wait_s` 0 does not wait for ready."""

    name: str
    node: NodeName
    netns: str
    labels: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    interface: str = "eth0"
    wait_s: float = 0


@dataclass(frozen=True)
class Attached:
    """The endpoint as it stands, and the milliseconds from the first request to the last reply."""

    endpoint: EndpointStatus
    elapsed_ms: float

    @property
    def ready(self) -> bool:
        """Tell whether packets pass."""
        return self.endpoint.state is EndpointState.READY


async def attach(bus: Bus, workload: Workload, clock: Clock = SYSTEM) -> Attached:
    """Lease addresses and connect the namespace; the same again returns what stands. Raises what ipam or datapath raised."""
    began = clock.monotonic_s()
    node = Node(bus, workload.node)
    held = await _holds(node, workload)
    try:
        endpoint = await _connect(node, workload, await node.allocate(workload.name, workload.addresses))
    except (FairleadError, asyncio.CancelledError) as error:
        if not held:
            await _give_back(node, workload, error)
        raise
    return Attached(endpoint, (clock.monotonic_s() - began) * 1000)


async def _holds(node: Node, workload: Workload) -> bool:
    """Tell whether the workload had addresses before; then it may be attached, and nothing of it may be given back."""
    leases = (await node.leases()).leases
    return any(lease.owner == workload.name and lease.state == "leased" for lease in leases)


async def _connect(node: Node, workload: Workload, addresses: tuple[Address, ...]) -> EndpointStatus:
    ask = AttachEndpoint(
        name=workload.name,
        netns=workload.netns,
        addresses=addresses,
        labels=workload.labels,
        interface=workload.interface,
        wait_s=workload.wait_s,
    )
    return await node.attach(ask)


async def _give_back(node: Node, workload: Workload, cause: BaseException) -> None:
    """Undo a failed attach. Addresses are released only once datapath confirms that nothing uses them."""
    try:
        standing = (await node.endpoints()).get(workload.name)
        if standing is not None and standing.netns != workload.netns:
            return  # somebody else attached this name meanwhile, elsewhere: what stands is theirs
        await node.remove(workload.name)
    except FairleadError as error:
        hint = f"`fairlead workload remove {workload.name} --node {workload.node}` gives back its addresses"
        cause.add_note(f"{workload.name} may be half attached ({error.message}): {hint}")


async def detach(bus: Bus, name: str, node: NodeName) -> bool:
    """Disconnect the workload, then release its addresses; whether there was anything."""
    return await Node(bus, node).remove(name)


async def add(session: Session) -> Answer:
    """Attach a workload, in a namespace of its own unless one is given."""
    options = session.options
    netns = options.netns or str(namespace.path(options.name))
    made = not options.netns and await asyncio.to_thread(namespace.make, options.name)
    wanted = Workload(
        name=options.name,
        node=NodeName(options.node),
        netns=netns,
        labels=tuple(options.label),
        addresses=tuple(options.address),
        interface=options.interface,
        wait_s=options.wait,
    )
    try:
        done = await attach(session.bus, wanted, session.clock)
    except BaseException:
        if made:
            await asyncio.to_thread(namespace.remove, options.name)
        raise
    return _attached(done, waited=bool(options.wait))


def _attached(done: Attached, *, waited: bool) -> Answer:
    one = done.endpoint
    where = f"{one.name} on {one.node}: endpoint {one.endpoint}, {', '.join(one.addresses)}, identity {one.identity} ({labels(one.labels)})"
    verdict = f"ready in {done.elapsed_ms:.0f} ms" if done.ready else f"held, {one.state}: {one.detail}"
    value = {"endpoint": one, "elapsed_ms": round(done.elapsed_ms, 3), "ready": done.ready}
    return Answer(value, f"{where}\n{verdict}", Exit.LATE if waited and not done.ready else Exit.OK)


async def remove(session: Session) -> Answer:
    """Detach a workload, release its addresses, and remove the namespace if `add` had made it."""
    name, node = session.options.name, NodeName(session.options.node)
    found = await detach(session.bus, name, node)
    cleared = await asyncio.to_thread(_remove_namespace, name)
    text = f"{name} removed from {node}" if found or cleared else f"{name} was not on {node}; nothing to remove"
    return Answer({"removed": found, "namespace_removed": cleared}, text)


def _remove_namespace(name: str) -> bool:
    # a name that makes no namespace never had one
    return namespace.usable(name) and namespace.remove(name)


def register(commands: command.Subcommands) -> None:
    """Declare `workload add` and `workload remove`."""
    group = command.group(
        commands, "workload", "attach and detach workloads", "fairlead workload add web --node n1 --label app=web"
    )
    adding = command.add(
        group,
        "add",
        add,
        "attach a workload; without --netns in a new lab namespace fl-NAME on this machine",
        "fairlead workload add employee-1 --node n1 --label app=employee --wait 5",
    )
    _describe(adding)
    removing = command.add(
        group, "remove", remove, "detach a workload and release its addresses", "fairlead workload remove web --node n1"
    )
    removing.add_argument("name", metavar="NAME")
    command.node_option(removing, required=True)


def _describe(adding: argparse.ArgumentParser) -> None:
    """Declare what is told of a new workload."""
    adding.add_argument("name", metavar="NAME", help="the workload's name; addresses stay with it")
    command.node_option(adding, required=True)
    adding.add_argument(
        "--label", action="append", default=[], type=command.label, metavar="KEY=VALUE", help="repeat for more"
    )
    adding.add_argument("--netns", metavar="PATH", help="an existing namespace, for instance /proc/123/ns/net")
    adding.add_argument(
        "--address",
        action="append",
        default=[],
        type=command.address,
        metavar="A",
        help="wanted address, one per family; default: ipam chooses",
    )
    adding.add_argument(
        "--interface", default="eth0", metavar="NAME", help="its name inside the namespace (%(default)s)"
    )
    adding.add_argument(
        "--wait",
        type=command.seconds,
        default=10.0,
        metavar="S",
        help="seconds to wait for ready (%(default)s); 0 does not wait",
    )
