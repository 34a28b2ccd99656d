"""What the world sees of pods that leave as their node, and what comes back to them: real packets."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading

import pytest

from fairlead.address import Address, Family, Prefix
from services.datapath.failsafe import HOST_ENDPOINT, HostEntry
from services.datapath.kernel import abi
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.masquerade import choose
from services.datapath.operations import PolicyValue
from services.datapath.reports import DropReason as Drop
from tests.kernel.outside import BOTH, ON, datagrams, drops
from tests.kernel.rig import ALLOW_OUT, FAR, NODE, SMALL, Rig, pod_address
from tests.kernel.sending import families

pytestmark = pytest.mark.kernel

PORTS = range(61000, 65536)


@families
def test_connection_leaves_as_the_node_and_carries_both_ways(out: Rig, family: int) -> None:
    payload = os.urandom(3 << 20)  # segmentation offload makes packets of 64 KB, checksums yet to be made
    with out.listen("w", 7400, family) as listening, out.socket_in("1", family=family) as client:
        client.connect((FAR[family], 7400))
        server, peer = listening.accept()
        with server:
            server.settimeout(5)
            assert peer[0] == NODE[family]
            assert peer[1] in PORTS
            for sending, receiving in ((client, server), (server, client)):
                pump = threading.Thread(target=sending.sendall, args=(payload,))
                pump.start()
                received = b""
                while len(received) < len(payload):
                    received += receiving.recv(1 << 18)
                pump.join()
                assert received == payload
            [row] = out.kernel.masqueraded()
            assert (row.pod, row.pod_port) == (pod_address(1, family), client.getsockname()[1])
            assert (row.own, row.own_port, row.remote, row.remote_port) == (*peer[:2], FAR[family], 7400)
            assert row.idle_s < 5
    assert drops(out) == []


@families
def test_datagrams_keep_a_port_of_the_range(out: Rig, family: int) -> None:
    with datagrams(out, "w", family, 7401) as server, datagrams(out, "1", family, 61234) as client:
        for text in (b"one", b"two"):
            client.sendto(text, (FAR[family], 7401))
            assert server.recvfrom(100) == (text, (NODE[family], 61234, *((0, 0) if family == 6 else ())))
            server.sendto(b"re " + text, (NODE[family], 61234))
            assert client.recvfrom(100)[:1] == (b"re " + text,)


def test_datagram_without_checksum_stays_without(out: Rig) -> None:
    with datagrams(out, "w", 4, 7402) as server, datagrams(out, "1", 4) as client:
        client.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        client.sendto(b"no sum", (FAR[4], 7402))
        text, peer = server.recvfrom(100)
        assert (text, peer[0]) == (b"no sum", NODE[4])
        server.setsockopt(socket.SOL_SOCKET, 11, 1)
        server.sendto(b"nor I", peer)
        assert client.recv(100) == b"nor I"


@families
def test_echo_goes_and_comes_back(out: Rig, family: int) -> None:
    assert out.ping("1", FAR[family])
    assert out.ping("2", FAR[family])
    assert {str(row.own) for row in out.kernel.masqueraded()} == {NODE[family]}
    assert drops(out) == []


@families
def test_fragments_follow_their_first_both_ways(out: Rig, family: int) -> None:
    payload = os.urandom(5000)
    with datagrams(out, "w", family, 7403) as server, datagrams(out, "1", family) as client:
        client.sendto(payload, (FAR[family], 7403))
        text, peer = server.recvfrom(9000)
        assert (text, peer[0]) == (payload, NODE[family])
        server.sendto(payload[::-1], peer)
        assert client.recv(9000) == payload[::-1]


@families
def test_refusal_of_the_world_reaches_the_pod(out: Rig, family: int) -> None:
    with datagrams(out, "1", family) as client:
        client.connect((FAR[family], 7404))
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


@families
def test_refusal_of_the_pod_reaches_the_world(out: Rig, family: int) -> None:
    with datagrams(out, "w", family, 7405) as server:
        with datagrams(out, "1", family) as client:
            client.sendto(b"hello", (FAR[family], 7405))
            _, peer = server.recvfrom(100)
        server.connect(peer)
        server.send(b"too late")
        with pytest.raises(ConnectionRefusedError):
            server.recv(100)


@families
def test_pods_with_the_same_port_do_not_mix(out: Rig, family: int) -> None:
    with (
        datagrams(out, "w", family, 7406) as server,
        datagrams(out, "1", family, 61500) as first,
        datagrams(out, "2", family, 61500) as second,
    ):
        for number, client in enumerate((first, second, first, second)):
            client.sendto(b"%d" % number, (FAR[family], 7406))
            text, peer = server.recvfrom(100)
            server.sendto(b"to " + text, peer)
            assert client.recv(100) == b"to %d" % number
        assert len({row.own_port for row in out.kernel.masqueraded()}) == 2


@families
def test_no_free_port_is_a_drop_that_says_so_until_a_flow_dies(out: Rig, family: int) -> None:
    out.kernel.set_masquerade(dataclasses.replace(ON, first_port=61000, last_port=61001))
    with datagrams(out, "w", family, 7407) as server:
        clients = [datagrams(out, "1", family) for _ in range(3)]
        for client in clients[:2]:
            client.sendto(b"x", (FAR[family], 7407))
            assert server.recvfrom(100)[1][1] in (61000, 61001)
        assert drops(out) == []
        clients[2].sendto(b"x", (FAR[family], 7407))
        assert drops(out) == [Drop.NO_MAPPING]
        _grow_old(out, clients[0].getsockname()[1])
        clients[2].sendto(b"late", (FAR[family], 7407))
        assert server.recv(100) == b"late"
        clients[0].sendto(b"x", (FAR[family], 7407))
        assert drops(out) == [Drop.NO_MAPPING]
        for client in clients:
            client.close()


def _grow_old(rig: Rig, port: int) -> None:
    """Let all flows of that pod's port be dead."""
    table = rig.kernel._tables.maps["conntrack"]
    for key, value in table.items().items():
        ports = {int.from_bytes(part, "big") for part in abi.FLOW_KEY.unpack(key)[2:4]}
        if port in ports:
            _, *rest = abi.FLOW.unpack(value)
            table.put(key, abi.FLOW.pack(0, *rest))


