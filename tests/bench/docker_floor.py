"""A network driver that does nothing: pairs that stand already, answers without a thought. What a network of it costs is the engine's own doing.

`python -m tests.bench.docker_floor SOCKET PAIRS`, in the engine's network and mount namespace, until it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from typing import Any

from clients.docker import http

DRIVER = "floor"
_POOL, _GATEWAY = "10.9.0.0/16", "169.254.1.1"
_CONSTANT: dict[str, dict[str, Any]] = {
    "/Plugin.Activate": {"Implements": ["NetworkDriver", "IpamDriver"]},
    "/NetworkDriver.GetCapabilities": {"Scope": "local", "ConnectivityScope": "local"},
    "/NetworkDriver.EndpointOperInfo": {"Value": {}},
    "/IpamDriver.GetDefaultAddressSpaces": {"LocalDefaultAddressSpace": DRIVER, "GlobalDefaultAddressSpace": "floors"},
    "/IpamDriver.RequestPool": {
        "PoolID": _POOL,
        "Pool": _POOL,
        "Data": {"com.docker.network.gateway": f"{_GATEWAY}/32"},
    },
}


class Floor:
    """Gives out pairs in their order."""

    def __init__(self) -> None:
        self._addresses, self._pairs = itertools.count(2), itertools.count()
        self._given: dict[str, int] = {}

    async def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer the engine."""
        ask, answer = json.loads(body or b"{}"), _CONSTANT.get(path, {})
        if path == "/IpamDriver.RequestAddress":
            number = next(self._addresses)
            answer = {"Address": f"10.9.{number >> 8}.{number & 255}/32"}
        elif path == "/NetworkDriver.CreateEndpoint":
            pair = self._given[ask["EndpointID"]] = next(self._pairs)
            answer = {"Interface": {"MacAddress": f"02:66:6c:02:{pair >> 8:02x}:{pair & 255:02x}"}}
        elif path == "/NetworkDriver.Join":
            answer = {
                "InterfaceName": {"SrcName": f"flz{self._given[ask['EndpointID']]}", "DstPrefix": "eth"},
                "Gateway": _GATEWAY,
                "StaticRoutes": [{"Destination": f"{_GATEWAY}/32", "RouteType": 1}],
                "DisableGatewayService": True,
            }
        return 200, json.dumps(answer).encode()


async def run(socket: str, pairs: int) -> None:
    """Make the pairs, then serve."""
    lines = [f"link add fly{n} type veth peer name flz{n}\nlink set fly{n} up\n" for n in range(pairs)]
    subprocess.run(["ip", "-batch", "-"], input="".join(lines), text=True, check=True)  # noqa: ASYNC221 - before it serves
    server = await http.serve(socket, Floor().answer)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
