"""Stories in which something is broken: disks, kernels, namespaces, callers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fairlead.address import Address, Prefix
from fairlead.bus_memory import Hub
from fairlead.errors import NotFound, Unavailable
from fairlead.schema import datapath as topics
from fairlead.schema.base import Empty
from fairlead.schema.datapath import EndpointState
from fairlead.schema.policy import POLICY_ROWS
from services.datapath.operations import KernelError, Link
from services.datapath.reports import Feature, KernelReport
from tests.unit.datapath.world import Control, TestNode, entry, until


async def test_a_revision_is_realised_when_every_endpoint_of_the_identity_holds_it(
    node: TestNode, control: Control
) -> None:
    await node.attach("one", "10.0.0.2")
    await node.attach("two", "10.0.0.3")
    await until(lambda: node.realised().rows.get("1000"))
    before = node.realised().rows["1000"]
    node.world.faults["apply_policy", 2] = "map is full"
    after = await control.policy(1000, [entry(1)])
    await until(lambda: "endpoint two: apply_policy 2: map is full" in str(node.realised().failed))
    assert node.realised().rows["1000"] == before
    assert node.status("two").state is EndpointState.READY
    assert "map is full" in node.status("two").detail
    assert node.status("one").policy_revision == after
    node.world.faults.clear()
    await until(lambda: node.realised().rows["1000"] == after)
    assert not node.realised().failed


async def test_the_same_name_in_a_new_namespace_of_the_same_path_is_plugged_again(
    node: TestNode, control: Control
) -> None:
    await node.attach("web")
    del node.world.links[1]  # the namespace died with its end of the pair; the container came back under the same path
    again = await node.attach("web")
    assert again.state is EndpointState.READY
    assert 1 in node.world.links


async def test_many_at_once_get_numbers_of_their_own(node: TestNode, control: Control) -> None:
    statuses = await asyncio.gather(*(node.attach(f"w{i}", f"10.0.0.{i}", (f"app=a{i % 3}",)) for i in range(2, 42)))
    assert {status.state for status in statuses} == {EndpointState.READY}
    assert len({status.endpoint for status in statuses}) == 40
    same = await asyncio.gather(*(node.attach("twin", "10.0.1.1") for _ in range(5)))
    assert len({status.endpoint for status in same}) == 1
    removed = await asyncio.gather(*(node.detach(f"w{i}") for i in range(2, 42)))
    assert all(removed)
    await until(lambda: node.world.links.keys() == {same[0].endpoint})


async def test_a_kernel_that_does_not_start_is_tried_again_and_says_why(
    tmp_path: Path, hub: Hub, control: Control
) -> None:
    node = TestNode(tmp_path, hub)
    node.world.faults["start", 0] = "no bpffs"
    await node.start()
    try:
        waiting = await node.attach("web", wait_s=0.1)
        assert waiting.state is EndpointState.WAITING_FOR_POLICY
        await until(lambda: "no bpffs" in node.conditions["kernel"][1])
        with pytest.raises(Unavailable, match="no bpffs"):
            await node.datapath.questions.look_up(topics.AddressQuery(address=Address("10.0.0.2")))
        node.world.faults.clear()
        await until(lambda: node.status("web").state is EndpointState.READY)
        await until(lambda: node.conditions["kernel"][0])
    finally:
        await node.stop()


async def test_what_stands_in_the_kernel_without_a_record_is_kept_and_shown(node: TestNode, control: Control) -> None:
    await node.stop()
    node.kernel.plug(Link(1, "/run/netns/x", "eth0", (Address("10.0.0.9"),), 0))
    await node.start()
    await until(lambda: "endpoint 1 stands in the kernel" in node.conditions["state"][1])
    status = await node.attach("web")
    assert status.endpoint == 2
    assert 1 in node.world.links


async def test_a_record_that_makes_no_sense_is_set_aside_and_its_endpoint_stays_in_the_kernel(
    node: TestNode, control: Control
) -> None:
    await node.attach("web")
    await node.attach("db", "10.0.0.3", ("app=db",))
    await node.stop()
    (node.folder / "endpoints" / "00001").write_bytes(b"\xc1")
    await node.start()
    await until(lambda: "endpoints/00001 could not be read" in node.conditions["state"][1])
    await until(lambda: "endpoint 1 stands in the kernel" in node.conditions["state"][1])
    assert not node.world.entries[1].held
    assert node.status("db").state is EndpointState.READY


async def test_a_reboot_without_the_bus_restores_policy_from_disk(node: TestNode, control: Control, hub: Hub) -> None:
    await node.attach("web")
    await until(lambda: node.realised().rows)
    await asyncio.sleep(0.4)  # the mirrors' copies are written a little later
    hub.up = False
    await node.stop()
    node.kernel.destroy()
    await node.start()
    await until(lambda: node.status("web").state is EndpointState.READY)
    assert node.kernel.verdict(Address("10.9.9.9"), Address("10.0.0.2"), 6, 80).passes


async def test_a_policy_row_that_is_gone_leaves_the_last_policy_standing(node: TestNode, control: Control) -> None:
    await node.attach("web")
    await control.bus.bucket(POLICY_ROWS).delete("1000")
    await until(lambda: "the last one stays" in node.status("web").detail)
    await node.restart()
    await until(lambda: node.status("web").state is EndpointState.READY)
    assert node.kernel.verdict(Address("10.9.9.9"), Address("10.0.0.2"), 6, 80).passes


async def test_an_address_row_that_the_kernel_refuses_does_not_hinder_the_others(
    node: TestNode, control: Control
) -> None:
    refused = Prefix("10.0.9.7")
    plain = node.kernel.apply_addresses

    def picky(puts: dict[Prefix, int], deletes: object) -> None:
        if refused in puts:
            raise KernelError(f"{refused} is refused")
        plain(puts, deletes)  # type: ignore[arg-type] # passed on

    node.kernel.apply_addresses = picky  # type: ignore[method-assign, assignment] # one row is refused
    await control.group("n2", {f"10.0.9.{i}": 300 for i in range(1, 20)})
    await until(lambda: len(node.world.addresses) == 19)
    await until(lambda: "10.0.9.7/32 is refused" in node.conditions["reconcile"][1])
    assert refused not in node.world.addresses
    del node.kernel.apply_addresses  # the class's own comes back
    await until(lambda: refused in node.world.addresses)


async def test_questions_about_what_is_not_there(node: TestNode, control: Control) -> None:
    with pytest.raises(NotFound, match="'nope' is no number, name or address of an endpoint on node n1"):
        await node.datapath.questions.dump_policy(topics.EndpointQuery(endpoint="nope"))
    await node.attach("web")
    for text in ("web", "1", "10.0.0.2"):
        dump = await node.datapath.questions.dump_policy(topics.EndpointQuery(endpoint=text))
        assert [(line.direction, line.identity, line.deny) for line in dump.entries] == [(0, 0, False), (1, 0, False)]


async def test_ten_thousand_addresses_and_back(node: TestNode, control: Control) -> None:
    for group in range(10):
        await control.group(f"n{group}", {f"10.{group}.{i >> 8}.{i & 255}": 300 for i in range(1000)})
    await until(lambda: len(node.world.addresses) == 10_001, within_s=20)
    await control.group("n3", {f"10.3.{i >> 8}.{i & 255}": 301 for i in range(1000)})
    await until(lambda: list(node.world.addresses.values()).count(301) == 1000, within_s=20)
    await node.restart()
    await until(lambda: node.datapath.node.addresses.table.initialised, within_s=20)
    assert len(node.world.addresses) == 10_001


async def test_a_disk_that_refuses_changes_nothing(node: TestNode, control: Control) -> None:
    await node.attach("web")
    folder = node.folder / "endpoints"
    folder.rename(node.folder / "elsewhere")
    folder.write_text("in the way")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await node.attach("db", "10.0.0.3")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await node.detach("web")
    assert node.status("web").state is EndpointState.READY
    assert node.world.links.keys() == {1}
    folder.unlink()
    (node.folder / "elsewhere").rename(folder)
    assert (await node.attach("db", "10.0.0.3")).state is EndpointState.READY
    assert await node.detach("web")


async def test_what_the_kernel_lacks_is_told_and_is_no_trouble(node: TestNode) -> None:
    await until(lambda: node.conditions.get("kernel") == (True, ""))
    lacking = Feature("geneve devices", present=False, use="routing = geneve", instead="another `routing`")
    node.datapath.capabilities.hear(KernelReport(adopted=False, features=(lacking,), kernel_release="5.10.0"))
    await until(lambda: node.conditions["kernel features"] == (True, "geneve devices: another `routing` instead"))
    told = await node.datapath.capabilities.show(Empty())
    assert (told.kernel, [(one.name, one.present) for one in told.features]) == ("5.10.0", [("geneve devices", False)])
