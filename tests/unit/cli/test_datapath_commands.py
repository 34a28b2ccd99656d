"""What people ask of a node's kernel."""

from __future__ import annotations

from clients.cli.output import Exit
from tests.unit.cli.world import World


async def test_features_of_every_kernel_are_shown_with_what_is_used_instead() -> None:
    world = await World().start()
    found = await world.run("datapath", "features")
    assert found.status == Exit.OK
    assert found.text.count("6.1.0") == 2 * len(("n1", "n2"))
    assert "geneve devices  no     routing = geneve; instead: another" in found.text
    assert "vxlan devices   yes    routing = vxlan\n" in found.text


async def test_held_deletions_are_released_on_one_node_and_named() -> None:
    world = await World().start()
    found = await world.run("datapath", "release-held", "--node", "n2")
    assert found.status == Exit.OK
    assert "n2    kernel addresses  93" in found.text
    assert "nothing is held" in (await world.run("datapath", "release-held", "--node", "n1")).text
