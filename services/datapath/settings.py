"""Options of the datapath service."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fairlead.address import Address, Prefix
from fairlead.config import CommonSettings
from fairlead.errors import InvalidInput
from fairlead.schema.base import Labels
from services.datapath.failsafe import INBOUND, OUTBOUND, FailsafePort, failsafe, tunnel_ports
from services.datapath.overlay import Overlay

PRIVATE = tuple(
    Prefix(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10"),
    )
)
"""Networks that are not the internet: they can be told where pods are, so they see them."""


class DatapathSettings(CommonSettings, frozen=True, kw_only=True):
    """What the datapath service needs to know."""

    pin_directory: str = "/sys/fs/bpf/tc/globals"
    """Where maps and programs are pinned, below a bpffs; nodes on one machine need one each."""
    uplinks: tuple[str, ...] = ()
    """Interfaces that lead to other nodes; empty: those of the default routes."""
    node_addresses: tuple[Address, ...] = ()
    """This node's own addresses; empty: those of its uplinks."""
    node_labels: Labels = ()
    """Labels of this node, by which host policies (`nodeSelector`) select it; its name is always one: `kubernetes.io/hostname`."""
    routing: Literal["native", "vxlan", "geneve"] = "native"
    """How packets travel to other nodes: as they are, or inside a tunnel. The same on every node of the fleet."""
    overlay_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """UDP port of the tunnels; 0: 8472 for VXLAN, 6081 for Geneve."""
    failsafe_inbound: tuple[str, ...] = INBOUND
    """Ports at which others reach this node whatever host policies say: protocol/port or protocol/first-last."""
    failsafe_outbound: tuple[str, ...] = OUTBOUND
    """Ports at which this node reaches others whatever host policies say."""
    masquerade: Literal["none", "ipv4", "ipv6", "both"] = "none"
    """For which families flows that pods begin towards the world leave with this node's address."""
    masquerade_exclusions: tuple[Prefix, ...] = PRIVATE
    """Destinations that see the pods' own addresses, beside the fleet's nodes and the prefixes of its workloads."""
    masquerade_ports: Annotated[str, Meta(pattern=r"^\d{1,5}-\d{1,5}$")] = "61000-65535"
    """Source ports of such flows; apart from net.ipv4.ip_local_port_range, out of which the node's own sockets choose."""
    reconcile_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """How often everything in the kernel is compared with what should be there."""
    restate_s: Annotated[float, Meta(gt=0, le=86400)] = 300.0
    """How often endpoints are stated to identity again."""
    flow_records_per_s: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Flow events recorded per second at most; more are counted as lost."""
    flow_messages_per_s: Annotated[int, Meta(ge=0, le=100_000)] = 200
    """Flow events published on the bus per second at most; more are recorded on the node only."""
    flows: Annotated[int, Meta(ge=1024, le=16_777_216)] = 131_072
    """Flows that the node remembers at once, some 200 bytes of kernel memory each. A larger number than before moves the table at the next start;
    a smaller one leaves it as it is."""
    flow_syn_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
    """How long a flow that says nothing is believed: TCP before anything but a SYN; then established, closed by both ends; all else."""
    flow_established_timeout_s: Annotated[int, Meta(ge=10, le=604_800)] = 8000
    flow_closing_timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 10
    flow_other_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
    flow_report_interval_s: Annotated[int, Meta(ge=0, le=86_400)] = 0
    """How often a flow that lasts is reported; 0: its begin and end only."""
    flow_events_per_s: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    """New flows, and as many ends, that the programs report per second and processor; more are counted as lost."""
    drop_events_per_s: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    """Drops, and as many audited packets, alike."""
    break_glass_alarm_s: Annotated[float, Meta(ge=0)] = 3600.0
    """How long foreign entries that were found keep the health degraded."""


def overlay_of(settings: DatapathSettings, addresses: tuple[Address, ...]) -> Overlay | None:
    """Return how packets travel to other nodes, None: as they are. Raises InvalidInput when tunnels could not find this node."""
    if settings.routing == "native":
        return None
    if not addresses:
        raise InvalidInput(
            f"`routing`: {settings.routing} needs an address of this node: set `node_addresses`, or `uplinks` that have some"
        )
    return Overlay(settings.routing, addresses, settings.overlay_port)


def failsafe_of(settings: DatapathSettings, overlay: Overlay | None) -> frozenset[FailsafePort]:
    """Return the ports of this node that no host policy closes. Raises InvalidInput for one that makes no sense."""
    ports = failsafe(settings.failsafe_inbound, settings.failsafe_outbound)
    return ports | tunnel_ports(overlay.udp_port) if overlay else ports
