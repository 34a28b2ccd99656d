"""What the kernel is found able to do, by trying; and what is said where it is not."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from services.datapath.kernel import abi, features, syscalls
from services.datapath.kernel.maps import Map
from services.datapath.kernel.netlink import Netlink
from services.datapath.operations import KernelError
from services.datapath.reports import Feature
from tests.kernel.rig import run, why_not

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := why_not():
        pytest.skip(f"KERNEL TESTS DO NOT RUN: {reason}")


@pytest.fixture
def table() -> Iterator[Map]:
    spec = abi.MapSpec("lpm_trie", 8, 8, 64, syscalls.NO_PREALLOC)
    made = Map("probe", syscalls.map_create(spec.kind, 8, 8, spec.entries, spec.flags), spec)
    yield made
    made.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_this_kernel_has_all_that_is_needed_and_each_feature_says_its_use() -> None:
    with closing(Netlink()) as wire:
        before = run("ip", "link"), descriptors()
        found = features.probe(wire)
        assert (run("ip", "link"), descriptors()) == before, "nothing stays of a try"
    features.require(found)
    assert len({one.name for one in found}) == len(found)
    assert all(one.use for one in found)


def test_the_limit_of_locked_memory_is_lifted_where_maps_count_as_such_and_left_alone_elsewhere() -> None:
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    counted = tuple(int(part) for part in os.uname().release.split(".")[:2]) < (5, 11)
    apart = features._memory_apart()
    try:
        assert apart is not counted
        endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == (endless if counted else before)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def test_a_function_that_no_kernel_has_is_not_found() -> None:
    known, unknown, for_others = 26, 9999, 11
    assert features._helper(known)
    assert not features._helper(unknown)
    assert features._helper(for_others) is ("cannot use helper" not in syscalls.program_complaint(_call(for_others)))


def _call(number: int) -> bytes:
    return struct.pack("=BBhi", 0x85, 0, 0, number) + struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_what_nothing_can_stand_in_for_is_an_error_with_version_and_name() -> None:
    lacking = (
        Feature("helper redirect_peer", present=False, use="handing packets to pods"),
        Feature("geneve devices", present=False, use="routing = geneve", instead="another `routing`"),
    )
    with pytest.raises(KernelError) as refused:
        features.require(lacking)
    assert os.uname().release in refused.value.message
    assert "redirect_peer (handing packets to pods): run kernel 5.10" in refused.value.message
    assert "geneve" not in refused.value.message
    features.require(lacking[1:])


def test_tables_are_read_row_by_row_where_there_are_no_batches(table: Map) -> None:
    rows = {struct.pack("=II", 32, number): struct.pack("=Q", number) for number in range(50)}
    assert table.walk() == {}
    table.put_all(rows)
    assert table.walk() == table.items() == rows
