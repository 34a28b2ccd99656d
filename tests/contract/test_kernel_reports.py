"""What a kernel reports of packets, the real one and the one in dicts alike."""

from __future__ import annotations

from dataclasses import replace

from services.datapath.operations import Kernel, PolicyKey, PolicyValue
from services.datapath.reports import EventKind, EventsLost
from tests.contract.test_kernel import (
    ANY_IN,
    DB,
    DB4,
    INGRESS,
    TCP,
    WEB,
    WEB4,
    two_endpoints,
)
from tests.support.kernels import Bench


def test_a_drop_is_reported_with_its_cause(bench: Bench, kernel: Kernel) -> None:
    _, db = two_endpoints(bench)
    kernel.events(0)
    kernel.put_endpoint(replace(db, ingress_default_deny=42))
    kernel.apply_policy(2, {PolicyKey(WEB, 81, TCP, INGRESS): PolicyValue(deny=True, provenance=43)}, [ANY_IN])
    source, destination = (bench.namespace("web"), WEB4), (bench.namespace("db"), DB4)
    assert not bench.connects(source, destination, 80)
    assert not bench.connects(source, destination, 81)
    drops = {event.dport: event for event in kernel.events(1.0) if event.kind is EventKind.DROP}
    silent, denied = drops[80], drops[81]
    assert (silent.reason, silent.provenance) == (133, 42)
    assert (denied.reason, denied.provenance) == (181, 43)
    for event in (silent, denied):
        assert (event.source, event.destination, event.protocol, event.direction) == (WEB4, DB4, TCP, INGRESS)
        assert (event.source_identity, event.destination_identity, event.endpoint) == (WEB, DB, 2)
    assert kernel.events_lost() == EventsLost()


def test_a_new_flow_is_reported_with_what_allowed_it(bench: Bench, kernel: Kernel) -> None:
    two_endpoints(bench)
    kernel.events(0)
    kernel.apply_policy(2, {PolicyKey(WEB, 80, TCP, INGRESS): PolicyValue(provenance=44)}, [ANY_IN])
    assert bench.connects((bench.namespace("web"), WEB4), (bench.namespace("db"), DB4), 80)
    flows = [event for event in kernel.events(1.0) if event.kind is EventKind.NEW_FLOW and event.dport == 80]
    assert [(event.endpoint, event.direction, event.provenance) for event in flows] == [(2, INGRESS, 44)]


def test_what_an_audited_endpoint_would_deny_passes_and_is_reported(bench: Bench, kernel: Kernel) -> None:
    _, db = two_endpoints(bench)
    kernel.apply_policy(2, {PolicyKey(WEB, 81, TCP, INGRESS): PolicyValue(deny=True, provenance=43)}, [ANY_IN])
    kernel.put_endpoint(replace(db, ingress_default_deny=42, audit_ingress=True))
    assert kernel.endpoints()[2].audit_ingress
    kernel.events(0)
    source, destination = (bench.namespace("web"), WEB4), (bench.namespace("db"), DB4)
    assert bench.connects(source, destination, 80)
    assert bench.connects(source, destination, 81)
    told = {event.dport: event for event in kernel.events(1.0) if event.kind is EventKind.AUDIT}
    assert {port: (event.reason, event.provenance, event.endpoint) for port, event in told.items()} == {
        80: (133, 42, 2),
        81: (181, 43, 2),
    }
    kernel.put_endpoint(replace(db, ingress_default_deny=42))
    assert not bench.connects(source, destination, 80)
