from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import InvalidInput
from fairlead.labels import ParsedLabel, normalise, parse, refuse_reserved

_WORD = st.text(alphabet="abcXYZ019._-/", min_size=1, max_size=12)
_LABELS = st.dictionaries(_WORD, st.text(alphabet="abc=:/019", max_size=8), max_size=8)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("app=web", ("container", "app", "web")),
        ("vm:app=web", ("vm", "app", "web")),
        ("image=registry:5000/web", ("container", "image", "registry:5000/web")),
        ("reserved:host", ("reserved", "host", "")),
        ("flag=", ("container", "flag", "")),
        ("a=b=c", ("container", "a", "b=c")),
    ],
)
def test_parse_takes_a_label_apart(text: str, parts: tuple[str, str, str]) -> None:
    assert parse(text) == ParsedLabel(*parts)


def test_normalise_sorts_and_adds_the_source() -> None:
    assert normalise(["role=db", "app=web", "container:app=web"]) == ("container:app=web", "container:role=db")
    assert normalise(["flag="]) == ("container:flag",)


@pytest.mark.parametrize("bad", ["=x", ":=x", "a;b", "a,b=c", "a=\n", "container:", ":app=x"])
def test_parse_refuses_what_is_no_label(bad: str) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        parse(bad)


def test_two_values_of_one_key_are_refused() -> None:
    with pytest.raises(InvalidInput, match="container:app stands twice"):
        normalise(["app=web", "container:app=db"])


def test_reserved_labels_are_not_for_workloads() -> None:
    refuse_reserved(["app=host"])
    with pytest.raises(InvalidInput, match="reserved"):
        refuse_reserved(["app=web", "reserved:host"])


@given(_LABELS, st.randoms())
def test_normalise_is_idempotent_and_ignores_order(labels: dict[str, str], random: object) -> None:
    texts = [f"{key}={value}" for key, value in labels.items()]
    once = normalise(texts)
    random.shuffle(texts)  # type: ignore[attr-defined] # hypothesis hands a random.Random
    assert normalise(texts) == once
    assert normalise(once) == once
