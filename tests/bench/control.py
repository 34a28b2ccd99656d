"""`make bench-control`: from a published policy to every kernel, from an attach to the first packet, and memory at rest.

Runs the lab's network with real processes. Each round interleaves what is measured with a baseline on the same machine at the same
moment: a bare JetStream KV put seen by a watch, and a namespace wired by `ip` alone. Ends with `name=value` lines.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from clients.cli.workload import Workload, attach
from fairlead.bus import Changed, Synced
from fairlead.bus_nats import NatsBus
from fairlead.errors import FairleadError
from fairlead.schema.base import BucketSpec, NodeName
from fairlead.schema.datapath import REALISED, RealisedRow
from fairlead.schema.ipam import CLAIMS, Claim
from fairlead.schema.policy import POLICY_PUBLISHED
from tests.lab import network
from tests.lab.lab import Lab
from tests.lab.probes import knock
from tests.lab.waiting import until

SERVICES = ("ipam", "identity", "policy", "datapath", "bgp")
NODES = ("n1", "n2", "n3")
BASELINE = BucketSpec("bench", RealisedRow, owner="bench", summary="baseline of the control benchmark")
_READY_S = 30.0
_ROUND_S = 10.0
_REST_S = 3.0


@dataclass
class Figures:
    """Milliseconds of every round, and bytes of every process."""

    realised_ms: list[float] = field(default_factory=list)
    bus_ms: list[float] = field(default_factory=list)
    attach_ms: list[float] = field(default_factory=list)
    attach_new_ms: list[float] = field(default_factory=list)
    plumbing_ms: list[float] = field(default_factory=list)
    rss_bytes: dict[str, int] = field(default_factory=dict)


def policy(port: int) -> bytes:
    """Return a policy that selects the benchmark's workloads on every node; another port makes another row."""
    rule = {"fromEndpoints": [{"matchLabels": {"app": "bench"}}], "toPorts": [{"ports": [{"port": str(port)}]}]}
    spec = {"endpointSelector": {"matchLabels": {"app": "bench-target"}}, "ingress": [rule]}
    metadata = {"name": "bench"}
    return json.dumps(
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}
    ).encode()


async def wait_ready(lab: Lab) -> None:
    """Wait until every node has its claim."""

    async def claims() -> dict[str, Claim]:
        try:
            return await lab.ask("ctl", lambda bus: bus.bucket(CLAIMS).rows())
        except FairleadError:
            return {}

    seen = await until(claims, lambda rows: set(NODES) <= rows.keys(), within_s=_READY_S, every_s=0.1)
    assert seen.ok, f"the lab did not come up: {sorted(seen.value)}"


class Watch:
    """The rows of a bucket as they arrive."""

    def __init__(self, bus: NatsBus, spec: BucketSpec[RealisedRow]) -> None:
        self._bucket = bus.bucket(spec)
        self.rows: dict[str, RealisedRow] = {}
        self.synced = asyncio.Event()
        self._news = asyncio.Condition()

    async def run(self) -> None:
        async with contextlib.aclosing(self._bucket.watch()) as events:
            async for event in events:
                if isinstance(event, Synced):
                    self.synced.set()
                if isinstance(event, Changed):
                    async with self._news:
                        self.rows[event.key] = event.row
                        self._news.notify_all()

    async def until(self, wanted: object) -> None:
        async with asyncio.timeout(_ROUND_S), self._news:
            await self._news.wait_for(wanted)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def watching(bus: NatsBus, spec: BucketSpec[RealisedRow]) -> AsyncGenerator[Watch, None]:
    """Give a watch that has listed everything."""
    watch = Watch(bus, spec)
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(watch.synced.wait(), _ROUND_S)
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def publish_rounds(bus: NatsBus, identity: str, rounds: int, figures: Figures) -> None:
    """Publish a changed policy, wait for all nodes; then the baseline; and again."""
    await bus.bucket(BASELINE).ensure()
    try:
        async with watching(bus, REALISED) as realised, watching(bus, BASELINE) as plain:
            for number in range(-3, rounds):  # three rounds to warm up
                took = await realise_once(bus, realised, identity, 10_000 + number)
                bare = await put_once(bus, plain, number + 4)
                if number >= 0:
                    figures.realised_ms.append(took)
                    figures.bus_ms.append(bare)
    finally:
        await (await bus.jetstream()).delete_stream(f"KV_{BASELINE.name}")


async def realise_once(bus: NatsBus, watch: Watch, identity: str, port: int) -> float:
    """Return the milliseconds from publishing to the last of the nodes confirming."""
    before = {node: watch.rows[node].rows.get(identity, 0) for node in NODES}

    def everywhere() -> bool:
        return all(watch.rows[node].rows.get(identity, 0) > before[node] for node in NODES)

    began_s = time.perf_counter()
    js = await bus.jetstream()
    await js.publish(POLICY_PUBLISHED.on(), policy(port), headers={"Content-Type": "application/json"})
    await watch.until(everywhere)
    return (time.perf_counter() - began_s) * 1000


async def put_once(bus: NatsBus, watch: Watch, number: int) -> float:
    """Return the milliseconds from a KV put to its watch."""
    began_s = time.perf_counter()
    await bus.bucket(BASELINE).put("row", RealisedRow(node=NodeName("bench"), rows={}, revision=number))
    await watch.until(lambda: "row" in watch.rows and watch.rows["row"].revision == number)
    return (time.perf_counter() - began_s) * 1000


