"""What changes cost: a node's service as a process, on the real kernel and a real NATS, at the size of a large node.

The end of a restart's reconciliation is seen from outside: while the service is dead, an entry of a large policy map and an address
are damaged; it is over when every endpoint is ready again and both are repaired.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.address import Prefix
from fairlead.schema.base import IdentityId
from fairlead.schema.datapath import REALISED, EndpointState
from fairlead.schema.identity import ADDRESSES, AddressEntry, AddressGroup
from fairlead.schema.policy import PolicyEntry
from services.datapath.kernel import abi, syscalls
from services.datapath.kernel.tables import Tables
from services.datapath.operations import PolicyKey, PolicyValue
from tests.bench.contents import many_addresses
from tests.bench.tables import Table
from tests.support.node import Node, node
from tests.unit.datapath.world import NODE, entry

SEQUENTIAL, AT_ONCE, SHARING, ENDPOINTS, ADDRESS_COUNT = 30, 200, 100, 300, 300_000
GROUPS = 300
LARGE_ENTRIES, CHANGED, POLICY_CHANGES = 16_384, 1000, 7
_TCP = 6


@dataclass
class Figures:
    """What was measured; milliseconds, seconds and MiB as the names say."""

    large: int
    add_ms: list[float] = field(default_factory=list)
    at_once_s: float = 0.0
    change_ms: list[float] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    rss_mb: float = 0.0
    rss_after_restart_mb: float = 0.0
    kernel_mb: float = 0.0
    """Of the policy maps, by the kernel's own count."""


def measure(restarts: int, large: int) -> Figures:
    """Measure everything on one node."""
    return asyncio.run(_measure(restarts, large))


async def _measure(restarts: int, large: int) -> Figures:
    figures = Figures(large)
    async with node(RECONCILE_S="3600", LOG_LEVEL="WARNING") as made:
        for number in range(1, ENDPOINTS + 1):
            made.namespace(f"p{number}")
        for label in ("small", "shared", *(["large"] if large else [])):
            await made.control.identity((f"container:app={label}",))
        await _endpoints(made, figures, large)
        await _addresses(made)
        await _policies(made, figures, large)
        figures.rss_mb = rss_mb(made)
        figures.kernel_mb = kernel_mb(made)
        for _ in range(restarts):
            figures.restart_s.append(await _restart(made, large))
        figures.rss_after_restart_mb = rss_mb(made)
    return figures


def label_of(number: int, large: int) -> str:
    """Return the label of an endpoint: the first ones share the policy that is changed, the last ones have the large one."""
    if number <= SHARING:
        return "shared"
    return "large" if number > ENDPOINTS - large else "small"


async def _add(made: Node, number: int, large: int) -> float:
    began_s = time.perf_counter()
    address = f"10.7.{number // 250}.{number % 250 + 1}"
    status = await made.attach(f"p{number}", (address,), f"app={label_of(number, large)}", wait_s=30)
    assert status.state is EndpointState.READY, status
    return (time.perf_counter() - began_s) * 1000


async def _endpoints(made: Node, figures: Figures, large: int) -> None:
    """Add endpoints one after the other, then many at once, then the rest."""
    for number in range(1, SEQUENTIAL + 1):
        figures.add_ms.append(await _add(made, number, large))
    began_s = time.perf_counter()
    crowd = range(SEQUENTIAL + 1, SEQUENTIAL + AT_ONCE + 1)
    await asyncio.gather(*(_add(made, number, large) for number in crowd))
    figures.at_once_s = time.perf_counter() - began_s
    await asyncio.gather(*(_add(made, number, large) for number in range(crowd.stop, ENDPOINTS + 1)))


async def _addresses(made: Node) -> None:
    """Publish the addresses of a fleet, one row per node of it, and wait until the kernel has them."""
    rows = list(many_addresses(ADDRESS_COUNT))
    size = len(rows) // GROUPS
    bucket = made.control.bus.bucket(ADDRESSES)
    for number in range(GROUPS):
        entries = tuple(
            AddressEntry(prefix=prefix, identity=IdentityId(identity))
            for prefix, identity in rows[number * size : (number + 1) * size]
        )
        await bucket.put(
            f"node-{number}", AddressGroup(group=f"node-{number}", entries=entries, revision=1000 + number)
        )
    await until(made, lambda tables: tables.ipcache.find(rows[-1][0].address) is not None, within_s=120)


def policy(entries: int, changed: int) -> list[PolicyEntry]:
    """Return a policy of that many entries, of which a thousand say which change this is."""
    rows = [entry(0), entry(1)]
    rows += [
        entry(0, 20_000 + n, _TCP, 80, precedence=changed if n < CHANGED else 0) for n in range(entries - len(rows))
    ]
    return rows


async def _policies(made: Node, figures: Figures, large: int) -> None:
    """Give the large policy, then change the shared one time and again; each time until the node says that it stands."""
    if large:
        await _publish(made, "large", policy(LARGE_ENTRIES, 0))
    # where all are large, so are those that change
    entries = LARGE_ENTRIES if large == ENDPOINTS else CHANGED + 2
    await _publish(made, "shared", policy(entries, 0))
    for change in range(1, POLICY_CHANGES + 1):
        figures.change_ms.append(await _publish(made, "shared", policy(entries, change)) * 1000)


