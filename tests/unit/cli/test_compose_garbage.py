"""Compose files in which anything may stand anywhere: an answer or an error that names something, never a crash."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.cli import compose_files, compose_rules, compose_tests
from clients.cli.compose_services import Habits, stack_of
from fairlead.errors import InvalidInput
from tests.unit.cli.stacks import SHOP

WHOLE: dict[str, Any] = yaml.safe_load(SHOP) | {"name": "shop"}
WHOLE["services"]["job"] = {"image": "x", "labels": ["a=b"], "networks": {"back": {}}, "network_mode": "service:web"}
WHOLE["networks"]["back"] = {"driver": "fairlead", "name": "b", "driver_opts": {"fairlead.isolation": "on"}}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99999) | st.sampled_from(["", "web", "on", "a -> b:1", "x/y", "$", "${A", "::"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["service", "services", "name", "spec", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    whole = copy.deepcopy(WHOLE)
    if not path:
        return value
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(list(places(WHOLE))), value=ANYTHING)
def test_whatever_stands_there_is_understood_or_refused(path: tuple[Any, ...], value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "compose.yaml"
        file.write_text(yaml.safe_dump(changed(path, value)))
        with contextlib.suppress(InvalidInput):
            found = compose_files.read([str(file)], "shop", "none", {"PATH": os.defpath})
            stack = stack_of(found.project, found.resolved, Habits())
            stated = compose_rules.documents(found.extensions, stack) + compose_tests.documents(found.extensions, stack)
            stated += [compose_rules.Stated(*one) for one in stack.stated_by_the_plugin()]
            assert all(one.document.metadata["name"] for one in stated)


@pytest.mark.parametrize(
    "text", ["", "\0", "a: &a [*a]", "{{", "x-fairlead: !!python/object:os.system {}", "? [a]\n: b"]
)
def test_files_that_are_no_yaml_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=r"compose.yaml"):
        compose_files.read([str(tmp_path / "compose.yaml")], "", "none", {})
