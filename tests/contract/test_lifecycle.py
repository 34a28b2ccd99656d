"""Endpoints come, change, move and go, in any order and more than once, on the real kernel and on the one in dicts: nothing is left of any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fairlead.address import Address
from services.datapath.operations import EndpointEntry, Kernel, KernelError, Link, PolicyKey, PolicyValue
from tests.support import kernels
from tests.support.kernels import Bench, LinuxBench

NUMBERS = (1, 2, 3)
PLACES = ("red", "green", "blue", "white")
POLICY = {PolicyKey(0, 0, 0, 0): PolicyValue(), PolicyKey(5, 80, 6, 0, 12): PolicyValue(deny=True)}
STEPS = 40


@pytest.fixture(params=kernels.KINDS, scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    for made in kernels.bench(request.param):
        made.kernel.start()
        yield made


class Life:
    """What was asked for; every question to the kernel is compared with it."""

    def __init__(self, bench: Bench, chance: Random) -> None:
        self._bench, self._chance = bench, chance
        self.entries: dict[int, EndpointEntry] = {}
        self._links: dict[int, Link] = {}

    @property
    def _kernel(self) -> Kernel:
        return self._bench.kernel

    def step(self) -> None:
        endpoint = self._chance.choice(NUMBERS)
        known = endpoint in self._links
        change = self._chance.choice((self._put, self._put, self._delete, self._restart) if known else (self._put,))
        change(endpoint)
        if self._chance.random() < 0.3:
            change(endpoint)

    def _put(self, endpoint: int) -> None:
        """Create it, or give it other addresses, another identity, another place."""
        chance, old = self._chance, self._links.get(endpoint)
        place = old.netns if old and chance.random() < 0.7 else self._bench.namespace(chance.choice(PLACES))
        addresses = Address(f"10.77.{endpoint}.{chance.randrange(1, 4)}"), Address(f"fd00:77::{endpoint}")
        if old and old.netns != place:
            self._kernel.unplug(endpoint)  # the far end cannot move
        link = Link(endpoint, place, f"eth{endpoint}", addresses, 0)
        plugged = self._kernel.plug(link)
        self._kernel.apply_policy(endpoint, POLICY, ())
        where = plugged.ifindex, chance.randrange(1000, 1009), plugged.host_mac, plugged.pod_mac
        entry = EndpointEntry(endpoint, *where, tuple(sorted(addresses)), held=chance.random() < 0.3)
        self._kernel.put_endpoint(entry)
        self.entries[endpoint], self._links[endpoint] = entry, link

    def _delete(self, endpoint: int) -> None:
        self._kernel.delete_endpoint(endpoint)
        self._kernel.unplug(endpoint)
        self.entries.pop(endpoint, None)
        self._links.pop(endpoint, None)

    def _restart(self, _endpoint: int) -> None:
        assert self._bench.again().start().adopted

    def compare(self) -> None:
        assert self._kernel.endpoints() == self.entries
        assert self._kernel.plugged().keys() == self._links.keys()
        for endpoint in NUMBERS:
            rows = {key: value for key, (value, _) in self._kernel.policy(endpoint).items()}
            assert rows == (POLICY if endpoint in self._links else {})

    def end(self) -> None:
        for endpoint in NUMBERS:
            self._delete(endpoint)


def _leftovers(bench: Bench) -> list[str]:
    """Return what the real kernel still has of any endpoint: devices, pins, rows."""
    if not isinstance(bench, LinuxBench):
        return []
    return [
        *map(str, bench._run(_rows, bench)),
        *(pin.name for pin in bench._pins.iterdir() if pin.name[-5:].isdigit()),
    ]


def _rows(bench: LinuxBench) -> list[object]:
    tables = bench._linux._tables
    slots = [*tables.maps["policies"].items(), *tables.maps["policy_ranges"].items()]
    devices = [path.name for path in Path("/proc/thread-self/net").glob("dev_snmp6/fl0*")]
    return [*tables.maps["endpoints"].items(), *slots, *tables.endpoints(), *devices]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_left_of_an_endpoint_whatever_it_lived_through(bench: Bench, seed: int) -> None:
    life = Life(bench, Random(seed))
    for _ in range(STEPS):
        life.step()
        life.compare()
    assert bool(_leftovers(bench)) is (bool(life.entries) and isinstance(bench, LinuxBench))
    life.end()
    life.compare()
    assert not _leftovers(bench)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_container_that_dies_while_it_is_made_leaves_nothing(bench: Bench, steps: int) -> None:
    """Its namespace goes after so many of the steps that make an endpoint; what follows may fail, and unplugging never does."""
    kernel, name = bench.kernel, f"short{steps}"
    link = Link(1, bench.namespace(name), "eth0", (Address("10.77.0.2"), Address("fd00:77::2")), 0)
    if steps > 0:
        plugged = kernel.plug(link)
    if steps > 1:
        kernel.apply_policy(1, POLICY, ())
    if steps > 2:
        where = plugged.ifindex, 1001, plugged.host_mac, plugged.pod_mac
        kernel.put_endpoint(EndpointEntry(1, *where, link.addresses, held=False))
    bench.forget_namespace(name)
    with pytest.raises(KernelError):
        kernel.plug(link)
    kernel.delete_endpoint(1)
    kernel.unplug(1)
    assert not kernel.plugged()
    assert not kernel.endpoints()
    assert not kernel.policy(1)
    assert not _leftovers(bench)
