"""The filters of `fairlead flows`: what the command line asks for, and what that means."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from clients.cli import flow_text
from clients.cli.__main__ import parser
from clients.cli.flow_filters import check, query
from fairlead.address import Address
from fairlead.errors import InvalidInput
from fairlead.schema.base import IdentityId, NodeName
from fairlead.schema.flow import Flow, FlowEnd, FlowType, Verdict

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WEB = FlowEnd(
    address=Address("10.0.1.2"), port=40000, identity=IdentityId(300), labels=("container:app=web",), name="web-1"
)
DB = FlowEnd(address=Address("10.0.1.3"), port=6379, identity=IdentityId(301), labels=("container:app=db",), name="db")
FLOW = Flow(
    uuid="a" * 32,
    time=NOW - timedelta(minutes=2),
    node_name=NodeName("n1"),
    verdict=Verdict.DROPPED,
    traffic_direction="INGRESS",
    protocol="TCP",
    source=WEB,
    destination=DB,
    drop_reason=133,
    drop_reason_desc="policy denied: no entry admits it",
    event_type=FlowType.DROP,
    ip_version=4,
    tcp_flags=("SYN",),
    interface="fl00001",
)


def asked(text: str, flow: Flow = FLOW) -> bool:
    return query(parser().parse_args(["flows", *text.split()]), NOW).matches(flow)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--from web-1",
        "--from web-*",
        "--to db --from-ip 10.0.1.0/24",
        "--ip 10.0.1.3",
        "--identity 301 --from-identity 300",
        "--label app=db --from-label container:app=web --to-label app",
        "--port 6379 --to-port 6379 --to-port 80",
        "--protocol tcp --verdict dropped --type drop --type audit",
        "--drop-reason 133",
        "--drop-reason no_entry --drop-reason policy",
        "--traffic-direction ingress --ip-version 4 --tcp-flags syn --interface fl00001 --uuid aaa",
        "--not --from-port 6379 --not --verdict AUDIT",
        "--since 5m --until 1m",
        "--since 2026-01-01T11:00:00Z",
    ],
)
def test_what_is_meant_is_found(text: str) -> None:
    assert asked(text)


@pytest.mark.parametrize(
    "text",
    [
        "--from db",
        "--from web",
        "--workload other",
        "--to-ip 10.0.2.0/24",
        "--ip fd00::/8",
        "--to-identity 300",
        "--to-label app=web",
        "--label app=we",
        "--from-port 6379",
        "--to db --verdict FORWARDED",
        "--protocol icmp",
        "--type new",
        "--drop-reason 181",
        "--traffic-direction egress",
        "--ip-version 6",
        "--tcp-flags SYN,ACK",
        "--interface eth0",
        "--uuid b",
        "--not --from web-1",
        "--not --to-port 6379 --from web-1",
        "--since 1m",
        "--until 5m",
    ],
)
def test_what_is_not_meant_is_left_out(text: str) -> None:
    assert not asked(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("--port many", "--port many"),
        ("--ip ten", "ip"),
        ("--port 70000", "port"),
        ("--ip-version 5x", "--ip-version"),
        ("--since soon", "--since soon"),
        ("--not", "--not"),
    ],
)
def test_nonsense_is_refused_by_name(text: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((InvalidInput, SystemExit)) as refusal:
        query(parser().parse_args(["flows", *text.split()]), NOW)
    assert named in f"{refusal.value} {capsys.readouterr().err}"


@pytest.mark.parametrize("text", ["--first 1 --last 1", "--first 1 -f", "--first 1 --all", "--last 1 --all"])
def test_what_excludes_each_other_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="exclude each other"):
        check(parser().parse_args(["flows", *text.split()]))


def test_every_form_tells_who_and_what() -> None:
    assert flow_text.line(FLOW, "compact").endswith(
        "10.0.1.2:40000 (web-1) -> 10.0.1.3:6379 (db) policy denied: no entry admits it DROPPED (TCP Flags: SYN)"
    )
    reply = msgspec.structs.replace(FLOW, is_reply=True)
    assert "10.0.1.3:6379 (db) <- 10.0.1.2:40000 (web-1)" in flow_text.line(reply, "compact")
    assert "VERDICT: DROPPED" in flow_text.line(FLOW, "dict")
    assert json.loads(flow_text.line(FLOW, "json"))["destination"]["port"] == 6379
    shown = json.loads(flow_text.line(FLOW, "jsonpb"))["flow"]
    assert shown["l4"] == {"TCP": {"source_port": 40000, "destination_port": 6379, "flags": {"SYN": True}}}
    assert shown["IP"] == {"source": "10.0.1.2", "destination": "10.0.1.3", "ipVersion": "IPv4"}
    assert shown["source"] == {"identity": 300, "labels": ["container:app=web"], "pod_name": "web-1"}
