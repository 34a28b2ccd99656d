"""The options of the bgp service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairlead.address import Address, Prefix
from fairlead.config import CommonSettings
from services.bgp.model import Asn, Password, Speaker, Timers, parse_neighbours, router_id


class BgpSettings(CommonSettings, frozen=True, kw_only=True):
    """What this node announces, from what, and to whom."""

    bgp_asn: Asn
    """Our autonomous system."""
    bgp_peers: tuple[str, ...]
    """The routers, each as 10.0.1.1:65101 or [fd00::1]:65101."""
    pools: tuple[Prefix, ...]
    """What prefixes of workloads are taken from; nothing outside is ever announced."""
    node_addresses: tuple[Address, ...] = ()
    bgp_router_id: str = ""
    """Empty: the first IPv4 address of the node."""
    bgp_password: Password = ""
    """TCP MD5 signature of all sessions; empty: none."""
    bgp_hold_s: Annotated[int, Meta(ge=3, le=65535)] = 9
    bgp_keepalive_s: Annotated[int, Meta(ge=1, le=21845)] = 3
    bgp_restart_s: Annotated[int, Meta(ge=1, le=4095)] = 60
    """How long routers keep our routes when we vanish. Longer than it takes to pull and start a new version."""
    bgp_stale_s: Annotated[int, Meta(ge=0, le=16777215)] = 3600
    """How long they keep them as a last resort after that."""
    bgp_drain: bool = False
    """Ask the routers to prefer others (RFC 8326); sessions stay."""
    bgp_run_dir: str = "/run/fairlead/bgp"
    """Where BIRD's control socket is."""

    def speaker(self) -> Speaker:
        """Return what the engine must know. Raises InvalidInput."""
        return Speaker(
            asn=self.bgp_asn,
            router_id=router_id(self.bgp_router_id, self.node_addresses),
            neighbours=parse_neighbours(self.bgp_peers),
            pools=self.pools,
            timers=Timers(
                hold_s=self.bgp_hold_s,
                keepalive_s=self.bgp_keepalive_s,
                restart_s=self.bgp_restart_s,
                stale_s=self.bgp_stale_s,
            ),
            password=self.bgp_password,
            drain=self.bgp_drain,
        )
