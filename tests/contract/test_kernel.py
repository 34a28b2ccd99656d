"""What the datapath service relies on, of the real kernel and of the one in dicts alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairlead.address import Address
from services.datapath.failsafe import HOST_ENDPOINT, FailsafePort, HostEntry
from services.datapath.operations import (
    POLICY_MAP_CAPACITY,
    EndpointEntry,
    Kernel,
    KernelError,
    Link,
    PolicyKey,
    PolicyValue,
)
from tests.contract.kernel_stories import STORIES
from tests.support.kernels import Bench

WEB4, WEB6 = Address("10.77.0.2"), Address("fd00:77::2")
DB4, DB6 = Address("10.77.0.3"), Address("fd00:77::3")
WEB, DB = 1001, 1002
TCP, UDP = 6, 17
INGRESS, EGRESS = 0, 1
ALLOW, DENY = PolicyValue(), PolicyValue(deny=True)
ANY_IN, ANY_OUT = PolicyKey(0, 0, 0, INGRESS), PolicyKey(0, 0, 0, EGRESS)


def plug(bench: Bench, endpoint: int, name: str, *addresses: Address) -> EndpointEntry:
    """Return the entry that would let the endpoint through, once it is put."""
    plugged = bench.kernel.plug(Link(endpoint, bench.namespace(name), "eth0", addresses, 0))
    identity = WEB if name == "web" else DB
    return EndpointEntry(
        endpoint,
        plugged.ifindex,
        identity,
        plugged.host_mac,
        plugged.pod_mac,
        tuple(sorted(addresses)),
        held=False,
    )


def two_endpoints(bench: Bench) -> tuple[EndpointEntry, EndpointEntry]:
    """Make web (1) and db (2) pass everything to each other."""
    entries = plug(bench, 1, "web", WEB4, WEB6), plug(bench, 2, "db", DB4, DB6)
    for entry in entries:
        bench.kernel.apply_policy(entry.endpoint, {ANY_IN: ALLOW, ANY_OUT: ALLOW}, ())
        bench.kernel.put_endpoint(entry)
    bench.kernel.apply_addresses({a.prefix: WEB for a in (WEB4, WEB6)} | {a.prefix: DB for a in (DB4, DB6)}, ())
    return entries


def test_broken_glass_outlives_everything_but_its_endpoint(bench: Bench, kernel: Kernel) -> None:
    entries = two_endpoints(bench)
    assert kernel.broken_glass() == {}
    rows = {0: 5, 1: 6, 2: 1 << 62}
    bench.break_glass(rows)
    assert bench.again().start().adopted
    for entry in entries:
        bench.kernel.put_endpoint(replace(entry, held=True))
        bench.kernel.apply_policy(entry.endpoint, {}, (ANY_IN,))
    assert bench.kernel.broken_glass() == rows
    bench.kernel.delete_endpoint(1)
    assert bench.kernel.broken_glass() == {0: 5, 2: 1 << 62}
    bench.kernel.unplug(2)
    assert bench.kernel.broken_glass() == {0: 5}


def test_broken_glass_admits_connections_that_policy_denies(bench: Bench, kernel: Kernel) -> None:
    two_endpoints(bench)
    kernel.apply_policy(2, {}, (ANY_IN,))
    assert not bench.connects((bench.namespace("web"), WEB4), (bench.namespace("db"), DB4), 80)
    bench.break_glass({2: 1 << 62})
    assert bench.connects((bench.namespace("web"), WEB4), (bench.namespace("db"), DB4), 80)
    assert bench.connects((bench.namespace("web"), WEB6), (bench.namespace("db"), DB6), 80)
    bench.break_glass({2: 1})
    assert not bench.connects((bench.namespace("web"), WEB6), (bench.namespace("db"), DB6), 80)


def test_addresses_of_a_link_can_change(bench: Bench, kernel: Kernel) -> None:
    web, db = two_endpoints(bench)
    moved = Address("10.77.0.9")
    kernel.plug(Link(1, bench.namespace("web"), "eth0", (moved,), 0))
    kernel.put_endpoint(plug(bench, 1, "web", moved))
    kernel.apply_addresses({moved.prefix: WEB}, [WEB4.prefix, WEB6.prefix])
    assert kernel.endpoints()[1].addresses == (moved,)
    assert bench.connects((bench.namespace("web"), moved), (bench.namespace("db"), DB4), 80)
    assert (web.endpoint, db.endpoint) == (1, 2)


def test_endpoint_entries_are_kept_as_written_with_addresses_sorted(bench: Bench, kernel: Kernel) -> None:
    entry = plug(bench, 1, "web", WEB6, WEB4)
    held = replace(entry, held=True, ingress_default_deny=3, egress_default_deny=4, addresses=(WEB6, WEB4))
    kernel.put_endpoint(held)
    kernel.put_endpoint(held)
    assert kernel.endpoints() == {1: replace(held, addresses=(WEB4, WEB6))}
    kernel.put_endpoint(replace(entry, addresses=(WEB4,)))
    assert kernel.endpoints() == {1: replace(entry, addresses=(WEB4,))}
    kernel.delete_endpoint(1)
    kernel.delete_endpoint(1)
    assert kernel.endpoints() == {}


def test_an_address_that_moved_on_survives_its_former_endpoint(bench: Bench, kernel: Kernel) -> None:
    kernel.put_endpoint(plug(bench, 1, "web", WEB4))
    kernel.put_endpoint(plug(bench, 2, "db", WEB4))
    kernel.delete_endpoint(1)
    assert kernel.endpoints()[2].addresses == (WEB4,)


def test_policy_maps_hold_what_was_put(bench: Bench, kernel: Kernel) -> None:
    plug(bench, 1, "web", WEB4)
    rich = PolicyValue(deny=True, precedence=200, provenance=0xFFFFFFF0)
    narrow = PolicyKey(0xFFFFFFFF, 6379, TCP, EGRESS)
    assert kernel.policy(1) == {}
    kernel.apply_policy(1, {ANY_IN: ALLOW, narrow: rich}, ())
    assert {key: value for key, (value, _) in kernel.policy(1).items()} == {ANY_IN: ALLOW, narrow: rich}
    kernel.apply_policy(1, {narrow: DENY}, [ANY_IN, PolicyKey(5, 5, 6, 0)])
    assert {key: value for key, (value, _) in kernel.policy(1).items()} == {narrow: DENY}
    kernel.unplug(1)
    assert kernel.policy(1) == {}


def test_a_policy_map_is_compared_where_it_stands(bench: Bench, kernel: Kernel) -> None:
    block = PolicyKey(DB, 1024, TCP, EGRESS, port_bits=6)
    rows = {ANY_IN: ALLOW, PolicyKey(7, 80, TCP, INGRESS): DENY, block: PolicyValue(provenance=9)}
    plug(bench, 1, "web", WEB4)
    assert not kernel.holds_policy(1, {}), "there is no map"
    kernel.apply_policy(1, rows, ())
    assert kernel.holds_policy(1, rows)
    for changed in ({ANY_OUT: ALLOW}, {ANY_IN: DENY}, {ANY_IN: PolicyValue(provenance=1)}, {block: ALLOW}):
        assert not kernel.holds_policy(1, rows | changed), changed
    for key in rows:
        assert not kernel.holds_policy(1, {other: rows[other] for other in rows if other != key}), key
    kernel.apply_policy(1, {}, list(rows))
    assert kernel.holds_policy(1, {})


def test_an_empty_policy_map_is_made_so_that_people_find_it(bench: Bench, kernel: Kernel) -> None:
    plug(bench, 12, "web", WEB4)
    kernel.apply_policy(12, {}, ())
    assert kernel.policy(12) == {}
    assert kernel.policy_pin(12).endswith("00012")


def test_a_policy_map_takes_its_whole_capacity_and_no_more(bench: Bench, kernel: Kernel) -> None:
    plug(bench, 1, "web", WEB4)
    full = {PolicyKey(peer, port, TCP, 0): ALLOW for peer in range(256, 260) for port in range(1, 4097)}
    assert len(full) == POLICY_MAP_CAPACITY
    kernel.apply_policy(1, full, ())
    assert kernel.policy(1).keys() == full.keys()
    with pytest.raises(KernelError, match="full"):
        kernel.apply_policy(1, {ANY_IN: ALLOW}, ())
    other = {PolicyKey(999, port, TCP, 0): ALLOW for port in range(1, 101)}
    kernel.apply_policy(1, other, list(full))
    assert kernel.policy(1).keys() == other.keys()


def test_a_second_process_adopts_everything(bench: Bench, kernel: Kernel) -> None:
    two_endpoints(bench)
    before = (kernel.plugged(), kernel.endpoints(), kernel.policy(1), kernel.addresses())
    successor = bench.again()
    assert successor.start().adopted
    assert (successor.plugged(), successor.endpoints(), successor.policy(1), successor.addresses()) == before
    assert bench.connects((bench.namespace("web"), WEB4), (bench.namespace("db"), DB4), 80)


def test_the_node_itself_is_filtered_from_put_to_delete(bench: Bench, kernel: Kernel) -> None:
    assert kernel.host() is None
    failsafe = frozenset((FailsafePort(INGRESS, TCP, 22), FailsafePort(EGRESS, UDP, 53)))
    entry = HostEntry((WEB4, WEB6), failsafe, ingress_default_deny=5, egress_default_deny=6)
    kernel.apply_policy(HOST_ENDPOINT, {ANY_IN: DENY}, ())
    kernel.put_host(replace(entry, addresses=(WEB6, WEB4)))
    kernel.put_host(entry)
    again = bench.again()
    again.start()
    assert again.host() == entry
    assert {key: value for key, (value, _) in again.policy(HOST_ENDPOINT).items()} == {ANY_IN: DENY}
    assert again.endpoints() == {}
    again.put_host(HostEntry((DB4,)))
    assert again.host() == HostEntry((DB4,))
    again.delete_host()
    again.delete_host()
    assert again.host() is None
    assert again.policy(HOST_ENDPOINT) == {}


@pytest.mark.parametrize("family", [4, 6])
def test_who_gets_in(bench: Bench, kernel: Kernel, family: int) -> None:
    two_endpoints(bench)
    source = bench.namespace("web"), WEB4 if family == 4 else WEB6
    destination = bench.namespace("db"), DB4 if family == 4 else DB6
    for story, (entries, passes) in STORIES.items():
        kernel.apply_policy(2, entries, [key for key in kernel.policy(2) if key not in entries])
        assert bench.connects(source, destination, 80) is passes, story


def test_blocks_of_ports_are_kept_apart_from_ports(bench: Bench, kernel: Kernel) -> None:
    plug(bench, 1, "web", WEB4)
    port, block, single = PolicyKey(5, 80, TCP, 0), PolicyKey(5, 80, TCP, 0, 12), PolicyKey(5, 80, TCP, 0, 16)
    kernel.apply_policy(1, {port: ALLOW, block: DENY, single: PolicyValue(provenance=9)}, ())
    assert {key: value for key, (value, _) in kernel.policy(1).items()} == {
        port: ALLOW,
        block: DENY,
        single: PolicyValue(provenance=9),
    }
    assert bench.again().start().adopted
    assert bench.kernel.policy(1).keys() == {port, block, single}
    bench.kernel.apply_policy(1, {}, [block, single])
    assert bench.kernel.policy(1).keys() == {port}
    bench.kernel.apply_policy(1, {block: ALLOW}, [port])
    assert bench.kernel.policy(1).keys() == {block}


@pytest.mark.parametrize(
    "nonsense", [PolicyKey(5, 81, TCP, 0, 15), PolicyKey(5, 80, 0, 0, 16), PolicyKey(5, 80, TCP, 0, 17)]
)
def test_what_is_no_block_of_ports_is_refused(bench: Bench, kernel: Kernel, nonsense: PolicyKey) -> None:
    plug(bench, 1, "web", WEB4)
    with pytest.raises(KernelError, match="no block of ports"):
        kernel.apply_policy(1, {nonsense: ALLOW}, ())
    assert not kernel.policy(1)


def test_egress_is_judged_too(bench: Bench, kernel: Kernel) -> None:
    two_endpoints(bench)
    kernel.apply_policy(1, {PolicyKey(DB, 81, TCP, EGRESS): ALLOW}, [ANY_OUT])
    source, destination = (bench.namespace("web"), WEB4), (bench.namespace("db"), DB4)
    assert not bench.connects(source, destination, 80)
    assert bench.connects(source, destination, 81)


def test_a_held_endpoint_passes_nothing_whatever_its_map_holds(bench: Bench, kernel: Kernel) -> None:
    _, db = two_endpoints(bench)
    source, destination = (bench.namespace("web"), WEB4), (bench.namespace("db"), DB4)
    assert bench.connects(source, destination, 80)
    kernel.put_endpoint(replace(db, held=True))
    assert not bench.connects(source, destination, 80)
    assert not bench.connects(destination, source, 80)
    kernel.put_endpoint(db)
    assert bench.connects(source, destination, 80)


def test_packets_are_counted_by_reason_and_direction(bench: Bench, kernel: Kernel) -> None:
    two_endpoints(bench)
    assert not {counter.reason for counter in kernel.counters()} & {133, 181}
    source, destination = (bench.namespace("web"), WEB4), (bench.namespace("db"), DB4)
    assert bench.connects(source, destination, 80)
    kernel.apply_policy(2, {PolicyKey(WEB, 81, TCP, INGRESS): DENY}, [ANY_IN])
    assert not bench.connects(source, destination, 80)
    assert not bench.connects(source, destination, 81)
    found = {(counter.reason, counter.direction): counter for counter in kernel.counters()}
    forwarded = sum(found[key].packets for key in found if not key[0])
    assert forwarded >= 1
    for reason in (133, 181):
        assert found[reason, INGRESS].packets >= 1
        assert found[reason, INGRESS].bytes >= 40 * found[reason, INGRESS].packets
    assert bench.again().start().adopted
    assert {(c.reason, c.direction) for c in bench.kernel.counters()} >= {(133, INGRESS), (181, INGRESS)}
