from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fairlead.address import Address
from fairlead.schema.base import NodeName
from fairlead.schema.flow import FlowType, Verdict
from services.datapath.explain import Circumstances, End, Subject, explain, reason_text
from services.datapath.reports import DropReason, Event, EventKind

EVENT = Event(
    kind=EventKind.DROP,
    reason=133,
    direction=0,
    protocol=6,
    source=Address("10.0.0.2"),
    destination=Address("10.0.0.3"),
    sport=40000,
    dport=6379,
    source_identity=2345,
    destination_identity=300,
    endpoint=2,
    provenance=1,
    length_bytes=60,
    time_ns=0,
)
AROUND = Circumstances(
    node=NodeName("n1"),
    uuid="u",
    time=datetime(2026, 1, 1, tzinfo=UTC),
    source=End(("container:app=intern",), "intern-1", 0, 3.2),
    destination=End(("container:app=db",), "db", 2, 100.0),
    subject=Subject("db", "", 17),
    origins=("CiliumNetworkPolicy default/x",),
)


def test_default_deny_names_the_policy_the_peer_and_the_age() -> None:
    flow = explain(EVENT, AROUND)
    assert flow.explanation == (
        "default deny, turned on by CiliumNetworkPolicy default/x; no rule of it admits identity 2345 "
        "(container:app=intern) on 6379/TCP, known for 3.2 s"
    )
    assert (flow.verdict, flow.traffic_direction, flow.policy_revision) == (Verdict.DROPPED, "INGRESS", 17)
    assert (flow.denied_by, flow.allowed_by) == (("CiliumNetworkPolicy default/x",), ())
    assert (flow.source.name, flow.source.identity_age_s, flow.destination.port) == ("intern-1", 3.2, 6379)


def test_on_egress_the_peer_is_the_destination() -> None:
    flow = explain(replace(EVENT, direction=1), AROUND)
    assert "admits identity 300 (container:app=db) on 6379/TCP, known for 100 s" in flow.explanation
    assert flow.traffic_direction == "EGRESS"


def test_an_address_that_nobody_claims_is_said_to_be_so() -> None:
    flow = explain(replace(EVENT, source_identity=2), replace(AROUND, source=End(("reserved:world",))))
    assert flow.explanation.endswith("identity 2 (reserved:world) on 6379/TCP; 10.0.0.2 is not known as anybody's")


@pytest.mark.parametrize(
    ("event", "around", "text"),
    [
        (
            replace(EVENT, reason=181),
            replace(AROUND, origins=("CiliumNetworkPolicy default/x ingressDeny[0]",)),
            "denied by CiliumNetworkPolicy default/x ingressDeny[0]",
        ),
        (
            replace(EVENT, reason=220),
            replace(AROUND, subject=Subject("db", "waiting for the policy of identity 300")),
            "endpoint db is held: waiting for the policy of identity 300",
        ),
        (replace(EVENT, reason=132), AROUND, "the source address does not belong to the endpoint"),
        (replace(EVENT, reason=250), AROUND, "drop reason 250"),
        (
            replace(EVENT, kind=EventKind.NEW_FLOW, reason=0),
            AROUND,
            "allowed by CiliumNetworkPolicy default/x",
        ),
        (
            replace(EVENT, kind=EventKind.NEW_FLOW, reason=0),
            replace(AROUND, origins=()),
            "allowed: no policy enforces ingress of db",
        ),
    ],
)
def test_every_kind_of_event_has_its_sentence(event: Event, around: Circumstances, text: str) -> None:
    assert explain(event, around).explanation == text


def test_every_known_reason_has_a_text_of_its_own() -> None:
    texts = [reason_text(int(reason)) for reason in DropReason]
    assert len(set(texts)) == len(texts)
    assert not any(text.startswith("drop reason") for text in texts)


def test_an_audited_denial_says_what_the_drop_would_have_said() -> None:
    dropped, passed = explain(EVENT, AROUND), explain(replace(EVENT, kind=EventKind.AUDIT, audited=True), AROUND)
    assert (passed.verdict, passed.event_type) == (Verdict.AUDIT, FlowType.AUDIT)
    words = ("explanation", "denied_by", "drop_reason", "drop_reason_desc", "traffic_direction")
    assert [getattr(passed, word) for word in words] == [getattr(dropped, word) for word in words]


@pytest.mark.parametrize(
    ("kind", "protocol", "flags", "text"),
    [
        (EventKind.CLOSED, 6, (0x13, 0x13), "closed"),
        (EventKind.CLOSED, 6, (0x13, 0x16), "reset"),
        (EventKind.CLOSED, 6, (0x13, 0x12), "over: nothing was heard of it any more"),
        (EventKind.CLOSED, 17, (0, 0), "over: nothing was heard of it for as long as it may live"),
        (EventKind.LASTING, 6, (0x12, 0x12), "goes on"),
    ],
)
def test_whole_flows_are_told_with_their_counts(
    kind: EventKind, protocol: int, flags: tuple[int, int], text: str
) -> None:
    event = replace(EVENT, kind=kind, reason=0, protocol=protocol, tcp_flags=flags, packets=(3, 2), bytes=(300, 200))
    flow = explain(event, AROUND)
    assert (flow.explanation, flow.verdict, flow.denied_by, flow.allowed_by) == (text, Verdict.FORWARDED, (), ())
    assert (flow.packets, flow.reply_packets, flow.bytes, flow.reply_bytes) == (3, 2, 300, 200)
    assert explain(replace(event, audited=True), AROUND).verdict is Verdict.AUDIT


def test_a_flow_tells_its_flags_and_version() -> None:
    flow = explain(replace(EVENT, tcp_flags=(0x12, 0), is_reply=True), replace(AROUND, interface="fl00002"))
    assert (flow.tcp_flags, flow.ip_version, flow.is_reply, flow.interface) == (("SYN", "ACK"), 4, True, "fl00002")
