"""What the engine asks its network and address drivers, in the engine's own words. Unknown fields are skipped, as its versions differ."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, field

from fairlead.errors import InvalidInput

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Options = dict[str, Any] | None
GENERIC = "com.docker.network.generic"
PORT_MAP = "com.docker.network.portmap"
GATEWAY = "com.docker.network.gateway"
INTERNAL = "com.docker.network.internal"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Anything the engine asks; nothing in it is needed."""


class Pool(Request, frozen=True, kw_only=True):
    """A pool of a network, as its address driver gave it."""

    pool: str = field(name="Pool", default="")
    gateway: str = field(name="Gateway", default="")


class NetworkRequest(Request, frozen=True, kw_only=True):
    """Something about a network."""

    network: Id = field(name="NetworkID")


class CreateNetwork(NetworkRequest, frozen=True, kw_only=True):
    """A network is to be made."""

    options: Options = field(name="Options", default=None)
    ipv4: list[Pool] | None = field(name="IPv4Data", default=None)
    ipv6: list[Pool] | None = field(name="IPv6Data", default=None)


class EndpointRequest(NetworkRequest, frozen=True, kw_only=True):
    """Something about an endpoint."""

    endpoint: Id = field(name="EndpointID")
    options: Options = field(name="Options", default=None)


class Interface(Request, frozen=True, kw_only=True):
    """What the engine has decided about an endpoint's interface; empty texts are undecided."""

    address: str = field(name="Address", default="")
    address_ipv6: str = field(name="AddressIPv6", default="")
    mac: str = field(name="MacAddress", default="")


class CreateEndpoint(EndpointRequest, frozen=True, kw_only=True):
    """An endpoint is to be made."""

    interface: Interface | None = field(name="Interface", default=None)


class Join(EndpointRequest, frozen=True, kw_only=True):
    """An endpoint goes into a sandbox, whose namespace may not exist yet."""

    sandbox: str = field(name="SandboxKey", default="")


class RequestPool(Request, frozen=True, kw_only=True):
    """A network needs a pool."""

    pool: str = field(name="Pool", default="")
    sub_pool: str = field(name="SubPool", default="")
    options: Options = field(name="Options", default=None)
    v6: bool = field(name="V6", default=False)


class PoolRequest(Request, frozen=True, kw_only=True):
    """Something about a pool."""

    pool_id: str = field(name="PoolID")


class AddressRequest(PoolRequest, frozen=True, kw_only=True):
    """An address is wanted, or given back."""

    address: str = field(name="Address", default="")
    options: Options = field(name="Options", default=None)


class PortBinding(Request, frozen=True, kw_only=True):
    """One published port as the engine writes it: protocol by number."""

    protocol: int = field(name="Proto", default=6)
    port: Annotated[int, Meta(ge=0, le=65535)] = field(name="Port", default=0)
    host_address: str = field(name="HostIP", default="")
    host_port: Annotated[int, Meta(ge=0, le=65535)] = field(name="HostPort", default=0)
    host_port_end: Annotated[int, Meta(ge=0, le=65535)] = field(name="HostPortEnd", default=0)


R = TypeVar("R", bound=Request)


def read(body: bytes, kind: type[R]) -> R:
    """Return the request. Raises InvalidInput naming the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request cannot be read: {error}") from error


def convert(value: object, kind: type[Any], name: str) -> Any:
    """Return an option's value as a `kind`. Raises InvalidInput naming the option."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"`{name}`: {error}") from error
