"""What a network's options say, and what a container's published ports are: pure, with errors that name the option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from clients.docker.addresses import GATEWAYS
from clients.docker.protocol import GENERIC, INTERNAL, PORT_MAP, CreateNetwork, Options, PortBinding, convert
from clients.docker.state import Network, Port
from fairlead.containers import ISOLATION, MTU, SWITCH
from fairlead.errors import InvalidInput

_ENGINE_MTU = "com.docker.network.driver.mtu"
_PROTOCOLS = {6: "tcp", 17: "udp"}
_Texts = dict[str, str]
_LONGEST = Annotated[list[PortBinding], Meta(max_length=4096)]


def network_of(ask: CreateNetwork) -> Network:
    """Return the network that is asked for. Raises InvalidInput naming the option and the mend."""
    options = ask.options or {}
    if options.get(INTERNAL) is True:
        raise InvalidInput("`--internal`: say with a policy what may leave the network, and leave this out")
    for pools in (ask.ipv4 or [], ask.ipv6 or []):
        for pool in pools:
            if pool.gateway.partition("/")[0] not in GATEWAYS.values():
                raise InvalidInput(
                    f"`--ipam-driver`: the addresses {pool.pool} are not Fairlead's: add `--ipam-driver fairlead` "
                    "(in a compose file `ipam: {driver: fairlead}`)"
                )
    given: _Texts = convert(options.get(GENERIC) or {}, _Texts, "-o")
    unknown = sorted(set(given) - {MTU, ISOLATION, _ENGINE_MTU})
    if unknown:
        raise InvalidInput(f"`-o`: {unknown[0]!r} is unknown: there are {MTU} and {ISOLATION}")
    return Network(id=ask.network, mtu_bytes=_mtu(given, bool(ask.ipv6)), isolation=_isolation(given))


def options_of(given: Options, network: Network, name: str) -> Network:
    """Return the network with what the engine shows of its options; those that it cannot have accepted do not count."""
    if given is None:
        return msgspec.structs.replace(network, name=name)
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    try:
        return msgspec.structs.replace(network, name=name, mtu_bytes=_mtu(texts, False), isolation=_isolation(texts))
    except InvalidInput:
        return msgspec.structs.replace(network, name=name)


def _mtu(given: Mapping[str, str], with_ipv6: bool) -> int:
    name = MTU if MTU in given else _ENGINE_MTU
    text = given.get(name, "0")
    least = 1280 if with_ipv6 else 68
    if not text.isascii() or not text.isdecimal() or (int(text) and not least <= int(text) <= 65535):
        raise InvalidInput(f"`{name}`: {text!r} is no MTU: give {least} to 65535, or 0 for the uplink's")
    return int(text)


def _isolation(given: Mapping[str, str]) -> str:
    text = given.get(ISOLATION)
    if text is None:
        return ""
    if text.lower() not in SWITCH:
        raise InvalidInput(f"`{ISOLATION}`: {text!r} is neither on nor off")
    return "on" if SWITCH[text.lower()] else "off"


def ports_of(options: Options) -> tuple[Port, ...]:
    """Return the ports to publish. Raises InvalidInput naming the option."""
    bindings: list[PortBinding] = convert((options or {}).get(PORT_MAP) or [], _LONGEST, "-p")
    return tuple(sorted(_port(binding) for binding in bindings))


def _port(binding: PortBinding) -> Port:
    protocol = _PROTOCOLS.get(binding.protocol)
    if protocol is None:
        raise InvalidInput(f"`-p`: protocol {binding.protocol} cannot be published: only tcp and udp can")
    if not binding.host_port:
        raise InvalidInput(
            f"`-p`: say which port of the host leads to {binding.port}/{protocol}, for instance `-p 8080:{binding.port}`: "
            "the engine has no way to hear which one was chosen"
        )
    if binding.host_port_end > binding.host_port:
        raise InvalidInput(f"`-p`: {binding.host_port}-{binding.host_port_end}: give one port of the host per port")
    return Port(protocol=protocol, host_port=binding.host_port, port=binding.port, host_address=binding.host_address)
