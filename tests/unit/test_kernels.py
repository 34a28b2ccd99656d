"""What `make test-kernels` decides without a machine: what is fetched, which modules come first, what its end says."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.kernels import __main__ as runner
from tests.kernels import machine, recording
from tests.kernels.inside import LEFT_OUT, ROOT, SUITE, Stage
from tests.kernels.packages import KERNELS, archive

DEPENDENCIES = """\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/fs/netfs/netfs.ko.xz:
"""


def test_modules_come_behind_what_they_need_and_once() -> None:
    order = machine.modules_in_order(DEPENDENCIES, ("virtio_pci", "9pnet_virtio", "9p"))
    names = [path.rsplit("/", 1)[1] for path in order]
    assert names == ["9pnet.ko.xz", "9pnet_virtio.ko.xz", "netfs.ko.xz", "9p.ko.xz"]


def test_sources_name_the_suites_of_that_kernel_and_the_vendors_keys() -> None:
    places = {"main": "http://m/debian/", "security": "http://m/debian-security/"}
    debian = archive(KERNELS[1]).source_lines(places)
    assert debian.splitlines() == [
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m/debian/ bookworm main",
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m/debian-security/ bookworm-security main",
    ]
    ubuntu = next(one for one in KERNELS if one.vendor == "ubuntu")
    assert archive(ubuntu).source_lines({"main": "http://u/"}).count("http://u/ noble") == len(ubuntu.suites)


def test_instructions_are_the_same_with_the_same_descriptors_and_have_none_between() -> None:
    load_map, load_number = struct.pack("=BBhiBBhi", 0x18, 0x11, 0, 7, 0, 0, 0, 0), struct.pack("=BBhi", 0x18, 1, 0, 7)
    code = load_number + bytes(8) + load_map
    kept, named = recording.instructions_with_names(code, {7: "settings"})
    assert named == {"2": "settings"}
    assert kept == load_number + bytes(8) + struct.pack("=BBhiBBhi", 0x18, 0x11, 0, 0, 0, 0, 0, 0)
    assert recording.instructions_with_maps(kept, named, {"settings": 7}) == code


def test_the_suite_is_every_kernel_test_but_those_that_are_named_as_left_out() -> None:
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests/kernel").glob("test_*.py")}
    assert files == {*SUITE, *LEFT_OUT}
    assert {"overlay", "programs", "namespaces", "policy_lookup", "masquerade"} <= {*SUITE}


def test_the_end_names_what_failed_and_what_was_not_tried() -> None:
    good = runner.Result(KERNELS[0], "5.10.0-1-amd64", (Stage("features", good=True, seconds=3, words="without tcx"),))
    assert good.good
    bad = replace(good, stages=(*good.stages, Stage("suite", good=False, seconds=9, words="1 failed, 2 passed")))
    absent = runner.Result(KERNELS[2], "", (), "NOT TRIED: no such archive", tried=False)
    lines = runner.table([bad, absent])
    assert [("ok" in lines[0], "FAILED" in lines[1], "NOT TRIED" in lines[2])] == [(True, True, True)]
    assert not bad.good


@pytest.mark.parametrize(
    ("results", "status"), [([True], 0), ([True, None], 3), ([True, False], 1), ([None, False], 1)]
)
def test_the_exit_status_tells_failures_before_what_was_not_tried(results: list[bool | None], status: int) -> None:
    stages = {
        True: Stage("suite", good=True, seconds=1, words=""),
        False: Stage("suite", good=False, seconds=1, words=""),
    }
    made = [
        runner.Result(KERNELS[0], "", (), "not here", tried=False)
        if good is None
        else runner.Result(KERNELS[0], "r", (stages[good],))
        for good in results
    ]
    assert runner.exit_status(made) == status
