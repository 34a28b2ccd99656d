"""Which links of an earlier process a start may trust: those that are marked as complete, and that look it from the node's own side."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from fairlead.address import Address
from services.datapath.kernel import devices, links
from services.datapath.operations import KernelError
from tests.kernel.rig import Rig, pod_address, run

pytestmark = pytest.mark.kernel


def intact(rig: Rig, endpoint: int = 1) -> bool:
    return rig.kernel.intact_links([rig.link(endpoint)]) == {endpoint: rig.plugged[endpoint]}


def test_what_is_plugged_is_intact_until_it_is_plugged_otherwise(rig: Rig) -> None:
    assert rig.kernel.intact_links([rig.link(1), rig.link(2)]) == rig.plugged
    moved = replace(rig.link(1), addresses=(Address("10.7.0.77"),))
    rig.kernel.plug(moved)
    assert not intact(rig)
    assert rig.kernel.intact_links([moved]) == {1: rig.plugged[1]}
    rig.kernel.plug(rig.link(1))
    assert intact(rig)


@pytest.mark.parametrize("again", ["as it is", "otherwise"])
def test_a_plug_that_was_cut_short_leaves_nothing_that_is_trusted(
    rig: Rig, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = rig.link(1) if again == "as it is" else replace(rig.link(1), addresses=(Address("10.7.0.77"),))

    def killed(*_: object, **__: object) -> None:
        raise KernelError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(links, "pod_side", killed)
        with pytest.raises(KernelError, match="killed"):
            rig.kernel.plug(link)
    assert rig.kernel.intact_links([link]) == rig.kernel.intact_links([rig.link(1)]) == {}
    rig.kernel.plug(rig.link(1))
    assert intact(rig)
    assert rig.ping("1", pod_address(2, 4))


def test_the_node_hears_nothing_of_a_new_endpoint_before_its_filter_is_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, up = rig.kernel._attach, []

    def look_first(ifindex: int, *more: Any) -> None:
        near = devices.find_device(rig.kernel._wire, links.host_interface(1))
        up.append(near is not None and near.is_up)
        attach(ifindex, *more)

    rig.kernel.unplug(1)
    with monkeypatch.context() as patched:
        patched.setattr(rig.kernel, "_attach", look_first)
        rig.plugged[1] = rig.kernel.plug(rig.link(1))
    assert up == [False]
    assert intact(rig)


@pytest.mark.parametrize(
    "damage",
    [
        "tc filter del dev fl00001 ingress",
        "ip link set fl00001 down",
        "ip link set fl00001 mtu 1400",
        "ip link set fl00001 address 02:00:00:00:00:99",
        "ip link set fl00001 alias nonsense",
    ],
)
def test_a_host_side_that_somebody_changed_is_not_trusted(rig: Rig, damage: str) -> None:
    run(*damage.split())
    assert not intact(rig)
    assert intact(rig, 2)
    rig.kernel.plug(rig.link(1))
    assert intact(rig)


def test_another_namespace_under_the_same_path_is_noticed_while_the_old_one_lives_on(rig: Rig) -> None:
    run("ip", "netns", "add", f"{rig.name}z")
    link = replace(rig.link(1), endpoint=3, netns=rig.netns("z"), addresses=(Address("10.7.0.3"),))
    first = rig.kernel.plug(link)
    kept = os.open(link.netns, os.O_RDONLY)
    try:
        run("ip", "netns", "del", f"{rig.name}z")
        assert rig.kernel.intact_links([link]) == {}, "there is none at the path"
        run("ip", "netns", "add", f"{rig.name}z")
        assert rig.kernel.plugged()[3] == first, "the pair lives on in a namespace of the past"
        assert rig.kernel.intact_links([link]) == {}
        assert rig.kernel.plug(link) != first
        assert links.host_interface(3) in run("ip", "-br", "link")
        assert set(rig.kernel.intact_links([link])) == {3}
    finally:
        os.close(kept)
        rig.kernel.unplug(3)
        run("ip", "netns", "del", f"{rig.name}z")
