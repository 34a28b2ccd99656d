"""A node of each kind, real and in dicts, for the suites that both must pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.operations import Kernel
from tests.support import kernels
from tests.support.kernels import Bench


@pytest.fixture(params=kernels.KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from kernels.bench(request.param)


@pytest.fixture
def kernel(bench: Bench) -> Kernel:
    assert not bench.kernel.start().adopted
    return bench.kernel
