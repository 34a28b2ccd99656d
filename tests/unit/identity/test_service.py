from __future__ import annotations

import json

import msgspec
import pytest

from fairlead import telemetry
from fairlead.address import Address, Prefix
from fairlead.errors import Conflict, InvalidInput, Unavailable
from fairlead.kv_memory import MemoryKv
from fairlead.schema.identity import ADDRESSES, IDENTITIES, NODES, RegisterNode
from tests.unit.identity.world import N1, N2, Replica, endpoint, gone, machine


async def test_an_endpoint_gets_identity_addresses_and_rows(replica: Replica, kv: MemoryKv) -> None:
    telemetry.setup("test", "n1", {})
    with telemetry.span("cause"):
        trace = telemetry.traceparent()
        answer = await replica.service.register_endpoint(endpoint())
    assert trace
    assert answer.labels == ("container:app=web",)
    assert 256 <= answer.identity <= 65535
    await replica.catch_up()
    stored = await kv.get(f"cilium/state/identities/v1/id/{answer.identity}")
    assert stored is not None
    assert stored.value == b"container:app=web;"
    address = await kv.get("cilium/state/ip/v1/default/10.0.1.2")
    assert address is not None
    assert address.revision == answer.revision
    value = json.loads(address.value)
    assert {key: value[key] for key in ("IP", "Mask", "HostIP", "ID", "Metadata", "K8sPodName")} == {
        "IP": "10.0.1.2",
        "Mask": None,
        "HostIP": "192.168.0.1",
        "ID": answer.identity,
        "Metadata": "",
        "K8sPodName": "web",
    }
    identity = await replica.bus.bucket(IDENTITIES).get(str(answer.identity))
    group = await replica.bus.bucket(ADDRESSES).get("n1")
    assert identity is not None
    assert group is not None
    assert identity.labels == ("container:app=web",)
    assert {entry.prefix for entry in group.entries} == {"10.0.1.2/32", "fd00:1::2/128"}
    assert {entry.identity for entry in group.entries} == {answer.identity}
    assert group.revision == answer.revision
    assert telemetry.trace_id(identity.trace) == telemetry.trace_id(group.trace) == telemetry.trace_id(trace)


async def test_saying_it_again_changes_nothing(replica: Replica, kv: MemoryKv) -> None:
    first = await replica.service.register_endpoint(endpoint())
    node = RegisterNode(node=N1, addresses=(Address("192.168.0.1"),))
    before = kv.revision
    assert await replica.service.register_endpoint(endpoint()) == first
    assert not (await replica.service.register_node(node)).changed
    assert kv.revision == before


async def test_a_node_must_be_known_before_its_endpoints_unless_they_name_its_address(replica: Replica) -> None:
    with pytest.raises(Unavailable, match="n9"):
        await replica.service.register_endpoint(endpoint(node="n9"))  # type: ignore[arg-type]  # a name is a text
    named = endpoint(node="n9", node_address=Address("192.168.0.9"))  # type: ignore[arg-type]  # a name is a text
    await replica.service.register_endpoint(named)
    await replica.catch_up()
    assert replica.group_of("10.0.1.2/32") == "n9"


async def test_the_larger_generation_wins_wherever_it_comes_from(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=5))
    with pytest.raises(Conflict, match="newer than 4"):
        await replica.service.register_endpoint(endpoint(generation=4, labels=("app=old",)))
    with pytest.raises(Conflict, match="fairlead/endpoints/n1/web"):
        await replica.service.register_endpoint(endpoint("thief", N2, generation=5))
    await replica.service.register_endpoint(endpoint("heir", N2, generation=6))
    await replica.catch_up()
    assert replica.group_of("10.0.1.2/32") == "n2"
    # the old owner's farewell comes late and must not take the heir's addresses
    await replica.service.withdraw_endpoint(gone(generation=5))
    await replica.catch_up()
    assert replica.group_of("fd00:1::2/128") == "n2"


async def test_fewer_addresses_free_the_others(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint())
    await replica.service.register_endpoint(endpoint(generation=2, addresses=(Address("10.0.1.2"),)))
    await replica.catch_up()
    assert set(replica.entries()) == {"10.0.1.2/32"}


