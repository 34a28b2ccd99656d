"""Ports, protocols and ICMP types: from what people write to numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from fairlead.errors import InvalidInput
from services.policy.documents import IcmpField, KubernetesPort, PortProtocol
from services.policy.labels import PROTOCOL_NUMBERS

ICMP = 1
ICMPV6 = 58
_LONGEST_SERVICE_NAME = 15
_MOST_DIGITS = 100
"""Python refuses to read thousands, and reads hundreds of thousands slowly."""
_ICMP_TYPES: Mapping[str, Mapping[str, int]] = {
    "IPv4": {
        "EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8,
        "RouterAdvertisement": 9, "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13,
        "TimestampReply": 14, "Photuris": 40, "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43,
    },
    "IPv6": {
        "DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128,
        "EchoReply": 129, "MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132,
        "RouterSolicitation": 133, "RouterAdvertisement": 134, "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136, "RedirectMessage": 137, "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158, "ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
    },
}  # fmt: skip


class PortMatch(NamedTuple):
    """Traffic by protocol and port; `protocol` 0 is all of it, `port` 0 every port, `end_port` 0 no range.

    With a `name` the number is the workload's own, and `protocol` is what the name must agree with.
    """

    protocol: int = 0
    port: int = 0
    end_port: int = 0
    name: str = ""


EVERYTHING = PortMatch()


def refuse(path: str, problem: str) -> NoReturn:
    """Raise InvalidInput that begins with the field."""
    raise InvalidInput(f"`{path}`: {problem}")


def is_service_name(text: str) -> bool:
    """Tell whether the text is a service name as IANA has them: 1-15 letters, digits and single dashes, one letter at least."""
    plain = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", text)
    return bool(plain and len(text) <= _LONGEST_SERVICE_NAME and "--" not in text and re.search(r"[A-Za-z]", text))


def parse_port(text: str, path: str) -> int:
    """Return the number in `text`; a leading 0 makes it octal, as in the reference. Raises InvalidInput."""
    if not re.fullmatch(r"[0-9]+", text):
        refuse(path, f'{text!r} is neither a port number nor a service name: write "443" or a name like "https"')
    if len(text) > _MOST_DIGITS:
        refuse(path, f"a number of {len(text)} digits is larger than 65535")
    base = 8 if text.startswith("0") else 10
    if base == 8 and re.search("[89]", text):
        refuse(path, f"{text!r} begins with 0 and is no octal number: leave out the leading zero")
    number = int(text, base)
    if number > 65535:
        refuse(path, f"{text!r} is larger than 65535")
    return number


def port_matches(port: PortProtocol, path: str, warnings: list[str]) -> list[PortMatch]:
    """Return what one entry of `ports` matches; ANY means TCP, UDP and SCTP. Raises InvalidInput."""
    if port.protocol in ("VRRP", "IGMP"):
        refuse(f"{path}.protocol", f"{port.protocol} is not enforced yet: leave the rule out, or name TCP, UDP or SCTP")
    if not port.port:
        refuse(f"{path}.port", 'a port is needed: write "0" for every port of the protocol')
    protocols = list(PROTOCOL_NUMBERS.values()) if port.protocol == "ANY" else [PROTOCOL_NUMBERS[port.protocol]]
    if is_service_name(port.port):
        if port.end_port:
            warnings.append(f"`{path}.endPort` has no effect beside a named port")
        return [PortMatch(protocol, name=port.port.lower()) for protocol in protocols]
    first = parse_port(port.port, f"{path}.port")
    if port.port.startswith("0") and first:
        warnings.append(f"`{path}.port`: {port.port!r} begins with 0 and is read as octal, port {first}")
    if not first and port.end_port:
        refuse(f"{path}.endPort", 'releases disagree on port 0 with endPort: write "1" as the first port')
    return [PortMatch(protocol, first, _end(first, port.end_port)) for protocol in protocols]


def kubernetes_port(port: KubernetesPort, path: str) -> PortMatch:
    """Return what one entry of a NetworkPolicy's `ports` matches. Raises InvalidInput."""
    protocol = PROTOCOL_NUMBERS[port.protocol]
    if isinstance(port.port, int):
        if not 0 < port.port < 65536:
            refuse(f"{path}.port", f"{port.port} is not between 1 and 65535")
        if port.end_port is not None and not port.port <= port.end_port < 65536:
            refuse(f"{path}.endPort", f"{port.end_port} is not between {port.port} and 65535")
        return PortMatch(protocol, port.port, _end(port.port, port.end_port))
    if port.end_port is not None:
        refuse(f"{path}.endPort", "a range needs a numeric `port`")
    if port.port is None:
        return PortMatch(protocol)
    if not is_service_name(port.port) or port.port != port.port.lower():
        refuse(f"{path}.port", f"{port.port!r} is not a port name: at most 15 of a-z, 0-9 and -, with a letter")
    return PortMatch(protocol, name=port.port)


def icmp_match(field: IcmpField, path: str) -> PortMatch:
    """Return what one ICMP type matches: it stands where the port does; type 0 stands for every type. Raises InvalidInput."""
    protocol = ICMP if field.family == "IPv4" else ICMPV6
    number = _icmp_type(field, path)
    if not 0 <= number <= 255:
        refuse(f"{path}.type", f"{number} is not between 0 and 255")
    return PortMatch(protocol, number)


def _icmp_type(field: IcmpField, path: str) -> int:
    if isinstance(field.type, int):
        return field.type
    if field.type.isascii() and field.type.isdigit() and len(field.type) <= _MOST_DIGITS:
        return int(field.type)
    names = _ICMP_TYPES[field.family]
    if field.type not in names:
        refuse(f"{path}.type", f"{field.type!r} is no {field.family} type: one of {', '.join(sorted(names))}, or 0-255")
    return names[field.type]


def _end(first: int, last: int | None) -> int:
    """Return the end of a range, or 0 where it is a single port: an end not above the first port means just that."""
    return last if last is not None and last > first else 0
