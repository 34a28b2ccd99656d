"""What happens when somebody else commits between our reading and our writing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from fairlead import codec
from fairlead.address import Prefix
from fairlead.bus_memory import Hub
from fairlead.errors import Conflict
from fairlead.kv import Check, Delete, Put
from fairlead.kv_memory import MemoryKv
from fairlead.schema.identity import WithdrawWorkload
from services.identity.cilium import AddressValue, Ownership
from services.identity.keys import Keys, external_record
from services.identity.model import Held, Record, candidate, plan_withdraw
from services.identity.store import Guard
from tests.unit.identity.world import Replica, endpoint, machine, register_nodes, running

LABELS = ("container:app=web",)


class OvertakenKv(MemoryKv):
    """A store in which another writer is faster, once."""

    def __init__(self) -> None:
        super().__init__()
        self.overtaking: list[Put | Delete] = []

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        """Let the other writer go first."""
        first, self.overtaking = self.overtaking, []
        if first:
            await super().commit([], first)
        return await super().commit(checks, changes)


@pytest.fixture
def kv() -> OvertakenKv:
    return OvertakenKv()


@pytest.fixture
async def replica(kv: OvertakenKv) -> AsyncIterator[Replica]:
    async with running(kv, Hub()) as started:
        await register_nodes(started)
        yield started


async def test_a_number_that_vanishes_before_the_commit_is_made_again(replica: Replica, kv: OvertakenKv) -> None:
    first = await replica.service.register_endpoint(endpoint())
    await replica.catch_up()
    key = replica.keys.id(first.identity)
    kv.overtaking = [Delete(key)]
    await replica.service.register_endpoint(endpoint(generation=2))
    assert await kv.get(key) is not None


async def test_another_replica_numbers_the_same_labels_first(replica: Replica, kv: OvertakenKv) -> None:
    theirs = candidate(LABELS, ()) + 1
    kv.overtaking = [
        Put(replica.keys.id(theirs), b"container:app=web;"),
        Put(replica.keys.guard(LABELS), codec.encode(Guard(identity=theirs, labels=LABELS))),
    ]
    assert (await replica.service.register_endpoint(endpoint())).identity == theirs
    await replica.catch_up()
    assert set(replica.announcer.identities.rows) == {str(theirs)}


async def test_another_label_set_takes_the_number_first(replica: Replica, kv: OvertakenKv) -> None:
    wanted = candidate(LABELS, ())
    kv.overtaking = [Put(replica.keys.id(wanted), b"container:app=other;")]
    assert (await replica.service.register_endpoint(endpoint())).identity != wanted


async def test_a_newer_generation_of_the_record_comes_first(replica: Replica, kv: OvertakenKv) -> None:
    await replica.service.put_workload(machine(generation=1))
    await replica.catch_up()
    newer = Record(generation=9, withdrawn=True)
    kv.overtaking = [
        Put(external_record("cmdb", "vm-1"), codec.encode(newer)),
        Delete(replica.keys.address(Prefix("10.9.0.1/32"))),
    ]
    assert not (await replica.service.put_workload(machine(generation=2))).changed
    assert await kv.get(replica.keys.address(Prefix("10.9.0.1/32"))) is None


async def test_only_the_record_moves_on_first(replica: Replica, kv: OvertakenKv) -> None:
    newer = Record(generation=9, withdrawn=True)
    await replica.service.put_workload(machine(source_id="other", addresses=(Prefix("10.9.0.9/32"),)))
    kv.overtaking = [Put(external_record("cmdb", "vm-1"), codec.encode(newer))]
    assert not (await replica.service.put_workload(machine(generation=2))).changed


async def test_somebody_else_takes_the_address_first(replica: Replica, kv: OvertakenKv) -> None:
    await replica.service.register_endpoint(endpoint("other", addresses=endpoint().addresses[1:]))
    await replica.catch_up()
    taken = await kv.get(replica.keys.address(Prefix("fd00:1::2/128")))
    assert taken is not None
    value = taken.value.replace(b"fd00:1::2", b"10.0.1.2")
    kv.overtaking = [Put(replica.keys.address(Prefix("10.0.1.2/32")), value)]
    with pytest.raises(Conflict, match="fairlead/endpoints/n1/other"):
        await replica.service.register_endpoint(endpoint(addresses=endpoint().addresses[:1]))
    kept = await kv.get(replica.keys.address(Prefix("10.0.1.2/32")))
    assert kept is not None
    assert kept.value == value


async def test_a_withdrawal_meets_a_newer_publication(replica: Replica, kv: OvertakenKv) -> None:
    await replica.service.put_workload(machine(generation=1))
    key = external_record("cmdb", "vm-1")
    item = await kv.get(key)
    assert item is not None
    record = codec.decode(item.value, Record)
    newer = Record(generation=5, addresses=record.addresses, identity=record.identity, labels=record.labels)
    kv.overtaking = [Put(key, codec.encode(newer))]
    assert not (
        await replica.service.remove_workload(WithdrawWorkload(source="cmdb", source_id="vm-1", generation=2))
    ).changed
    await replica.catch_up()
    assert set(replica.entries()) == {"10.9.0.1/32"}


def test_an_entry_of_a_newer_generation_is_never_withdrawn() -> None:
    prefix = Prefix("10.0.0.1/32")
    newer = AddressValue(ip="10.0.0.1", id=300, fairlead=Ownership(owner="me", generation=8))
    plan = plan_withdraw("me", None, Record(generation=7, withdrawn=True), {prefix: Held(4, newer)})
    assert plan is not None
    assert plan.deletes == ()


def test_keys_are_unambiguous() -> None:
    names = Keys("cilium", "default")
    assert names.address(Prefix("10.0.0.1/32")).endswith("/10.0.0.1")
    assert names.address(Prefix("10.0.0.0/24")).endswith("/10.0.0.0/24")
    assert names.address(Prefix("fd00::1/128")).endswith("/fd00::1")
    assert external_record("a/b", "c") != external_record("a", "b/c")
