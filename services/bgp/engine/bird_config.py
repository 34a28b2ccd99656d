"""BIRD's configuration files from checked values. Pure: the same speaker and routes always give the same text.

A set of files stands in one folder and includes its parts by relative name, so that the same set works as candidate, as the one in
use and as the last good one. There is no kernel protocol in it: BIRD never touches the node's routing tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from fairlead.address import Family, Prefix
from services.bgp.model import Attributes, Neighbour, Routes, Speaker, allowed_lengths

MAIN = "bird.conf"
DRAIN = "drain.conf"
ROUTES = {Family.IPV4: "pods4.conf", Family.IPV6: "pods6.conf"}
TABLE = {Family.IPV4: "adv4", Family.IPV6: "adv6"}
CHANNEL = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}

# `graceful restart wait`: the default of 240 s would hold back announcements for that long when one neighbour is down.
# `connect retry`: BIRD says that it kept forwarding (RFC 4724, the F bit) only within those two seconds after its start; a session
# that comes up later makes the router drop our routes for a moment, so a first attempt that fails must not cost five seconds.
# `import none` and no kernel protocol: whatever a router sends, nothing of it reaches this node.
_MAIN = """\
log stderr all;
router id {router_id};
graceful restart wait 2;
timeformat protocol iso long;
timeformat route iso long;
ipv4 table adv4;
ipv6 table adv6;
protocol device {{ scan time 60; }}
protocol static pods4 {{ ipv4 {{ table adv4; }};
include "pods4.conf";
}}
protocol static pods6 {{ ipv6 {{ table adv6; }};
include "pods6.conf";
}}
include "drain.conf";
{filters}
template bgp fabric {{
  hold time {hold_s}; keepalive time {keepalive_s};
  connect delay time 1; connect retry time 1; error wait time 1, 10;
  graceful restart on; graceful restart time {restart_s};
  long lived graceful restart on; long lived stale time {stale_s};
{password}  ipv4 {{ table adv4; import none; export filter to_fabric4; next hop self; }};
  ipv6 {{ table adv6; import none; export filter to_fabric6; next hop self; }};
}}
{sessions}
"""


def render(speaker: Speaker, routes: Routes) -> dict[str, str]:
    """Return every file of the set by name."""
    return {MAIN: render_main(speaker), DRAIN: render_drain(on=speaker.drain), **render_routes(routes)}


def render_main(speaker: Speaker) -> str:
    """Return the main file: everything but routes and drain."""
    return _MAIN.format(
        router_id=speaker.router_id,
        filters="\n".join(_filter(family, speaker.pools) for family in Family),
        hold_s=int(speaker.timers.hold_s),
        keepalive_s=int(speaker.timers.keepalive_s),
        restart_s=int(speaker.timers.restart_s),
        stale_s=int(speaker.timers.stale_s),
        password=f'  password "{speaker.password}";\n' if speaker.password else "",
        sessions="\n".join(_session(neighbour, speaker.asn) for neighbour in speaker.neighbours),
    )


def render_drain(*, on: bool) -> str:
    """Return the file that asks neighbours to prefer others, or not to."""
    return f"define DRAIN = {'true' if on else 'false'};\n"


def render_routes(routes: Routes) -> dict[str, str]:
    """Return one file of route lines per family."""
    return {
        name: "".join(_line(prefix, routes[prefix]) for prefix in sorted(routes) if prefix.family is family)
        for family, name in ROUTES.items()
    }


def _line(prefix: Prefix, attributes: Attributes) -> str:
    added = " ".join(f"bgp_community.add(({int(a)},{int(b)}));" for a, b in attributes.communities)
    return f"route {prefix} blackhole{f' {{ {added} }}' if added else ''};\n"


def _filter(family: Family, pools: Iterable[Prefix]) -> str:
    """Return the second guard: the rule that the routers apply too, so that a mistake of ours cannot leak."""
    mine = [pool for pool in pools if pool.family is family]
    ranges = ", ".join(f"{pool}{{{low},{high}}}" for pool in mine for low, high in [allowed_lengths(pool)])
    refuse = f"if net !~ [ {ranges} ] then reject;" if mine else "reject;"
    # 65535:0 is GRACEFUL_SHUTDOWN, RFC 8326.
    drain = "if DRAIN then bgp_community.add((65535, 0));"
    return f"filter to_fabric{family.value} {{ {refuse} {drain} accept; }}"


def _session(neighbour: Neighbour, asn: int) -> str:
    return (
        f"protocol bgp {neighbour.name} from fabric "
        f"{{ local as {int(asn)}; neighbor {neighbour.address} as {int(neighbour.asn)}; }}"
    )
