"""CNI 1.1 as it is spoken: what a call asks, and how it is answered. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from fairlead.address import Address, Family
from fairlead.errors import FairleadError, InvalidInput

VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
GATEWAYS = {Family.IPV4: "169.254.1.1", Family.IPV6: "fe80::1"}
INCOMPATIBLE, UNSUPPORTED, UNKNOWN_CONTAINER, INVALID_ENVIRONMENT, UNREADABLE, INVALID_CONFIG, TRY_AGAIN = (
    1,
    2,
    3,
    4,
    6,
    7,
    11,
)
CANNOT_ADD = 50
_CONTAINER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
_INTERFACE = re.compile(r"^[A-Za-z0-9_.-]{1,15}$")


class Refusal(FairleadError):
    """What the runtime must hear, with CNI's number for it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment that the runtime still knows."""

    container: str = field(name="containerID")
    interface: str = field(name="ifname")


class Args(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the workload."""

    labels: dict[str, str] = field(default_factory=dict)
    ips: tuple[str, ...] = ()


class AllArgs(msgspec.Struct, frozen=True, kw_only=True):
    """`args` of the configuration."""

    cni: Args = field(default_factory=Args)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration on standard input; unknown fields belong to others."""

    version: str = field(name="cniVersion", default="0.4.0")
    name: str = ""
    node: Annotated[str, Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")] = ""
    nats: str = "nats://127.0.0.1:4222"
    credentials: str = ""
    mtu: Annotated[int, Meta(ge=0, le=65535)] = 0
    labels: dict[str, str] = field(default_factory=dict)
    args: AllArgs = field(default_factory=AllArgs)
    attachments: tuple[Attachment, ...] | None = field(name="cni.dev/valid-attachments", default=None)
    previous: dict[str, Any] | None = field(name="prevResult", default=None)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call, read and checked."""

    command: str
    container: str
    netns: str
    interface: str
    config: Config

    @property
    def workload(self) -> str:
        """Return the workload's name for the node's services."""
        return workload(self.config.name, self.container, self.interface)


def workload(network: str, container: str, interface: str) -> str:
    """Return the name of an attachment."""
    return f"cni/{network}/{container}/{interface}".rstrip("._-")


def read_config(text: bytes) -> Config:
    """Return the configuration. Raises Refusal."""
    try:
        config = msgspec.json.decode(text, type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(UNREADABLE, f"the configuration cannot be read: {error}") from error
    if config.version not in VERSIONS:
        raise Refusal(
            INCOMPATIBLE, f"`cniVersion`: {config.version!r} is not spoken here: use one of {', '.join(VERSIONS)}"
        )
    if not _CONTAINER.match(config.name):
        raise Refusal(INVALID_CONFIG, f"`name`: {config.name!r} is no network name: letters, digits and _ . -")
    return config


def read_call(command: str, environ: Mapping[str, str], config: Config) -> Call:
    """Return the call that environment and configuration make. Raises Refusal naming the variable."""
    container, interface = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
    netns = environ.get("CNI_NETNS", "")
    if command in ("ADD", "DEL", "CHECK"):
        if not _CONTAINER.match(container):
            raise Refusal(INVALID_ENVIRONMENT, f"`CNI_CONTAINERID`: {container[:40]!r}: letters, digits and _ . -")
        if not _INTERFACE.match(interface):
            raise Refusal(
                INVALID_ENVIRONMENT, f"`CNI_IFNAME`: {interface[:40]!r}: at most 15 letters, digits and _ . -"
            )
        if command != "DEL" and not netns.startswith("/"):
            raise Refusal(INVALID_ENVIRONMENT, f"`CNI_NETNS`: {netns[:40]!r}: the path of a network namespace")
    return Call(command=command, container=container, netns=netns, interface=interface, config=config)


def labels_of(config: Config) -> tuple[str, ...]:
    """Return the labels of the workload: those of the network, then those told of the workload itself."""
    return tuple(f"{key}={value}" if value else key for key, value in (config.labels | config.args.cni.labels).items())


def wanted_addresses(config: Config) -> tuple[Address, ...]:
    """Return the addresses asked for. Raises Refusal."""
    try:
        return tuple(Address(text.partition("/")[0]) for text in config.args.cni.ips)
    except InvalidInput as error:
        raise Refusal(INVALID_CONFIG, f"`args.cni.ips`: {error.message}") from error


def result(call: Call, addresses: tuple[Address, ...], mac: str, host_interface: str) -> dict[str, Any]:
    """Return what ADD answers."""
    families = sorted({address.family for address in addresses})
    zero = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
    return {
        "cniVersion": call.config.version,
        "interfaces": [{"name": host_interface}, {"name": call.interface, "mac": mac, "sandbox": call.netns}],
        "ips": [
            {"address": f"{address}/{address.family.bits}", "gateway": GATEWAYS[address.family], "interface": 1}
            | ({"version": str(address.family.value)} if call.config.version == "0.4.0" else {})
            for address in addresses
        ],
        "routes": [{"dst": zero[family], "gw": GATEWAYS[family]} for family in families],
        "dns": {},
    }


def error(version: str, number: int, message: str) -> dict[str, Any]:
    """Return an error as the runtime reads it."""
    return {"cniVersion": version, "code": number, "msg": message}
