"""What the types of a Cilium document cannot say: which fields go together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fairlead.schema.policy import Direction
from services.policy.documents import Egress, EgressDeny, Fqdn, HttpRule, Item, L7Rules, PortRule
from services.policy.labels import PROTOCOL_NUMBERS
from services.policy.ports import PortMatch, refuse

_NAME = re.compile(r"[-a-zA-Z0-9_.]+")
_PATTERN = re.compile(r"[-a-zA-Z0-9_.*]+")


def check_item(item: Item, path: str) -> None:
    """Refuse an item with two kinds of peers: they would have to be joined by AND, which nothing here can express."""
    side = "from" if "ingress" in path else "to"
    kinds = {
        f"{side}Endpoints": item.endpoints,
        f"{side}Nodes": item.nodes,
        f"{side}Entities": item.entities,
        f"{side}CIDR": item.cidr,
        f"{side}CIDRSet": item.cidr_set,
        f"{side}Groups": item.groups,
        "toServices": item.services if isinstance(item, EgressDeny) else None,
        "toFQDNs": item.fqdns if isinstance(item, Egress) else None,
    }
    if item.requires:
        refuse(
            f"{path}.{side}Requires",
            "removed from Cilium in 1.19: write its labels into every selector that it narrowed",
        )
    filled = [name for name, given in kinds.items() if given]
    if len(filled) > 1:
        refuse(path, f"combining {filled[0]} and {filled[1]} is not supported: write two items")


def check_fqdn(name: Fqdn, path: str) -> str:
    """Return the name or pattern, in lower case and without a final dot. Raises InvalidInput."""
    given = [text for text in (name.match_name, name.match_pattern) if text is not None]
    if len(given) != 1:
        refuse(path, "exactly one of `matchName` and `matchPattern` is needed")
    text = given[0]
    allowed = _NAME if name.match_name is not None else _PATTERN
    if not allowed.fullmatch(text):
        refuse(path, f"{text!r} is no DNS name{'' if name.match_name else ' pattern'}: letters, digits and - _ . only")
    return text.lower().removesuffix(".")


def check_port_rule(ports: PortRule, matches: Sequence[PortMatch], path: str, direction: Direction) -> None:
    """Refuse combinations of ports, L7 rules, server names and listeners that have no meaning."""
    rules = ports.rules
    if rules is not None and (rules.http or rules.dns):
        _check_l7(rules, ports, matches, path, direction)
    if ports.server_names and rules is not None and rules.http and not ports.terminating_tls:
        refuse(f"{path}.serverNames", "server names beside HTTP rules need `terminatingTLS`")
    if ports.listener is None:
        return
    if direction is Direction.INGRESS:
        refuse(f"{path}.listener", "a listener is for egress only")
    if rules is not None and (rules.http or rules.dns):
        refuse(f"{path}.listener", "a listener and L7 rules cannot stand together")


def check_host_item(item: Item, path: str, direction: Direction) -> None:
    """Refuse L7 rules for nodes: there are none at ingress, and of DNS alone at egress."""
    for number, ports in enumerate(item.to_ports or ()):
        rules = ports.rules if isinstance(ports, PortRule) else None
        if rules is not None and (rules.http or (rules.dns and direction is Direction.INGRESS)):
            kinds = "no L7 rules" if direction is Direction.INGRESS else "no L7 rules but DNS"
            refuse(f"{path}.toPorts[{number}].rules", f"there are {kinds} for nodes in this direction")


def _check_l7(rules: L7Rules, ports: PortRule, matches: Sequence[PortMatch], path: str, direction: Direction) -> None:
    if rules.http and rules.dns:
        refuse(f"{path}.rules", "only one kind of L7 rules may stand here")
    if any(not match.port and not match.name for match in matches):
        refuse(f"{path}.rules", "L7 rules need a port other than 0")
    if rules.dns:
        _check_dns(rules.dns, matches, path, direction)
        return
    if any(port.protocol != "TCP" for port in ports.ports or ()):
        refuse(f"{path}.rules.http", "HTTP rules need the protocol TCP")
    for number, rule in enumerate(rules.http or ()):
        _check_http(rule, f"{path}.rules.http[{number}]")


def _check_dns(names: Sequence[Fqdn], matches: Sequence[PortMatch], path: str, direction: Direction) -> None:
    if direction is Direction.INGRESS:
        refuse(f"{path}.rules.dns", "DNS rules are for egress only")
    if not matches:
        refuse(f"{path}.ports", "DNS rules need a port")
    if any(match.end_port for match in matches):
        refuse(f"{path}.ports", "DNS rules and port ranges cannot stand together")
    if any(match.protocol == PROTOCOL_NUMBERS["SCTP"] for match in matches) and len(matches) == 1:
        refuse(f"{path}.ports", "DNS rules need TCP, UDP or ANY")
    for number, name in enumerate(names):
        check_fqdn(name, f"{path}.rules.dns[{number}]")


def _check_http(rule: HttpRule, path: str) -> None:
    """Refuse what is no regular expression; RE2 takes fewer than Python does, and the proxy has the last word."""
    for name in ("method", "path", "host"):
        text = getattr(rule, name)
        try:
            re.compile(text or "")
        except (re.error, RecursionError, OverflowError) as error:
            refuse(f"{path}.{name}", f"{text!r} is no regular expression: {error}")
