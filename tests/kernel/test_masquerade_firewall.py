"""Pods that leave as their node while a host policy closes the node: the policy is about the node, and their packets are theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.reports import DropReason as Drop
from tests.kernel.rig import FAR, NODE, Rig
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel


@pytest.fixture
def closed(out: Rig) -> Iterator[Rig]:
    out.policy(HOST_ENDPOINT, {})
    out.kernel.put_host(HostEntry(out.kernel.own_addresses(), frozenset(), 50, 51))
    yield out
    out.kernel.delete_host()


@families
def test_pods_still_leave_and_are_answered_with_one_flow(closed: Rig, family: int) -> None:
    with closed.listen("w", 7500, family) as server, closed.socket_in("1", family=family) as client:
        client.connect((FAR[family], 7500))
        answering, peer = server.accept()
        with answering:
            answering.sendall(b"back")
            assert client.recv(10) == b"back"
        assert peer[0] == NODE[family]
        assert len(closed.flows()) == 1
    with closed.listen("n", 7501, family):
        assert not closed.connects("w", NODE[family], 7501)
        assert not closed.connects("1", NODE[family], 7501)
    refused = {(event.reason, event.endpoint) for event in closed.take_events() if event.reason}
    assert refused == {(Drop.POLICY, HOST_ENDPOINT)}
