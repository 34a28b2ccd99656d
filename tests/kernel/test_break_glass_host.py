"""Broken glass of the node itself: its own host policy, both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.failsafe import HOST_ENDPOINT
from services.datapath.kernel import glass
from services.datapath.kernel.testrun import OK, REDIRECT, SHOT
from services.datapath.reports import DropReason as Drop
from services.datapath.reports import EventKind
from tests.kernel.firewall import Wires, protect
from tests.kernel.packets import ACK, SYN, tcp
from tests.kernel.rig import Rig

pytestmark = pytest.mark.kernel
families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def wires(rig: Rig) -> Iterator[Wires]:
    """The node with a host policy that allows nothing."""
    protect(rig, {})
    made = Wires(rig)
    yield made
    for program in made.programs.values():
        program.close()
    rig.kernel.delete_host()


def open_until(rig: Rig, endpoint: int, until_ns: int) -> None:
    """Write the row as the command does; what was denied a moment ago is forgotten at once."""
    with glass.pinned(rig.pins) as rows:
        rows.put({endpoint: until_ns})
    rig.kernel._tables.bump_addresses()


@families
@pytest.mark.parametrize("opened", [HOST_ENDPOINT, 0], ids=["host", "node"])
def test_what_the_node_is_sent_and_sends_passes_until_its_end(rig: Rig, wires: Wires, family: int, opened: int) -> None:
    assert wires.arrives(tcp(1000, 5432, SYN), family) == SHOT
    assert wires.leaves(tcp(2000, 443, SYN), family) == SHOT
    rig.take_events()
    open_until(rig, opened, 1 << 62)
    assert wires.arrives(tcp(1000, 5432, SYN), family) == OK
    assert wires.leaves(tcp(5432, 1000, SYN | ACK), family) == OK
    assert wires.leaves(tcp(2000, 443, SYN), family) == OK
    assert wires.pod_sends(tcp(3000, 5432, SYN), family) == REDIRECT
    told = {(one.kind, one.reason, one.endpoint, one.by_glass) for one in rig.take_events()}
    assert told == {(EventKind.AUDIT, Drop.POLICY, HOST_ENDPOINT, True)}
    with glass.pinned(rig.pins) as rows:
        rows.put({opened: 1})
    for answer in (wires.leaves(tcp(5432, 1000), family), wires.arrives(tcp(443, 2000, ACK), family)):
        assert answer == SHOT
    assert wires.pod_sends(tcp(3000, 5432), family) == SHOT
    with glass.pinned(rig.pins) as rows:
        rows.remove(opened)


def test_the_row_goes_with_the_host_policy(rig: Rig, wires: Wires) -> None:
    open_until(rig, HOST_ENDPOINT, 1 << 62)
    rig.kernel.delete_host()
    assert rig.kernel.broken_glass() == {}
