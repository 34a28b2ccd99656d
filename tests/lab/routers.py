"""The two routers: BIRD with a strict import filter from nodes, nothing announced to them, and the kernel fed with what was accepted."""

from __future__ import annotations

import re
from pathlib import Path

from services.bgp.engine.bird_replies import Reply
from services.bgp.engine.bird_socket import BirdSocket
from tests.lab.topology import CLAIM_LENGTHS, POOLS, Peer, Router

_TABLES = ("master4", "master6")
_PATH = re.compile(r"^(?P<prefix>\S+)?\s+(?:unicast|blackhole|unreachable) \[(?P<session>\S+) ")

_CONFIG = """\
log stderr all;
router id {router_id};
protocol device {{ scan time 60; }}
protocol kernel kernel4 {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
protocol kernel kernel6 {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
filter workloads4 {{ if net ~ [ {ipv4} ] then accept; reject; }}
filter workloads6 {{ if net ~ [ {ipv6} ] then accept; reject; }}
template bgp towards_node {{
  local as {asn};
  hold time 9; keepalive time 3; connect delay time 1; connect retry time 2; error wait time 1, 5;
  graceful restart aware; long lived graceful restart aware;
  ipv4 {{ import filter workloads4; export none; import limit 2000 action block; }};
  ipv6 {{ import filter workloads6; export none; import limit 2000 action block; }};
}}
template bgp towards_router {{
  local as {asn};
  hold time 9; keepalive time 3; connect delay time 1; connect retry time 2; error wait time 1, 5;
  ipv4 {{ import filter workloads4; export where source = RTS_BGP; next hop self; }};
  ipv6 {{ import filter workloads6; export where source = RTS_BGP; next hop self; }};
}}
{sessions}
"""


def render(router: Router) -> str:
    """Return the router's configuration."""
    ranges = {
        family: ", ".join(f"{pool}{{{low},{high}}}" for pool in POOLS if (":" in pool) == (family == 6))
        for family, (low, high) in CLAIM_LENGTHS.items()
    }
    sessions = [_session(peer, "towards_node") for peer in router.nodes] + [
        _session(peer, "towards_router") for peer in router.others
    ]
    return _CONFIG.format(
        router_id=router.router_id, asn=router.asn, ipv4=ranges[4], ipv6=ranges[6], sessions="\n".join(sessions)
    )


def _session(peer: Peer, template: str) -> str:
    return f"protocol bgp {peer.name} from {template} {{ neighbor {peer.address} as {peer.asn}; }}"


async def learned(control: Path) -> dict[str, tuple[str, ...]]:
    """Return every prefix that the router knows by BGP, with the sessions it was heard from. Raises Unavailable."""
    socket = BirdSocket(control)
    try:
        found: dict[str, tuple[str, ...]] = {}
        for table in _TABLES:
            found |= parse_paths(await socket.ask(f"show route table {table}"))
        return found
    finally:
        socket.close()


def parse_paths(reply: Reply) -> dict[str, tuple[str, ...]]:
    """Return prefix to sessions from the reply to `show route`."""
    found: dict[str, tuple[str, ...]] = {}
    prefix = ""
    for text in reply.of(1007):
        path = _PATH.match(text)
        if path:
            prefix = path["prefix"] or prefix
            found[prefix] = (*found.get(prefix, ()), path["session"])
    return found
