"""Kernel tests: one real node per file."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing

import pytest

from services.datapath.kernel.testrun import ReceiverUnknown, TestRun
from tests.kernel.firewall import Wires, protect
from tests.kernel.outside import masquerading
from tests.kernel.rig import Rig, new_rig


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except ReceiverUnknown:
        pytest.skip(f"kernel {os.uname().release} cannot be told in a test-run which device received a packet")


@pytest.fixture(scope="module")
def node() -> Iterator[Rig]:
    with new_rig() as rig:
        yield rig


@pytest.fixture
def rig(node: Rig) -> Rig:
    node.reset()
    return node


@pytest.fixture
def out(rig: Rig) -> Iterator[Rig]:
    with masquerading(rig) as outside:
        yield outside


@pytest.fixture
def pod(rig: Rig) -> Iterator[TestRun]:
    with closing(rig.program("from_pod")) as program:
        yield program


@pytest.fixture
def network(rig: Rig) -> Iterator[TestRun]:
    with closing(rig.program("from_network")) as program:
        yield program


@pytest.fixture
def host(rig: Rig) -> Iterator[TestRun]:
    with closing(rig.program("from_host")) as program:
        yield program


@pytest.fixture
def closed(rig: Rig) -> Iterator[Rig]:
    """The node with a host policy that allows nothing."""
    protect(rig, {})
    yield rig
    rig.kernel.delete_host()


@pytest.fixture
def wires(rig: Rig) -> Iterator[Wires]:
    made = Wires(rig)
    yield made
    for program in made.programs.values():
        program.close()
