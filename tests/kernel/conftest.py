"""Kernel tests: one real node per file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.outside import masquerading
from tests.kernel.rig import Rig, new_rig


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
