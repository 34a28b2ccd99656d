"""What the steps share: the lab, the report, and what earlier steps have found."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.schema.base import Empty
from fairlead.schema.datapath import ENDPOINTS, POLICY_MAP, REALISED, EndpointQuery, EndpointStatus, PolicyMapDump
from fairlead.schema.policy import POLICY_ROWS, PolicyRow
from tests.lab import publisher
from tests.lab.credentials import OTHER_SYSTEM
from tests.lab.lab import Lab
from tests.lab.network import LabError
from tests.lab.report import Report
from tests.lab.waiting import Seen, until

PLACES = {
    "employee-1": ("n1", "app=employee"),
    "intern-1": ("n1", "app=intern"),
    "protected-db": ("n2", "app=protected-db"),
    "web": ("n2", "app=web"),
    "employee-2": ("n3", "app=employee"),
}
"""The workloads of the story: node and label by name."""
FIRST_ORIGIN = "clustermesh-ingress-l4-policy"
POLICY: dict[str, Any] = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": FIRST_ORIGIN},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "protected-db"}},
        "ingress": [
            {
                "fromEndpoints": [{"matchLabels": {"app": "employee"}}],
                "toPorts": [{"ports": [{"port": "6379", "protocol": "TCP"}]}],
            }
        ],
    },
}


@dataclass
class Published:
    """What the publisher said."""

    trace: str
    published_s: float
    acknowledged_ms: float

    def ago_ms(self) -> float:
        """Return how long ago it was published; the clock is the machine's, so it is the publisher's too."""
        return (time.monotonic() - self.published_s) * 1000


@dataclass
class Story:
    """One run of the lab."""

    lab: Lab
    report: Report
    trace: str = ""
    """The trace id of the policy's publication."""
    seen: dict[str, str] = field(default_factory=dict)

    async def publish(self, subject: str, message: dict[str, Any]) -> Published:
        """Publish JSON as another system would, by a plain NATS client in the namespace `ctl`. Raises LabError."""
        keys = self.lab.programs.credentials.at_hub(OTHER_SYSTEM)
        command = (sys.executable, str(Path(publisher.__file__)), subject)
        done = await self.lab.run(
            "ctl",
            "env",
            f"OTEL_EXPORTER_OTLP_ENDPOINT={self.lab.programs.traces_url}",
            *(f"{name}={value}" for name, value in keys.items()),
            *command,
            text=json.dumps(message),
        )
        if not done.ok:
            raise LabError(f"the publisher failed: {done.err[-400:]}")
        return Published(**json.loads(done.out))

    def serve_redis(self, place: str, port: int = 6379) -> None:
        """Start a Redis on both families in a workload's namespace."""
        options = {
            "port": port,
            "bind": "0.0.0.0 ::",
            "protected-mode": "no",
            "save": "",
            "daemonize": "no",
            "dir": "/tmp",
        }
        flat = [word for name, value in options.items() for word in (f"--{name}", *(str(value).split() or [""]))]
        self.lab.start_program(place, "redis", "redis-server", *flat)

    def serve_other(self, place: str, port: int = 8080) -> None:
        """Start a server that answers PING on another port."""
        self.lab.start_program(
            place, "other", sys.executable, str(Path(__file__).parents[1] / "traffic.py"), "serve", str(port)
        )

    def identity(self, name: str) -> int:
        """Return the identity that the workload had when it was attached."""
        return int(self.lab.workloads[name].endpoint.identity)

    async def endpoint(self, name: str, node: str) -> EndpointStatus:
        """Return the endpoint as its node reports it now. Raises LabError."""
        listed = await self.lab.ask(node, lambda bus: bus.request(ENDPOINTS, Empty(), node=node_name(node)))
        for one in listed.endpoints:
            if one.name == name:
                return one
        raise LabError(f"{node} has no endpoint {name}")

    async def policy_map(self, name: str, node: str) -> PolicyMapDump:
        """Return the endpoint's policy map and where it is pinned."""
        ask = EndpointQuery(endpoint=name)
        return await self.lab.ask(node, lambda bus: bus.request(POLICY_MAP, ask, node=node_name(node)))

    async def policy_row(self, identity: int) -> PolicyRow | None:
        """Return what policy says of the identity."""
        return await self.lab.ask("ctl", lambda bus: bus.bucket(POLICY_ROWS).get(str(identity)))

    async def realised(self, node: str, identity: int) -> int:
        """Return the revision of the identity's row that the node reports as standing in its kernel; 0: none."""
        row = await self.lab.ask("ctl", lambda bus: bus.bucket(REALISED).get(node))
        return row.rows.get(str(identity), 0) if row else 0

    async def realised_after(self, node: str, identity: int, revision: int, *, within_s: float) -> Seen[int]:
        """Wait until the node reports a row newer than `revision`."""
        return await until(
            lambda: self.realised(node, identity), lambda now: now > revision, within_s=within_s, every_s=0.002
        )


def node_name(name: str) -> Any:
    """Return the text as the node's name; the lab's names are such."""
    return name