async def test_relabelling_changes_the_identity_of_all_addresses_at_once(replica: Replica) -> None:
    old = await replica.service.register_endpoint(endpoint())
    new = await replica.service.register_endpoint(endpoint(generation=2, labels=("app=db",)))
    await replica.catch_up()
    assert old.identity != new.identity
    assert {entry.identity for entry in replica.entries().values()} == {new.identity}


async def test_what_is_withdrawn_stays_away_when_the_registration_comes_late(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=7))
    assert (await replica.service.withdraw_endpoint(gone(generation=7))).changed
    assert not (await replica.service.withdraw_endpoint(gone(generation=7))).changed
    with pytest.raises(Conflict, match="withdrawn"):
        await replica.service.register_endpoint(endpoint(generation=7))
    await replica.catch_up()
    assert replica.entries() == {}
    await replica.service.register_endpoint(endpoint(generation=8))
    await replica.catch_up()
    assert set(replica.entries()) == {"10.0.1.2/32", "fd00:1::2/128"}


async def test_an_older_withdrawal_is_ignored(replica: Replica) -> None:
    await replica.service.register_endpoint(endpoint(generation=7))
    assert not (await replica.service.withdraw_endpoint(gone(generation=6))).changed
    await replica.catch_up()
    assert len(replica.entries()) == 2


async def test_endpoints_without_generation_come_and_go(replica: Replica) -> None:
    for _ in range(2):
        await replica.service.register_endpoint(endpoint(generation=0))
        await replica.service.withdraw_endpoint(gone(generation=0))
    await replica.service.register_endpoint(endpoint(generation=0))
    await replica.catch_up()
    assert len(replica.entries()) == 2


@pytest.mark.parametrize(
    ("labels", "field"),
    [(("reserved:host",), "reserved"), (("a=1", "a=2"), "twice"), (("a;b",), "semicolon"), (("=x",), "no key")],
)
async def test_bad_labels_are_refused_by_name(replica: Replica, labels: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        await replica.service.register_endpoint(endpoint(labels=labels))
    with pytest.raises(InvalidInput, match=field):
        await replica.service.put_workload(machine(labels=labels))


async def test_addresses_move_when_their_node_turns_up_and_the_gaining_group_is_written_first(replica: Replica) -> None:
    await replica.put("cilium/state/ip/v1/default/10.5.0.1", '{"IP":"10.5.0.1","HostIP":"192.168.0.5","ID":9999}')
    await replica.catch_up()
    shard = replica.group_of("10.5.0.1/32")
    order: list[str] = []
    original = replica.announcer.addresses._bucket.put

    async def put(key: str, row: object) -> None:
        order.append(key)
        await original(key, row)  # type: ignore[arg-type]  # passed on as it came

    replica.announcer.addresses._bucket.put = put  # type: ignore[method-assign]  # to see the order of writes
    await replica.service.register_node(RegisterNode(node="n5", addresses=(Address("192.168.0.5"),)))  # type: ignore[arg-type]  # a name is a text
    await replica.catch_up()
    assert order == ["n5", shard]
    assert replica.group_of("10.5.0.1/32") == "n5"


async def test_nodes_are_announced_with_addresses_and_prefixes(replica: Replica) -> None:
    ask = RegisterNode(
        node=N1,
        addresses=(Address("192.168.0.1"), Address("fd00::1")),
        prefixes=(Prefix("10.0.1.0/24"), Prefix("fd00:1::/80"), Prefix("10.0.9.0/25")),
    )
    answer = await replica.service.register_node(ask)
    await replica.catch_up()
    row = await replica.bus.bucket(NODES).get("n1")
    assert row is not None
    assert row.revision == answer.revision
    assert row.addresses == ask.addresses
    assert set(row.prefixes) == set(ask.prefixes)


async def test_a_node_is_announced_with_its_labels_and_cannot_claim_to_be_the_world(replica: Replica) -> None:
    ask = RegisterNode(node=N1, addresses=(Address("192.168.0.1"),), labels=("role=gateway", "k8s:zone=a", "spot="))
    assert (await replica.service.register_node(ask)).changed
    assert not (await replica.service.register_node(ask)).changed
    await replica.catch_up()
    row = await replica.bus.bucket(NODES).get("n1")
    assert row is not None
    assert row.labels == ("container:role=gateway", "container:spot", "k8s:zone=a")
    with pytest.raises(InvalidInput, match="reserved:world"):
        await replica.service.register_node(msgspec.structs.replace(ask, labels=("reserved:world",)))
