r"""The CNI plugin: configuration on standard input, the call in the environment, the answer on standard output.

printf '#!/bin/sh\nexec /opt/fairlead/bin/python -m clients.cni\n' > /opt/cni/bin/fairlead && chmod +x /opt/cni/bin/fairlead
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from clients.cni import protocol
from clients.cni.plugin import CniPlugin
from clients.cni.protocol import Config, Refusal
from fairlead.bus_nats import NatsBus
from fairlead.errors import Exhausted, FairleadError, InvalidInput, Unavailable
from fairlead.schema.base import NodeName

_INTERNAL = 999


async def ask(config: Config, command: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Make the call over a connection of its own. Raises FairleadError."""
    node = config.node or environ.get("FAIRLEAD_NODE", "")
    if not node:
        raise Refusal(protocol.INVALID_CONFIG, "`node`: missing: name this node in the configuration")
    call = protocol.read_call(command, environ, config)
    bus = NatsBus(config.nats, name=f"cni.{node}", seed_file=config.credentials)
    bus.start()
    try:
        return await CniPlugin(bus, NodeName(node)).answer(call)
    finally:
        await bus.close()


def number_of(error: FairleadError) -> int:
    """Return CNI's number for an error."""
    match error:
        case Refusal(number=number):
            return number
        case InvalidInput():
            return protocol.INVALID_CONFIG
        case Unavailable() | Exhausted():
            return protocol.TRY_AGAIN
    return _INTERNAL


def run(text: bytes, environ: Mapping[str, str]) -> tuple[int, dict[str, Any] | None]:
    """Return exit status and answer."""
    version, command = protocol.VERSIONS[-1], environ.get("CNI_COMMAND", "")
    try:
        if command == "VERSION":
            return 0, {"cniVersion": version, "supportedVersions": list(protocol.VERSIONS)}
        config = protocol.read_config(text)
        version = config.version
        return 0, asyncio.run(ask(config, command, environ))
    except FairleadError as error:
        return 1, protocol.error(version, number_of(error), f"fairlead: {error.message}")


def main() -> int:
    """Answer the one call for which this process was started."""
    status, answer = run(sys.stdin.buffer.read(), os.environ)
    if answer is not None:
        print(msgspec.json.encode(answer).decode())
    return status


if __name__ == "__main__":
    sys.exit(main())
