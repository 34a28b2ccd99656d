"""Workloads come and go by the command line, and what becomes of half of it."""

from __future__ import annotations

import pytest

from clients.cli import namespace
from clients.cli.output import Exit
from fairlead.errors import Exhausted, FairleadError, InvalidInput, Unavailable
from fairlead.schema.datapath import EndpointState
from tests.unit.cli.world import N1, N2, World


async def test_workload_add_waits_for_ready_and_repeats_harmlessly(world: World) -> None:
    for _ in range(2):
        found = await world.run("workload", "add", "web", "--node", "n1", "--label", "app=web", "--netns", "/x")
        assert (found.status, found.text.splitlines()[1][:9]) == (Exit.OK, "ready in ")
    assert list(world.nodes[N1].leases) == ["web"]


async def test_a_held_workload_is_late_keeps_its_address_and_says_why(world: World) -> None:
    world.nodes[N1].reach = EndpointState.WAITING_FOR_IDENTITY
    found = await world.run("workload", "add", "web", "--node", "n1", "--netns", "/x", "--wait", "1")
    assert found.status == Exit.LATE
    assert "held, waiting-for-identity: identity is not known" in found.text
    assert "web" in world.nodes[N1].leases
    found = await world.run("workload", "add", "web", "--node", "n1", "--netns", "/x", "--wait", "0")
    assert found.status == Exit.OK


@pytest.mark.parametrize("state", [None, EndpointState.FAILED])
async def test_a_failed_attach_gives_back_what_it_took(world: World, state: EndpointState | None) -> None:
    node = world.nodes[N1]
    node.reach, node.refuse = (state, None) if state else (EndpointState.READY, Exhausted("the policy map is full"))
    with pytest.raises(FairleadError, match=r"full|not known"):
        await world.run("workload", "add", "web", "--node", "n1", "--netns", "/x")
    assert (node.leases, node.endpoints) == ({}, {})


async def test_a_failed_relabel_leaves_the_running_workload_alone(world: World) -> None:
    world.nodes[N2].refuse = Exhausted("the policy map is full")
    with pytest.raises(Exhausted):
        await world.run("workload", "add", "protected-db", "--node", "n2", "--netns", "/x")
    assert list(world.nodes[N2].leases) == list(world.nodes[N2].endpoints) == ["protected-db"]


async def test_without_datapath_addresses_are_kept_and_the_remedy_is_named(world: World) -> None:
    for verb in ("attach", "detach"):
        del world.hub.routes[f"fairlead.cmd.datapath.endpoint.{verb}.v1.n1"]
    with pytest.raises(Unavailable) as error:
        await world.run("workload", "add", "web", "--node", "n1", "--netns", "/x")
    assert "fairlead workload remove web --node n1" in error.value.__notes__[0]
    assert "web" in world.nodes[N1].leases  # it may be attached: nobody else must get the address


async def test_workload_remove_gives_everything_back_and_may_be_repeated(world: World) -> None:
    assert (await world.run("workload", "remove", "protected-db", "--node", "n2")).value == {
        "removed": True,
        "namespace_removed": False,
    }
    assert (world.nodes[N2].leases, world.nodes[N2].endpoints) == ({}, {})
    assert "nothing to remove" in (await world.run("workload", "remove", "protected-db", "--node", "n2")).text


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "-x", "A", "x" * 99])
def test_a_name_that_is_no_file_name_makes_no_namespace(name: str) -> None:
    with pytest.raises(InvalidInput, match="--netns"):
        namespace.path(name)
