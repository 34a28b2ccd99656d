"""`make bench-docker`: containers on a Fairlead network beside Docker's own bridge, beside no network, and beside a driver that does nothing.

One host for real. Rounds are interleaved, so that all four meet the same machine; image, command and labels are the same. What a network costs
is the time of `docker start` less that of a container without any. The plugin makes endpoints ahead while nothing is asked of it; each start
waits until it has, so that this falls into nobody's time. `--spares 0` shows what it costs without. `fl` has labels that nobody ever had, so an
identity and its policy are made while it starts; `known` is on the same network with the labels of a container that runs. Ends with `name=value` lines.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from fairlead.schema.datapath import EndpointState
from tests.bench.docker_floor import DRIVER
from tests.docker.dockerd import IMAGE, why_not
from tests.docker.host import NETWORK_OPTIONS, Host, new_host, until
from tests.kernel import rig

KINDS = ("fl", "known", "br", "floor", "none")
_REST_S = 0.3
_AT_ONCE = 16
_TRY = "for i in 1 2 3 4 5; do nc -w 1 {address} 80 </dev/null >/dev/null 2>&1 && echo leak; done; exec sleep 9999"


def start_ms(host: Host, kind: str, number: int) -> float:
    """Return how long `docker start` of a new container takes; the container stays."""
    rested(host)
    name, network = f"{kind}-{number}", "fl" if kind == "known" else kind
    labels = ("--label", "app=known" if kind == "known" else f"app=bench-{number}", "--label", "bench=1")
    host.engine.run("create", "--name", name, "--network", network, *labels, IMAGE, "sleep", "9999")
    began = time.perf_counter()
    host.engine.run("start", name)
    return (time.perf_counter() - began) * 1000


def rested(host: Host) -> None:
    """Wait until the plugin has its stock of endpoints again, and until what a start has left to be done is done."""
    folder = host.plugin_state / "spares"
    until(lambda: len(list(folder.glob("*.json"))) == host.spares, what="the plugin's stock")
    time.sleep(_REST_S)


def enforced_ms(host: Host, name: str) -> float:
    """Return the time from the start of the container's process to its policy; 0 when policy was there first."""
    address = host.address(name)
    status = until(
        lambda: next(
            (one for one in host.endpoints() if address in one.addresses and one.state is EndpointState.READY), None
        ),
        what=f"{name} to be ready",
    )
    text = host.engine.said("inspect", "-f", "{{.State.StartedAt}}", name)
    started = datetime.fromisoformat(text[:26].rstrip("Z")).replace(tzinfo=UTC)
    reached: datetime = status.since
    return max(0.0, (reached - started).total_seconds() * 1000)


def rounds(host: Host, count: int) -> tuple[dict[str, list[float]], list[float]]:
    """Start one container per network and round; return the times of start, and from start to policy."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    enforced: list[float] = []
    for number in range(count):
        turn = number % len(KINDS)
        for kind in (*KINDS[turn:], *KINDS[:turn]):
            took[kind].append(start_ms(host, kind, number))
        enforced.append(enforced_ms(host, f"fl-{number}"))
        host.engine.run("rm", "-f", *(f"{kind}-{number}" for kind in KINDS))
    return took, enforced


@contextlib.contextmanager
def idle_driver(host: Host, pairs: int) -> Iterator[None]:
    """Have a network of the driver that does nothing."""
    socket = f"/run/docker/plugins/{DRIVER}.sock"
    inside = [*host.engine.inside, sys.executable, "-m", "tests.bench.docker_floor", socket, str(pairs)]
    with subprocess.Popen(inside) as process:
        try:
            create = ("network", "create", "-d", DRIVER, "--ipam-driver", DRIVER, "floor")
            until(lambda: host.engine.run(*create, check=False).returncode == 0, what="the idle driver")
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def crowd(host: Host, count: int, server: str) -> Iterator[float]:
    """Start many containers together, none of which may reach the server; give the seconds until all were ready."""
    names = [f"many-{number}" for number in range(count)]
    command = ("sh", "-c", _TRY.format(address=server))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name in names:
            label = ("--label", "fairlead.egress.allow=192.0.2.9")
            host.engine.run("create", "--name", name, "--network", "fl", *label, IMAGE, *command)
        began = time.perf_counter()
        list(pool.map(lambda name: host.engine.run("start", name, timeout_s=300), names))
        host.ready(count + 1, 120)
        yield time.perf_counter() - began
        until(lambda: len(host.engine.said("ps", "-q").split()) == count + 1, what="all to run")
        list(pool.map(lambda name: host.engine.run("rm", "-f", name, timeout_s=300), names))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leaks(host: Host, count: int) -> int:
    """Return how many connections the crowd's containers got through."""
    return sum(host.engine.said("logs", f"many-{number}").count("leak") for number in range(count))


def report(took: dict[str, list[float]], enforced: list[float], crowd_s: float, leaked: int, rss_bytes: int) -> None:
    """Print the figures."""
    median = {kind: statistics.median(times) for kind, times in took.items()}
    for kind, times in took.items():
        print(
            f"docker start on {kind:5} median {median[kind]:6.1f} ms, best {min(times):6.1f}, worst {max(times):6.1f}"
        )
    print(f"process started to policy enforced: worst {max(enforced):.1f} ms of {len(enforced)}")
    print(f"all containers at once: ready after {crowd_s:.1f} s, {leaked} connections past a policy")
    network = {kind: median[kind] - median["none"] for kind in KINDS if kind != "none"}
    print(f"docker_start_fairlead_ms={median['fl']:.1f}")
    print(f"docker_start_bridge_ms={median['br']:.1f}")
    print(f"docker_run_vs_bridge={network['fl'] / network['br']:.2f}")
    print(f"docker_run_known_labels_vs_bridge={network['known'] / network['br']:.2f}")
    print(f"docker_idle_driver_vs_bridge={network['floor'] / network['br']:.2f}")
    print(f"start_to_enforced_ms_p50={statistics.median(enforced):.1f}")
    print(f"containers_at_once_s={crowd_s:.1f}")
    print(f"packets_without_policy={leaked}")
    print(f"plugin_rss_mb={rss_bytes / 1e6:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--spares", type=int, default=4)
    options = parser.parse_args(arguments)
    if reason := why_not() or rig.why_not():
        print(f"DOCKER IS NOT MEASURED: {reason}", file=sys.stderr)
        return 2
    with new_host(spares=options.spares) as host:
        host.engine.run("network", "create", *NETWORK_OPTIONS, "fl")
        host.engine.run("network", "create", "br")
        host.container("same", "--label", "app=known", "--label", "bench=1")
        with idle_driver(host, options.rounds):
            took, enforced = rounds(host, options.rounds)
        host.engine.run("rm", "-f", "same")
        server = host.serve("server")
        with crowd(host, options.many, server) as crowd_s:
            time.sleep(1)
            leaked, rss = leaks(host, options.many), resident_bytes(host.plugin.pid)
        report(took, enforced, crowd_s, leaked, rss)
    return 0


if __name__ == "__main__":
    sys.exit(main())
