"""Published ports: rules for what comes from elsewhere, and a relay for what begins on this node itself.

The relay's listening socket is also what reserves the port, so that a port that is taken is an error of `docker run`. It serves
nobody but this node, and the container itself: if the rules are away, others find the port closed instead of a way around the
container's policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable

from clients.docker.datagrams import DatagramRelay
from clients.docker.ruleset import PODS, host_address, ruleset
from clients.docker.state import Endpoint, Port, State
from fairlead.address import Family
from fairlead.errors import Conflict, FairleadError

Relay = asyncio.Server | DatagramRelay
_LOG = logging.getLogger("docker.publish")
_COMMAND_S = 5.0
_CONNECT_S = 5.0
_BLOCK_BYTES = 64 * 1024
_FORWARD = (
    ("-o", PODS, "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"),
    ("-i", PODS, "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"),
)
"""The engine has netfilter drop what it did not allow itself; policy is the datapath's affair."""


class PortPublisher:
    """Publishes ports of endpoints; `state` says which."""

    def __init__(self, state: State, condition: Callable[[str, bool, str], None]) -> None:
        self._state = state
        self._condition = condition
        self._turn = asyncio.Lock()
        self._relays: dict[str, list[Relay]] = {}
        self._loaded = ""

    async def publish(self, endpoint: Endpoint) -> None:
        """Make the endpoint's ports be published. Raises Conflict for one that is taken, FairleadError without netfilter."""
        async with self._turn:
            await self._close(endpoint.id)
            try:
                await self._open(endpoint)
                await self._load()
            except BaseException:
                await self._close(endpoint.id)
                raise

    async def _open(self, endpoint: Endpoint) -> None:
        """Reserve all of the endpoint's ports, or none."""
        opened: list[Relay] = []
        try:
            for port in endpoint.ports:
                opened += await _reserve(port, endpoint)
        except BaseException:
            for server in opened:
                server.close()
            raise
        self._relays[endpoint.id] = opened

    async def withdraw(self, endpoint: str) -> None:
        """Publish nothing of the endpoint."""
        if endpoint not in self._relays:
            return
        async with self._turn:
            await self._close(endpoint)
            try:
                await self._load()
            except FairleadError as error:  # the container is gone: nobody answers there
                _LOG.warning("rules of %s stay for now: %s", endpoint[:12], error.message)

    async def _close(self, endpoint: str) -> None:
        for server in self._relays.pop(endpoint, []):
            server.close()

    async def restore(self) -> None:
        """Publish again what the state says, after a start and whenever something may have removed the rules."""
        failures = []
        async with self._turn:
            # all are opened before any rule is written: rules of some only would take the others' away for that long
            for endpoint in list(self._state.endpoints.values()):
                if endpoint.ports and endpoint.id not in self._relays:
                    try:
                        await self._open(endpoint)
                    except FairleadError as error:
                        failures.append(error.message)
            self._loaded = ""
            try:
                if self._relays or failures:
                    await self._load()
            except FairleadError as error:
                failures.append(error.message)
        self._condition("published ports", not failures, "; ".join(failures))

    async def _load(self) -> None:
        published = [self._state.endpoints[name] for name in self._relays if name in self._state.endpoints]
        text = ruleset(published)
        if text == self._loaded:
            return
        await _run("nft", "-f", "-", stdin=text)
        for program, family in (("iptables", Family.IPV4), ("ip6tables", Family.IPV6)):
            if any(address.family is family for endpoint in published for address in endpoint.addresses):
                await _forward(program)
        self._loaded = text

    async def close(self) -> None:
        """Stop relaying; the rules stay, and with them the ports."""
        for endpoint in list(self._relays):
            await self._close(endpoint)


async def _reserve(port: Port, endpoint: Endpoint) -> list[Relay]:
    """Listen on the port of the host. Raises Conflict when it is taken."""
    wanted = host_address(port)
    families = (wanted.family,) if wanted else (Family.IPV4, Family.IPV6)
    servers: list[Relay] = []
    for family in families:
        try:
            servers += await _listen(port, family, str(wanted or ""), endpoint)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and not wanted:
                continue
            for server in servers:
                server.close()
            place = f"{port.host_address or '*'}:{port.host_port}/{port.protocol}"
            raise Conflict(
                f"`-p`: {place} cannot be published: {error.strerror}: choose another port of the host"
            ) from error
    return servers


async def _listen(port: Port, family: Family, address: str, endpoint: Endpoint) -> list[Relay]:
    tcp = port.protocol == "tcp"
    made = socket.socket(
        socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    )
    try:
        if family is Family.IPV6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if tcp:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port.host_port))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    target = str(next((one for one in endpoint.addresses if one.family is family), endpoint.addresses[0]))
    if not tcp:
        return [DatagramRelay(made, target, port.port)]
    return [await asyncio.start_server(lambda reader, writer: _relay(reader, writer, target, port.port), sock=made)]


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, port: int) -> None:
    """Carry one connection that began on this node, or in the container itself, to the container and back."""
    far: asyncio.StreamWriter | None = None
    with contextlib.suppress(OSError, TimeoutError):
        if writer.get_extra_info("peername")[0] in {writer.get_extra_info("sockname")[0], target}:
            async with asyncio.timeout(_CONNECT_S):
                answers, far = await asyncio.open_connection(target, port)
            await asyncio.gather(_carry(reader, far), _carry(answers, writer))
    for end in (writer, far):
        if end is not None:
            end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BLOCK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _forward(program: str) -> None:
    """Let netfilter forward what a published port leads to a container."""
    for rule in _FORWARD:
        try:
            await _run(program, "-w", "-C", "FORWARD", *rule)
        except FairleadError:
            await _run(program, "-w", "-I", "FORWARD", *rule)


async def _run(*command: str, stdin: str = "") -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise FairleadError(
            f"`-p`: {command[0]} is not installed: install nftables and iptables on this host"
        ) from error
    try:
        async with asyncio.timeout(_COMMAND_S):
            _, said = await process.communicate(stdin.encode())
    except TimeoutError as error:
        process.kill()
        raise FairleadError(f"`{' '.join(command)}` did not end within {_COMMAND_S:g} s") from error
    if process.returncode:
        raise FairleadError(f"`{' '.join(command)}`: {said.decode(errors='replace').strip()[:500]}")