async def _publish(made: Node, label: str, rows: list[PolicyEntry]) -> float:
    """Publish a row; return the seconds until the node's row on the bus says that every endpoint holds it."""
    identity = made.control.numbers[f"container:app={label}",]
    began_s = time.perf_counter()
    revision = await made.control.policy(identity, rows)
    bucket = made.control.bus.bucket(REALISED)
    async with asyncio.timeout(300):
        while (row := (await bucket.rows()).get(NODE)) is None or row.rows.get(str(identity), 0) < revision:
            await asyncio.sleep(0.005)
    return time.perf_counter() - began_s


async def _restart(made: Node, large: int) -> float:
    """Kill the service, damage what it must notice, start it; return the seconds until all is as it should be."""
    made.service.kill()
    victim, key = ENDPOINTS, PolicyKey(20_005, 80, _TCP, 0) if large else PolicyKey(0, 0, 0, 1)
    address = next(iter(many_addresses(1)))[0]
    with tables_of(made) as tables:
        found = tables.policies.rows(victim)[key][0]
        tables.policies.change(victim, {key: PolicyValue(deny=True)}, ())
        tables.ipcache.change({address: 7}, ())
    began_s = time.perf_counter()
    await asyncio.to_thread(made.service.start)
    await until(made, lambda tables: _repaired(tables, victim, key, found, address), within_s=600)
    async with asyncio.timeout(600):
        while not (rows := await made.endpoints()) or any(row.state is not EndpointState.READY for row in rows):
            await asyncio.sleep(0.02)
    assert len(rows) == ENDPOINTS
    return time.perf_counter() - began_s


def _repaired(tables: Tables, victim: int, key: PolicyKey, value: PolicyValue, address: Prefix) -> bool:
    mapped = tables.ipcache.find(address.address)
    if mapped is None or mapped[1] == 7:
        return False
    # this one row: to read all of a large map time and again would keep the service from its work
    table = tables.policies.table(victim)
    packed = table.get(abi.pack_policy_key(key)) if table is not None else None
    return packed is not None and abi.unpack_policy_value(packed)[0] == value


class tables_of:  # noqa: N801 - used like a function
    """The node's maps, opened beside the service."""

    def __init__(self, made: Node) -> None:
        self._tables = Tables(made.pins, 1, 1)

    def __enter__(self) -> Tables:
        self._tables.open()
        return self._tables

    def __exit__(self, *_: object) -> None:
        self._tables.close()


async def until(made: Node, condition: Callable[[Tables], bool], within_s: float) -> None:
    """Wait until the node's maps are so."""
    with tables_of(made) as tables:
        async with asyncio.timeout(within_s):
            while not condition(tables):
                await asyncio.sleep(0.02)


def rss_mb(made: Node) -> float:
    """Return the service's resident memory."""
    pid = int(str(made.service.health()["pid"]))
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def kernel_mb(made: Node) -> float:
    """Return the kernel memory of all policy maps, as it says of each descriptor."""
    total = 0
    for pin in made.pins.glob("cilium_policy_*"):
        fd = syscalls.object_get(str(pin))
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        os.close(fd)
        total += next(int(line.split()[1]) for line in lines if line.startswith("memlock"))
    return total / (1 << 20)


def figures(found: Figures) -> dict[str, float]:
    """Return the figures that this part is judged by."""
    return {
        "endpoint_add_ms_p50": statistics.median(found.add_ms),
        "endpoints_200_at_once_s": found.at_once_s,
        "restart_reconcile_s": statistics.median(found.restart_s),
        "policy_change_ms_p50": statistics.median(found.change_ms),
        "rss_mb": max(found.rss_mb, found.rss_after_restart_mb),
        "policy_maps_kernel_mb": found.kernel_mb,
    }


def tables(found: Figures) -> list[Table]:
    """Return the table to print."""
    title = (
        f"changes, at {ENDPOINTS} endpoints, {ADDRESS_COUNT} addresses, {found.large} policy maps of {LARGE_ENTRIES}"
    )
    table = Table(title, ("median", "worst", "goal"))

    def line(name: str, values: list[float], unit: str, goal: str) -> None:
        table.add(name, f"{statistics.median(values):.1f} {unit}", f"{max(values):.1f} {unit}", goal)

    line("endpoint added, request to ready", found.add_ms, "ms", "15 ms")
    line(f"{AT_ONCE} endpoints at once", [found.at_once_s], "s", "2 s")
    line("SIGKILL and start to full reconciliation", found.restart_s, "s", "5 s")
    line(f"{CHANGED} entries changed on {SHARING} endpoints", found.change_ms, "ms", "250 ms")
    line("resident memory", [found.rss_mb, found.rss_after_restart_mb], "MiB", "200 MiB")
    return [table]
