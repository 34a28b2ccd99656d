"""The reconcilers of the node, each with its pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fairlead.bus import Bus
from fairlead.clock import Clock
from fairlead.reconcile import Pace, Reconciler
from services.datapath.addresses import AddressOperations, PrefixOperations
from services.datapath.endpoints import EndpointOperations
from services.datapath.hostpolicy import HostOperations
from services.datapath.masquerade import MasqueradeOperations
from services.datapath.node import Node
from services.datapath.operations import Kernel
from services.datapath.realise import Realiser
from services.datapath.registration import RegistrationOperations
from services.datapath.settings import DatapathSettings
from services.datapath.tunnels import TunnelOperations
from services.datapath.worker import KernelThread


class Loop(Protocol):
    """A reconciler, whatever its rows are."""

    @property
    def prune_error(self) -> str:
        """Return why the last comparison with the world failed; empty when it did not."""

    async def run(self) -> None:
        """Work for ever."""


@dataclass(frozen=True)
class Tools:
    """What the operations work with."""

    kernel: Kernel
    thread: KernelThread
    bus: Bus
    clock: Clock
    realiser: Realiser


def reconcilers(
    node: Node,
    endpoint_operations: EndpointOperations,
    tools: Tools,
    settings: DatapathSettings,
) -> dict[str, Loop]:
    """Return a reconciler for each of the node's tables.

    Endpoints are settled one by one, each told as soon as it stands; a few wait before the kernel thread, so that it waits for nobody.
    """
    clock, refresh_s = tools.clock, settings.reconcile_s
    host_operations = HostOperations(node.host, tools.realiser, tools.kernel, tools.thread)
    address_operations = AddressOperations(node.addresses, tools.kernel, tools.thread)
    pace = Pace(refresh_s=refresh_s)
    return {
        "endpoints": Reconciler(
            node.endpoints.table,
            endpoint_operations,
            clock,
            pace=Pace(refresh_s=refresh_s, retry_max_s=10.0, batch=1, at_once=4),
            on_settled=node.settled,
        ),
        "addresses": Reconciler(
            node.addresses.table, address_operations, clock, pace=pace, unlike=address_operations.unlike
        ),
        "masquerade": Reconciler(
            node.masquerade.table, MasqueradeOperations(tools.kernel, tools.thread), clock, pace=pace
        ),
        "prefixes": Reconciler(node.prefixes, PrefixOperations(tools.kernel, tools.thread), clock, pace=pace),
        "host policy": Reconciler(node.host.table, host_operations, clock, pace=pace, on_settled=node.host_settled),
        "tunnels": Reconciler(
            node.tunnels.table, TunnelOperations(node.tunnels, tools.kernel, tools.thread), clock, pace=pace
        ),
        "registration": Reconciler(
            node.registration.table,
            RegistrationOperations(tools.bus, node.registration, node.endpoints),
            clock,
            pace=Pace(retry_s=0.2, retry_max_s=5.0, refresh_s=settings.restate_s),
        ),
    }
