"""The netfilter rules that make ports of the host lead to containers, as text for `nft -f`: pure.

The destination alone is changed, so that the container's ingress policy sees the client's own address. Connections that begin on this
node itself never meet these rules; the relay takes them (see publish.py), and those of a container to itself, whose stack would refuse
what comes from its own address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clients.docker.state import Endpoint, Port
from fairlead.address import Address, Family

TABLE = "fairlead_docker"
PODS = "fairlead_host"
"""The device by which the stack gets what pods send: an address that comes in there is no forgery."""
_FAMILY = {Family.IPV4: ("ipv4", "ip"), Family.IPV6: ("ipv6", "ip6")}


def ruleset(endpoints: Iterable[Endpoint]) -> str:
    """Return the whole table for these endpoints; loading it replaces the former one in one step."""
    lines = [
        f"    {rule}"
        for endpoint in sorted(endpoints, key=lambda one: one.id)
        for port in endpoint.ports
        for address in endpoint.addresses
        for rule in _rules(port, address)
    ]
    body = "\n".join(["    type nat hook prerouting priority -101; policy accept;", *lines])
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  chain published {{\n{body}\n  }}\n}}\n"


def _rules(port: Port, address: Address) -> Iterator[str]:
    """Yield the rules for one port and address of a container; none where the port is published in the other family alone."""
    name, key = _FAMILY[address.family]
    host = host_address(port)
    if host is not None and host.family is not address.family:
        return
    target = f"[{address}]" if address.family is Family.IPV6 else str(address)
    at = f"{key} daddr {host} " if host is not None else ""
    here = f"fib daddr type local {at}{port.protocol} dport {port.host_port}"
    if port.protocol == "tcp":  # of a datagram the relay would not know that it is no forgery
        yield f'iifname "{PODS}" {key} saddr {address} {here} accept'
    yield f"meta nfproto {name} {here} dnat {key} to {target}:{port.port}"


def host_address(port: Port) -> Address | None:
    """Return the one address of the host at which the port is published, or None for all. Raises InvalidInput."""
    return None if port.host_address in ("", "0.0.0.0", "::") else Address(port.host_address)  # noqa: S104 - compares