@families
def test_excluded_and_known_destinations_see_the_pod(out: Rig, family: int) -> None:
    exclusion = Prefix("192.0.2.0/30" if family == 4 else "2001:db8::/126")
    with datagrams(out, "w", family, 7408) as server:

        def seen() -> str:
            with datagrams(out, "1", family) as client:
                client.sendto(b"who", (FAR[family], 7408))
                return str(server.recvfrom(100)[1][0])

        assert seen() == NODE[family]
        out.kernel.set_masquerade(dataclasses.replace(ON, exclusions=frozenset({exclusion})))
        assert out.kernel.masquerade().exclusions == {exclusion}
        assert seen() == pod_address(1, family)
        out.kernel.set_masquerade(ON)
        out.kernel.apply_addresses({Prefix(FAR[family]): 1002}, ())
        assert seen() == pod_address(1, family)  # somebody's workload, not the world
        out.kernel.apply_addresses({Prefix(FAR[family]): 1 << 24}, ())
        assert seen() == NODE[family]  # a prefix that policies name is still the world
        out.kernel.set_masquerade(dataclasses.replace(ON, families=BOTH - {Family(family)}))
        assert seen() == pod_address(1, family)


@families
def test_world_may_still_begin_flows_to_a_pod_itself(out: Rig, family: int) -> None:
    out.allow_all()
    with out.listen("1", 7409, family):
        assert out.connects("w", pod_address(1, family), 7409)
    assert out.kernel.masqueraded() == []


