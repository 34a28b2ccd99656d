"""A node and a bus of each kind, real and in dicts, for the suites that both must pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fairlead.bus import Bus
from services.datapath.operations import Kernel
from tests.support import buses, kernels
from tests.support.kernels import Bench


@pytest.fixture(params=kernels.KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from kernels.bench(request.param)


@pytest.fixture
def kernel(bench: Bench) -> Kernel:
    assert not bench.kernel.start().adopted
    return bench.kernel


@pytest.fixture(params=["memory", pytest.param("nats", marks=pytest.mark.connected)])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Bus, Bus]]:
    async with buses.two(request.param, tmp_path) as participants:
        yield participants
