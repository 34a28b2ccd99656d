"""Endpoints made ahead: who gets them, and that neither a pair nor an address is lost, given twice, or kept from anybody."""

from __future__ import annotations

from datetime import UTC, datetime

from clients.docker.node import NodeServices
from clients.docker.state import Endpoint, Spare
from fairlead.address import Address, Prefix
from fairlead.schema.base import Empty
from fairlead.schema.datapath import EndpointState
from fairlead.schema.ipam import LeaseState
from tests.unit.datapath.world import NODE, until
from tests.unit.docker.world import NET, World

EP, OTHER = "e" * 64, "f" * 64
LATER = datetime(2100, 1, 1, tzinfo=UTC)


async def _stocked(world: World) -> list[Spare]:
    """Have the stock be full; return it, oldest first."""
    while await world.stock.adjust():
        pass
    return sorted(world.state.spares.values(), key=lambda spare: spare.since)


async def _leases(world: World) -> dict[str, LeaseState]:
    return {lease.address: lease.state for lease in (await world.ipam.leases(Empty())).leases}


def _names(world: World) -> set[str]:
    return {record.name for record in world.node.datapath.node.endpoints.live()}


async def _labelled(world: World, endpoint: str) -> None:
    """Do as a look does that has found the container."""
    labelled = await world.state.change(endpoint, container="c", labels=("container:app=web",))
    assert labelled
    await NodeServices(world.node.bus, NODE).attach(labelled, 0)
    name = labelled.name
    await until(lambda: world.node.status(name).state is EndpointState.READY)


async def test_a_container_gets_the_pair_that_stands_already_held_until_its_labels_name_it(world: World) -> None:
    await world.network()
    oldest, other = await _stocked(world)
    address = await world.address()
    assert address == f"{oldest.addresses[0]}/32"
    made = await world.endpoint(EP, address)
    assert made == {"Interface": {"MacAddress": oldest.mac}}
    joined = await world.ask("/NetworkDriver.Join", NetworkID=NET, EndpointID=EP, SandboxKey="/nowhere/x", Options={})
    assert joined["InterfaceName"]["SrcName"] == oldest.interface
    assert world.node.status(oldest.name).state is EndpointState.WAITING_FOR_LABELS
    pair = world.node.world.links[world.node.status(oldest.name).endpoint]
    await _labelled(world, EP)
    status = world.node.status(f"docker/{EP[:12]}")
    assert world.node.world.links[status.endpoint] == pair
    assert _names(world) == {status.name, other.name}
    assert len(await _stocked(world)) == 2


async def test_one_that_goes_before_its_labels_are_known_leaves_nothing(world: World) -> None:
    await world.network()
    oldest, _ = await _stocked(world)
    await world.endpoint(EP, await world.address())
    await world.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address=str(oldest.addresses[0]))
    assert oldest.name not in _names(world)
    assert (await _leases(world))[oldest.addresses[0]] is LeaseState.QUARANTINED
    assert oldest.id not in {spare.id for spare in await _stocked(world)}


async def test_what_was_lent_is_lent_once_over_restarts_too_and_taken_back(world: World) -> None:
    await world.network()
    await _stocked(world)
    first = await world.address()
    world.again()
    await world.network()
    second, third = await world.address(), await world.address()
    assert len({first, second, third}) == 3
    await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address=first)
    assert await world.address() == first


async def test_an_endpoint_of_another_shape_gets_a_pair_of_its_own_with_the_address_it_was_lent(world: World) -> None:
    await world.network({"fairlead.mtu": "1400"})
    await _stocked(world)
    address = await world.address()
    world.state.networks[NET] = type(world.state.networks[NET])(id=NET, mtu_bytes=1300)
    await world.endpoint(EP, address)
    status = world.node.status(f"docker/{EP[:12]}")
    assert world.node.world.links[status.endpoint][0].mtu_bytes == 1300
    await _stocked(world)
    assert {spare.mtu_bytes for spare in world.state.spares.values()} == {1300}


async def test_spares_of_two_families_are_lent_whole(world: World) -> None:
    await world.network(ipv6=True)
    oldest, _ = await _stocked(world)
    v4 = await world.address()
    v6 = await world.address(pool="fairlead/fd00::/80")
    assert {v4, v6} == {f"{one}/{one.family.bits}" for one in oldest.addresses}
    made = await world.endpoint(EP, v4, v6)
    assert made == {"Interface": {"MacAddress": oldest.mac}}


async def test_somebody_who_asks_for_a_spares_address_has_it_at_once_and_again(world: World) -> None:
    await world.network()
    oldest, _ = await _stocked(world)
    wanted = str(oldest.addresses[0])
    for endpoint in (EP, OTHER):
        await world.endpoint(endpoint, await world.address(wanted))
        assert oldest.name not in _names(world)
        await world.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=endpoint)
        await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address=wanted)


async def test_the_last_addresses_are_those_of_spares(world: World) -> None:
    await world.network()
    stock = await _stocked(world)
    await world.network({"fairlead.mtu": "1400"})  # spares of before do not fit any more
    pool = int(Prefix("10.0.0.0/24").network.num_addresses)
    given = {await world.address() for _ in range(pool - 3)}  # all but network, gateway and broadcast
    assert {f"{spare.addresses[0]}/32" for spare in stock} <= given
    assert "free" in await world.refusal("/IpamDriver.RequestAddress", PoolID="fairlead/10.0.0.0/24", Address="")


async def test_without_a_network_nothing_is_made_ahead_and_nothing_stays(world: World) -> None:
    await world.network()
    await _stocked(world)
    await world.ask("/NetworkDriver.DeleteNetwork", NetworkID=NET)
    assert await _stocked(world) == []
    assert _names(world) == set()
    assert await _leases(world) == {}


async def test_what_the_datapath_has_lost_or_the_engine_forgot_is_given_up(world: World) -> None:
    await world.network()
    oldest, other = await _stocked(world)
    lent = await world.address()
    await world.stock.compare({oldest.name, other.name}, {Address(lent.partition("/")[0])}, LATER)
    assert world.state.spares.keys() == {oldest.id, other.id}
    await world.stock.compare({oldest.name}, (), LATER)
    assert not world.state.spares
    assert _names(world) == set()


async def test_a_spare_whose_endpoint_is_on_disk_is_not_given_again_after_a_kill(world: World) -> None:
    await world.network()
    oldest, _ = await _stocked(world)
    address = await world.address()
    made = datetime.now(UTC)
    # the kill came between the endpoint's file and the end of the spare's
    await world.state.put(Endpoint(id=EP, network=NET, addresses=oldest.addresses, created=made, spare=oldest.id))
    world.again()
    await world.network()
    assert await world.address() != address
    assert oldest.id not in {spare.id for spare in await _stocked(world)}
    assert oldest.name in _names(world)