@families
def test_restart_amid_a_transfer_loses_nothing(out: Rig, family: int) -> None:
    with out.listen("w", 7410, family) as listening, out.socket_in("1", family=family) as client:
        client.connect((FAR[family], 7410))
        server, peer = listening.accept()
        with server:
            server.settimeout(3)
            out.kernel.stop()
            other = LinuxKernel(out.pins, ("up0",), SMALL)
            for text in (b"while nobody runs", b"started", b"stopped"):
                client.sendall(text)
                assert server.recv(100) == text
                server.sendall(text)
                assert client.recv(100) == text
                if text == b"while nobody runs":
                    assert other.start().adopted
                    assert other.masquerade().families == BOTH
            assert [row.own_port for row in other.masqueraded()] == [peer[1]]
            other.stop()
            out.kernel.start()


@families
def test_revocation_is_immediate_and_the_flow_goes_on_afterwards(out: Rig, family: int) -> None:
    with datagrams(out, "w", family, 7411) as server, datagrams(out, "1", family) as client:
        client.sendto(b"before", (FAR[family], 7411))
        _, peer = server.recvfrom(100)
        out.policy(1, {})
        client.sendto(b"no", (FAR[family], 7411))
        server.sendto(b"no", peer)
        assert drops(out) == [Drop.POLICY, Drop.POLICY]
        out.policy(1, {ALLOW_OUT: PolicyValue()})
        client.sendto(b"after", (FAR[family], 7411))
        assert server.recvfrom(100) == (b"after", peer)
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"


@families
def test_row_that_was_forgotten_is_made_again(out: Rig, family: int) -> None:
    table = out.kernel._tables.maps["masquerade"]
    with datagrams(out, "w", family, 7412) as server, datagrams(out, "1", family) as client:
        client.sendto(b"one", (FAR[family], 7412))
        _, peer = server.recvfrom(100)
        table.delete_all(table.items())
        assert out.kernel.masqueraded() == []
        received: list[bytes] = []
        client.settimeout(0.05)
        for _ in range(40):  # the flow looks after it when it asks for its way anew
            client.sendto(b"more", (FAR[family], 7412))
            assert server.recvfrom(100)[1] == peer
            server.sendto(b"answer", peer)
            try:
                received.append(client.recv(100))
                break
            except TimeoutError:
                continue
        assert received == [b"answer"]


@families
def test_device_without_an_address_of_ours_is_no_way_out(out: Rig, family: int) -> None:
    out.kernel._tables.outer_ends.set_addresses({})
    with datagrams(out, "1", family) as client:
        client.sendto(b"x", (FAR[family], 7413))
    assert drops(out) == [Drop.NO_MAPPING]


def test_a_stated_address_comes_first_and_fills_in() -> None:
    first, second, stated = Address("192.0.2.1"), Address("192.0.2.9"), Address("203.0.113.9")
    assert choose({3: [first, second]}, ()) == {(3, 4): first}
    assert choose({3: [first, second]}, (second,)) == {(3, 4): second}
    assert choose({3: [first], 4: []}, (stated,)) == {(3, 4): first, (4, 4): stated}
    assert choose({4: []}, ()) == {}


@families
def test_host_policy_has_no_say_in_what_pods_send_in_the_nodes_name(out: Rig, family: int) -> None:
    out.policy(HOST_ENDPOINT, {})
    out.kernel.put_host(HostEntry(out.kernel.own_addresses(), frozenset()))
    try:
        payload = os.urandom(4000)
        with datagrams(out, "w", family, 7415) as server, datagrams(out, "1", family) as client:
            for text in (b"one", payload, b"two"):
                client.sendto(text, (FAR[family], 7415))
                received, peer = server.recvfrom(9000)
                assert (received, peer[0]) == (text, NODE[family])
                server.sendto(text, peer)
                assert client.recv(9000) == text
        with out.listen("w", 7416, family):
            assert out.connects("2", FAR[family], 7416)
            assert not out.connects("n", FAR[family], 7416)
    finally:
        out.kernel.delete_host()
