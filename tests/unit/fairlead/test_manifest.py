"""Policy files: what people write is understood, what nobody meant is refused with its place."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairlead import manifest
from fairlead.errors import InvalidInput

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n"
GOOD = HEAD + "spec: {endpointSelector: {}}\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (GOOD, ["a"]),
        (f"---\n{GOOD}---\n{GOOD.replace('name: a', 'name: b')}---\n", ["a", "b"]),
        ('{"apiVersion": "v2", "kind": "NetworkPolicy", "metadata": {"name": "j"}, "spec": {}}', ["j"]),
        (HEAD + "specs: [{endpointSelector: {}}]\n", ["a"]),
        (GOOD + "status: {conditions: []}\n", ["a"]),
        ("kind: List\nitems:\n- " + GOOD.replace("\n", "\n  "), ["a"]),
    ],
)
def test_what_people_write_is_understood(text: str, names: list[str]) -> None:
    assert [one.metadata["name"] for one in manifest.read(text, "f")] == names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no policy"),
        ("---\n---\n", "no policy"),
        ("a: [", "f:"),
        ("- a", "apiVersion"),
        (HEAD, "`spec` is missing"),
        (GOOD.replace("name: a", "nome: a"), "metadata.name"),
        (GOOD + "spek: {}\n", "`spek` is no field"),
        (GOOD.replace("spec: {", "spec: {1: 2, "), "must be text"),
        (GOOD.replace("spec: {", "spec: {on: 2, "), "must be text"),
        (GOOD.replace("endpointSelector: {}", "a: 1, a: 2"), "`a` stands twice"),
        (GOOD.replace("kind: Cilium", "kind: [1, 2]\nother: Cilium"), "other"),
        (GOOD.replace("cilium.io/v2", "7"), "`apiVersion`"),
        (GOOD.replace("endpointSelector: {}", "a: 1:30"), "quote it"),
        (GOOD.replace("endpointSelector: {}", "a: 1:30.5"), "quote it"),
        ("a: " + "[" * 99 + "]" * 99, "f,"),
        ("a: " + "[" * 101 + "]" * 101, "deeper"),
        ("a: [" + "1," * 100_000 + "1]", "values"),
        ("!!python/object/apply:os.system [id]", "f:"),
        ("x" * (4 * 1024 * 1024 + 1), "split it"),
        ("a: " + "[" * 5000, "f:"),
    ],
)
def test_what_nobody_meant_is_refused_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as error:
        manifest.read(text, "f")
    assert reason in error.value.message


def test_aliases_that_unfold_to_billions_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(InvalidInput, match="unfolded"):
        manifest.read("\n".join(lines), "f")


def test_mappings_that_merge_each_other_to_billions_are_refused() -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))]
    with pytest.raises(InvalidInput, match="values"):
        manifest.read("\n".join(lines), "f")


def test_a_mapping_can_be_merged_into_another() -> None:
    (policy,) = manifest.read(HEAD + "spec:\n  a: &a {x: 1}\n  b: {<<: *a, y: 2}\n", "f")
    assert policy.spec == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


def test_a_ring_of_aliases_is_refused() -> None:
    with pytest.raises(InvalidInput):
        manifest.read(GOOD.replace("endpointSelector: {}", "a: &a [*a]"), "f")


def test_what_looks_like_a_date_stays_text() -> None:
    (policy,) = manifest.read(GOOD.replace("endpointSelector: {}", "description: 2024-01-01"), "f")
    assert policy.spec == {"description": "2024-01-01"}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_VALUES)
def test_any_document_is_read_or_refused(value: object) -> None:
    with contextlib.suppress(InvalidInput):
        assert manifest.read(yaml.safe_dump(value), "f")


@given(st.dictionaries(st.text(min_size=1), _VALUES, max_size=5))
def test_a_spec_arrives_as_it_was_written(spec: dict[str, object]) -> None:
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec})
    (policy,) = manifest.read(text, "f")
    assert policy.spec == spec
