"""The contract with other systems: registry rules, golden vectors, round trips, and the AsyncAPI document."""

from __future__ import annotations

import json
import re
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairlead import codec
from fairlead.address import Prefix
from fairlead.contract import asyncapi, vectors
from fairlead.contract.__main__ import breaking, differences, main, write
from fairlead.schema import BUCKETS, TOPICS
from fairlead.schema.base import Delivery, IdentityId, Message, Row, Topic
from fairlead.schema.ipam import Claim
from fairlead.schema.policy import Direction, PolicyEntry
from tests.support.messages import plain_values

ROOT = Path(__file__).resolve().parents[2]
KINDS = sorted({*vectors.vectors().values(), *(topic.reply for topic in TOPICS)}, key=lambda kind: kind.__name__)
SERVICES = {"ipam", "identity", "policy", "datapath", "bgp", "fairlead"}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.subject)
def test_subjects_follow_the_grammar(topic: Topic[Any, Any]) -> None:
    assert re.fullmatch(r"fairlead\.(cmd|get|evt|flow|status)\.[a-z]+\.[a-z]+\.[a-z]+\.v[1-9][0-9]*", topic.subject)
    assert topic.service in SERVICES
    assert topic.summary
    # events tell what has happened: other words than requests
    past = topic.subject.split(".")[4].endswith(("ed", "wn", "en", "nd"))
    assert past == (topic.delivery in (Delivery.EVENT, Delivery.FLOW)), topic.subject


def test_names_are_unique() -> None:
    counts = Counter([*(topic.subject for topic in TOPICS), *(spec.name for spec in BUCKETS)])
    assert [name for name, count in counts.items() if count > 1] == []


def test_every_bucket_has_an_owner_and_rows_with_a_revision() -> None:
    for spec in BUCKETS:
        assert spec.owner in SERVICES
        assert re.fullmatch(r"[a-z]+", spec.name)
        assert issubclass(spec.row, Row)


def _structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for inner in [hint, *typing.get_args(hint)]:
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner is not kind:
                yield from _structs(inner)


def test_every_struct_is_frozen_and_named_by_keyword() -> None:
    # kw_only is silently not inherited: a forgotten one would make the order of fields a contract
    for struct in {inner for kind in KINDS for inner in _structs(kind)}:
        assert struct.__struct_config__.frozen, struct
        assert struct.__match_args__ == (), struct  # positional fields would stand here


@pytest.mark.parametrize(("name", "kind"), vectors.vectors().items(), ids=list(vectors.vectors()))
def test_golden_bytes_decode_and_encode_to_themselves(name: str, kind: type[Message]) -> None:
    data = vectors.from_hex((ROOT / f"tests/golden/wire/{name}.hex").read_text())
    assert codec.encode(codec.decode(data, kind)) == data
    as_json = codec.encode_json(codec.decode(data, kind))
    assert codec.encode(codec.decode(as_json, kind)) == data


def test_the_tree_holds_the_contract_of_this_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_missing_stale_or_changed_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    assert differences(tmp_path) == []
    golden = tmp_path / "tests/golden/wire"
    (golden / "nobody.hex").write_text("80\n")
    (golden / "bucket.claims.hex").write_text("80\n")
    (tmp_path / "docs/asyncapi.json").unlink()
    assert differences(tmp_path) == [
        "tests/golden/wire/nobody.hex: belongs to no topic or bucket",
        "docs/asyncapi.json: missing or different",
        "tests/golden/wire/bucket.claims.hex: missing or different",
    ]
    write(tmp_path)
    assert differences(tmp_path) == []


CLAIM = {"node": "n1", "prefixes": ["10.0.1.0/24"], "revision": 7}


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        (CLAIM, ""),
        ({"node": "n1", "prefixes": []}, ""),  # fields added since have defaults
        ({**CLAIM, "zone": "a"}, "Claim.zone is gone"),
        ({**CLAIM, "prefixes": "10.0.1.0/24"}, "`prefixes`: Expected `array`, got `str`"),
        ({**CLAIM, "node": None}, "`node`: Expected `str`, got `null`"),
    ],
)
def test_only_additive_change_keeps_the_meaning_of_promised_bytes(
    old: dict[str, object], reason: str, tmp_path: Path
) -> None:
    assert vectors.still_means(codec.encode(old), Claim) == reason
    path = tmp_path / "tests/golden/wire/bucket.claims.hex"
    path.parent.mkdir(parents=True)
    path.write_text(vectors.to_hex(codec.encode(old)))
    assert breaking(tmp_path) == ([f"bucket.claims: {reason}"] if reason else [])


def test_a_line_of_a_policy_map_may_grow_at_its_end_only() -> None:
    entry = codec.unpack(codec.encode(PolicyEntry(direction=Direction.INGRESS, identity=IdentityId(1))))
    assert vectors.still_means(codec.encode(entry[:4]), PolicyEntry) == ""
    assert (
        vectors.still_means(codec.encode([*entry, 1]), PolicyEntry)
        == "PolicyEntry: " + f"{[*entry, 1]!r} became {entry!r}"
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_every_message_survives_both_wire_forms(kind: type[Message], data: st.DataObject) -> None:
    message = codec.from_builtins(data.draw(plain_values(kind)), kind)
    packed = codec.encode(message)
    assert codec.decode(packed, kind) == message
    assert codec.encode(codec.decode(packed, kind)) == packed
    assert codec.decode(codec.encode_json(message), kind) == message


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = json.loads((ROOT / "docs/asyncapi.json").read_text())
    for reference in set(_references(document)):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in place, reference
            place = place[step.replace("~1", "/")]


def test_the_document_names_every_topic_and_bucket_with_its_queue() -> None:
    document = asyncapi.document()
    addresses = {channel["address"] for channel in document["channels"].values()}
    tokens = {(True, False): ".{node}", (False, True): ".{owner}", (False, False): ""}
    assert {topic.subject + tokens[topic.per_node, topic.per_owner] for topic in TOPICS} <= addresses
    assert {f"$KV.{spec.name}.{{key}}" for spec in BUCKETS} <= addresses
    queues = {
        name: one["bindings"]["nats"]["queue"] for name, one in document["operations"].items() if "bindings" in one
    }
    assert queues["answer-cmd.ipam.address.allocate.v1"] == "ipam"
    assert "answer-get.fairlead.health.show.v1" not in queues  # every process answers for itself
    actions = {name: one["action"] for name, one in document["operations"].items()}
    assert actions["take-evt.policy.document.published.v1"] == "receive"
    assert actions["announce-evt.datapath.breakglass.found.v1"] == "send"
    assert actions["announce-flow.datapath.flow.seen.v1"] == "send"


def test_prefixes_and_addresses_are_described_in_words() -> None:
    assert asyncapi._custom(Prefix)["type"] == "string"
    with pytest.raises(NotImplementedError):
        asyncapi._custom(complex)
