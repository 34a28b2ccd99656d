"""Links, of the real kernel and of the one in dicts alike: made, found again, taken over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairlead.address import Address
from services.datapath.operations import Kernel, KernelError, Link
from tests.support.kernels import Bench

WEB4, WEB6 = Address("10.77.0.2"), Address("fd00:77::2")


def test_a_far_end_that_somebody_else_moves_is_made_once(bench: Bench, kernel: Kernel) -> None:
    link = Link(7, "", "flp7", (WEB4,), 0)
    first = kernel.plug(link)
    assert kernel.plug(replace(link, addresses=(WEB6,))) == first
    assert bench.again().start().adopted
    assert bench.kernel.plug(link) == first
    bench.kernel.unplug(7)
    assert bench.kernel.plugged() == {}


def test_plug_is_idempotent_and_listed(bench: Bench, kernel: Kernel) -> None:
    link = Link(7, bench.namespace("web"), "eth0", (WEB4,), 0)
    first = kernel.plug(link)
    assert (first.endpoint, first.host_interface) == (7, "fl00007")
    assert kernel.plug(link) == first
    assert kernel.plugged() == {7: first}
    assert kernel.endpoints() == {}
    kernel.unplug(7)
    kernel.unplug(7)
    assert kernel.plugged() == {}


def test_a_namespace_that_does_not_exist_is_a_kernel_error(kernel: Kernel) -> None:
    with pytest.raises(KernelError, match="no-such-namespace"):
        kernel.plug(Link(7, "/run/netns/no-such-namespace", "eth0", (WEB4,), 0))
    assert kernel.plugged() == {}


def test_a_second_process_finds_the_links_that_stand_as_they_were_plugged(bench: Bench, kernel: Kernel) -> None:
    web, db, left = bench.namespace("web"), bench.namespace("db"), Link(3, "", "flp3", (), 0)
    wanted = [Link(1, web, "eth0", (WEB4, WEB6), 0), Link(2, db, "eth0", (), 1400), left]
    plugged = {link.endpoint: kernel.plug(link) for link in wanted}
    successor = bench.again()
    successor.start()
    assert successor.intact_links(wanted) == plugged
    other = [
        Link(1, web, "eth0", (WEB4,), 0),
        Link(2, web, "eth0", (), 1400),
        replace(left, endpoint=4),
        replace(wanted[1], endpoint=5, netns="/run/netns/no-such-namespace"),
    ]
    assert successor.intact_links([*other, left]) == {3: plugged[3]}
    assert successor.intact_links([Link(1, web, "eth1", (WEB4, WEB6), 0), Link(2, db, "eth0", (), 1300)]) == {}
    successor.plug(other[0])
    assert successor.intact_links([other[0]]) == {1: plugged[1]}
    successor.unplug(1)
    assert successor.intact_links([other[0], wanted[0]]) == {}