async def attach_rounds(lab: Lab, rounds: int, figures: Figures) -> None:
    """Attach a workload with known labels, one with new labels, and wire a namespace by hand; in turn."""
    target = lab.address("bench-n2")
    for number in range(rounds):
        known = await attach_once(lab, f"known-{number}", "app=bench", target)
        new = await attach_once(lab, f"new-{number}", f"app=bench-{number}", target)
        plumbing = await asyncio.to_thread(plumb_once, lab)
        figures.attach_ms.append(known)
        figures.attach_new_ms.append(new)
        figures.plumbing_ms.append(plumbing)


async def attach_once(lab: Lab, name: str, label: str, target: str) -> float:
    """Return the milliseconds from the request to the first connection answered by a workload on another node."""
    path = network.add_namespace(lab.topology, name)
    wanted = Workload(name=name, node=NodeName("n1"), netns=path, labels=(label,), wait_s=5)
    began_s = time.perf_counter()
    lab.workloads[name] = await lab.ask("n1", lambda bus: attach(bus, wanted))
    assert lab.workloads[name].ready, lab.workloads[name].endpoint
    seen = await until(lambda: knock(lab, name, target, 8080, timeout_s=0.1), bool, within_s=5, every_s=0.001)
    took_ms = (time.perf_counter() - began_s) * 1000
    assert seen.ok, f"{name} never reached {target}"
    await lab.detach(name, "n1")
    return took_ms


def plumb_once(lab: Lab) -> float:
    """Return the milliseconds that `ip -batch` takes to wire one namespace: a veth pair, an address, a default route."""
    path = network.add_namespace(lab.topology, "plumb")
    name = path.rsplit("/", 1)[-1]
    outside = f"link add plumb0 type veth peer name eth0 netns {name}\nlink set plumb0 up\n"
    inside = "addr add 10.254.0.2/32 dev eth0\nlink set eth0 up\nroute add default dev eth0\n"
    began_s = time.perf_counter()
    network.run(network.inside(lab.topology.path("n1"), "ip", "-batch", "-"), outside)
    network.run(network.inside(path, "ip", "-batch", "-"), inside)
    took_ms = (time.perf_counter() - began_s) * 1000
    network.remove_namespace(lab.topology, "plumb")
    return took_ms


async def measure(rounds: int, attaches: int) -> Figures:
    """Run the lab and return what was measured."""
    figures = Figures()
    async with Lab() as lab:
        await wait_ready(lab)
        for node in NODES:
            await lab.attach(f"bench-{node}", node, ("app=bench",))
            await lab.attach(f"target-{node}", node, ("app=bench-target",))
        lab.start_program("bench-n2", "other", sys.executable, "tests/lab/traffic.py", "serve", "8080")
        await lab.listening("bench-n2", 8080)
        identity = str(lab.workloads["target-n1"].endpoint.identity)
        await lab.ask("ctl", lambda bus: publish_rounds(bus, identity, rounds, figures))
        await attach_rounds(lab, attaches, figures)
        await asyncio.sleep(_REST_S)
        all_rss = lab.rss_bytes()
        figures.rss_bytes = {name: size for name, size in all_rss.items() if name.split("/")[1] in SERVICES}
    return figures


def row(name: str, values: Sequence[float]) -> str:
    """Return one line of the table: median, 90th percentile, worst."""
    high = statistics.quantiles(values, n=10)[-1]
    return f"{name:44} {statistics.median(values):9.1f} {high:9.1f} {max(values):9.1f} {len(values):6}"


def show(figures: Figures) -> None:
    """Print the tables, the ratios to the baselines and the figures."""
    print(f"{'milliseconds':44} {'median':>9} {'p90':>9} {'worst':>9} {'rounds':>6}")
    print(row("policy published -> realised on 3 nodes", figures.realised_ms))
    print(row("  baseline: one KV put -> its watch", figures.bus_ms))
    print(row("attach, labels known -> first answer", figures.attach_ms))
    print(row("attach, new identity -> first answer", figures.attach_new_ms))
    print(row("  baseline: the same wiring by `ip -batch`", figures.plumbing_ms))
    print(f"\n{'resident memory at rest':44} {'MiB':>9}")
    for name, size in figures.rss_bytes.items():
        print(f"{name:44} {size / 2**20:9.1f}")
    realised, attached = statistics.median(figures.realised_ms), statistics.median(figures.attach_ms)
    datapath = max(size for name, size in figures.rss_bytes.items() if name.endswith("/datapath"))
    print()
    print(f"publish_to_realised_ms_p50={realised:.1f}")
    print(f"publish_to_realised_ms_max={max(figures.realised_ms):.1f}")
    print(f"publish_to_realised_vs_kv_put={realised / statistics.median(figures.bus_ms):.1f}")
    print(f"attach_ms_p50={attached:.1f}")
    print(f"attach_new_identity_ms_p50={statistics.median(figures.attach_new_ms):.1f}")
    print(f"attach_vs_ip_batch={attached / statistics.median(figures.plumbing_ms):.1f}")
    print(f"rss_mb_datapath={datapath / 2**20:.1f}")
    print(f"rss_mb_max={max(figures.rss_bytes.values()) / 2**20:.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="publications (default 50)")
    parser.add_argument("--attaches", type=int, default=20, help="attaches of each kind (default 20)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-control: needs root for network namespaces and BPF")
    show(asyncio.run(measure(options.rounds, options.attaches)))


if __name__ == "__main__":
    main()
