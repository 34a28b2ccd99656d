"""Every path of the plugin: the engine's own request shapes, and repeated, reordered, unknown, truncated and senseless ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead.schema.base import Empty
from fairlead.schema.datapath import EndpointState
from tests.unit.docker.world import NET, World

EP = "e" * 64
PORTS = {
    "com.docker.network.portmap": [
        {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}
    ]
}
PATHS = (
    *(f"/NetworkDriver.{verb}Network" for verb in ("Create", "Delete", "Allocate", "Free")),
    *(f"/NetworkDriver.{verb}" for verb in ("GetCapabilities", "CreateEndpoint", "EndpointOperInfo", "DeleteEndpoint")),
    *(f"/NetworkDriver.{verb}" for verb in ("Join", "Leave", "DiscoverNew", "DiscoverDelete", "GwAllocCheck")),
    *(f"/NetworkDriver.{verb}ExternalConnectivity" for verb in ("Program", "Revoke")),
    *(f"/IpamDriver.{verb}Pool" for verb in ("Request", "Release")),
    *(f"/IpamDriver.{verb}Address" for verb in ("Request", "Release")),
    *(f"/IpamDriver.{verb}" for verb in ("GetCapabilities", "GetDefaultAddressSpaces")),
    "/Plugin.Activate",
)


async def test_a_containers_life_as_the_engine_tells_it(world: World) -> None:
    assert await world.ask("/Plugin.Activate") == {"Implements": ["NetworkDriver", "IpamDriver"]}
    await world.network({"fairlead.mtu": "1400"})
    address = await world.address()
    assert address == "10.0.0.2/32"
    made = await world.endpoint(EP, address)
    (standing,) = world.node.world.links.values()
    assert made["Interface"]["MacAddress"] == standing[1].pod_mac.hex(":")
    assert (standing[0].netns, standing[0].mtu_bytes) == ("", 1400)
    joined = await world.ask("/NetworkDriver.Join", NetworkID=NET, EndpointID=EP, SandboxKey="/nowhere/x", Options={})
    assert joined["InterfaceName"] == {"SrcName": standing[0].interface, "DstPrefix": "eth"}
    assert joined["Gateway"] == "169.254.1.1"
    assert joined["StaticRoutes"] == [{"Destination": "169.254.1.1/32", "RouteType": 1}]
    assert joined["DisableGatewayService"] is True
    assert world.looks
    assert world.node.status(f"docker/{EP[:12]}").state is EndpointState.WAITING_FOR_LABELS
    await world.ask("/NetworkDriver.ProgramExternalConnectivity", NetworkID=NET, EndpointID=EP, Options=PORTS)
    assert world.ports.published == {EP: {("tcp", 8080)}}
    await world.ask("/NetworkDriver.Leave", NetworkID=NET, EndpointID=EP)
    await world.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address="10.0.0.2")
    await world.ask("/NetworkDriver.DeleteNetwork", NetworkID=NET)
    assert (world.node.world.links, world.ports.published, world.state.endpoints, world.state.networks) == (
        {},
        {},
        {},
        {},
    )


async def test_a_repetition_answers_the_same(world: World) -> None:
    await world.network()
    address = await world.address()
    first = await world.endpoint(EP, address)
    await world.network()
    assert await world.endpoint(EP, address) == first
    join = {"NetworkID": NET, "EndpointID": EP, "SandboxKey": "/nowhere/x", "Options": {}}
    assert await world.ask("/NetworkDriver.Join", **join) == await world.ask("/NetworkDriver.Join", **join)
    for _ in range(2):
        for path in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork"):
            await world.ask(f"/NetworkDriver.{path}", NetworkID=NET, EndpointID=EP)
        await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address="10.0.0.2")


async def test_what_is_unknown_is_refused_or_gone_already(world: World) -> None:
    for path in ("Leave", "DeleteEndpoint", "RevokeExternalConnectivity", "DeleteNetwork", "EndpointOperInfo"):
        await world.ask(f"/NetworkDriver.{path}", NetworkID="b" * 64, EndpointID="c" * 64)
    for path in ("Join", "ProgramExternalConnectivity"):
        refusal = await world.refusal(f"/NetworkDriver.{path}", NetworkID=NET, EndpointID="c" * 64)
        assert "`EndpointID`: cccccccccccc is unknown" in refusal
    assert "/NetworkDriver.Fly is unknown" in await world.refusal("/NetworkDriver.Fly")
    assert "`PoolID`" in await world.refusal("/IpamDriver.RequestAddress", PoolID="other/10.0.0.0/24")


async def test_state_survives_the_process_and_a_network_that_was_forgotten_is_no_hindrance(world: World) -> None:
    await world.network()
    await world.endpoint(EP, await world.address())
    await world.ask("/NetworkDriver.ProgramExternalConnectivity", NetworkID=NET, EndpointID=EP, Options=PORTS)
    (world.folder / "docker" / "networks" / f"{NET}.json").write_text("{")
    world.again()
    assert world.state.networks == {}
    assert world.state.endpoints[EP].ports[0].host_port == 8080
    await world.endpoint("f" * 64, await world.address())
    assert len(world.node.world.links) == 2


async def test_a_fixed_address_is_had_again_at_once_and_by_one_alone(world: World, tmp_path: Path) -> None:
    await world.network()
    for number in range(5):
        assert await world.address("10.0.0.77") == "10.0.0.77/32"
        await world.endpoint(f"ep{number}", "10.0.0.77/32")
        await world.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=f"ep{number}")
        await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address="10.0.0.77")
    await world.address("10.0.0.77")
    await world.endpoint(EP, "10.0.0.77/32")
    sandbox = tmp_path / "sandbox"
    sandbox.touch()
    await world.ask("/NetworkDriver.Join", NetworkID=NET, EndpointID=EP, SandboxKey=str(sandbox))
    pool = {"PoolID": "fairlead/10.0.0.0/24", "Address": "10.0.0.77"}
    assert "in use by endpoint eeeeeeeeeeee" in await world.refusal("/IpamDriver.RequestAddress", **pool)
    await world.ask("/IpamDriver.ReleaseAddress", **pool)  # late, and for somebody else
    held = (await world.ipam.leases(Empty())).leases
    assert [lease.owner for lease in held if lease.state == "leased"] == ["docker/10.0.0.77"]
    sandbox.unlink()  # a crash: the engine comes again with another endpoint
    await world.address("10.0.0.77")
    await world.endpoint("g" * 64, "10.0.0.77/32")
    assert set(world.state.endpoints) == {"g" * 64}


async def test_deleting_succeeds_while_the_nodes_services_are_away(world: World) -> None:
    await world.network()
    await world.endpoint(EP, await world.address())
    world.node.hub.up = False
    await world.ask("/NetworkDriver.DeleteEndpoint", NetworkID=NET, EndpointID=EP)
    await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address="10.0.0.2")
    assert world.state.endpoints[EP].doomed
    refusal = await world.refusal("/IpamDriver.RequestAddress", PoolID="fairlead/10.0.0.0/24", Address="")
    assert refusal.startswith("fairlead: ")


async def test_a_port_that_is_taken_is_refused_and_nothing_of_it_stays(world: World) -> None:
    await world.network()
    for name in (EP, "f" * 64):
        await world.endpoint(name, await world.address())
    await world.ask("/NetworkDriver.ProgramExternalConnectivity", NetworkID=NET, EndpointID=EP, Options=PORTS)
    other = {"NetworkID": NET, "EndpointID": "f" * 64}
    assert "`-p`" in await world.refusal("/NetworkDriver.ProgramExternalConnectivity", **other, Options=PORTS)
    assert world.state.endpoints["f" * 64].ports == ()
    for wrong in ({"HostPort": 0}, {"Proto": 132}, {"HostPort": "x"}, {"HostPortEnd": 9000}):
        binding = PORTS["com.docker.network.portmap"][0] | wrong
        options = {"com.docker.network.portmap": [binding]}
        assert "`-p`" in await world.refusal("/NetworkDriver.ProgramExternalConnectivity", **other, Options=options)


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        ({"Pool": "10.9.0.0/24"}, "`--subnet`"),
        ({"Pool": "nonsense"}, "`--subnet`"),
        ({"SubPool": "10.0.0.0/25"}, "`--ip-range`"),
        ({"Options": {"x": "y"}}, "`--ipam-opt`"),
    ],
)
async def test_a_pool_that_cannot_be_names_its_option(world: World, ask: dict[str, Any], named: str) -> None:
    assert named in await world.refusal("/IpamDriver.RequestPool", **ask)


async def test_gateways_are_ours(world: World) -> None:
    pool = {"PoolID": "fairlead/10.0.0.0/24", "Options": {"RequestAddressType": "com.docker.network.gateway"}}
    assert (await world.ask("/IpamDriver.RequestAddress", **pool))["Address"] == "169.254.1.1/32"
    assert "`--gateway`" in await world.refusal("/IpamDriver.RequestAddress", **pool, Address="10.0.0.1")
    await world.ask("/IpamDriver.ReleaseAddress", PoolID="fairlead/10.0.0.0/24", Address="169.254.1.1")
    mac = {"Address": "10.0.0.9/32", "MacAddress": "02:00:00:00:00:01"}
    wanted = {"NetworkID": NET, "EndpointID": EP, "Interface": mac}
    assert "`--mac-address`" in await world.refusal("/NetworkDriver.CreateEndpoint", **wanted)
    assert world.state.endpoints == {}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.dictionaries(
    st.sampled_from(
        ["NetworkID", "EndpointID", "Interface", "Options", "PoolID", "Address", "Pool", "IPv4Data", "SandboxKey"]
    ),
    _JSON | st.just(EP) | st.just("fairlead/10.0.0.0/24") | st.just({"Address": "10.0.0.5/24"}),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), fields=_FIELDS, cut=st.integers(0, 400))
async def test_senseless_and_cut_requests_get_an_answer_in_the_engines_form(
    world: World, path: str, fields: dict[str, Any], cut: int
) -> None:
    whole = json.dumps(fields).encode()
    for body in (whole, whole[:cut], b"\xff" + whole[:cut]):
        status, answer = await world.plugin.answer(path, body)
        assert status in (200, 500)
        assert isinstance(json.loads(answer), dict)
        assert b"failed inside" not in answer
