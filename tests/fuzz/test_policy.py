"""A short run of the fuzzer with every test run, and the slowest documents that we could think of; `make fuzz` says how long they take."""

from __future__ import annotations

import pytest

from tests.fuzz.megabytes import IN_A_FILE, ON_THE_WIRE
from tests.fuzz.policy import parsed, read, run

_UNDERSTOOD = {"cidr", "one item", "selectors", "values", "ports", "holes"}


def test_nothing_but_a_refusal_comes_out() -> None:
    found = run(20_000, 20, seed=4).outcomes
    assert found["understood"] > 100
    assert found["refused"] > 100
    assert found["file refused"] > 10


@pytest.mark.parametrize("name", ON_THE_WIRE)
def test_a_megabyte_on_the_wire_is_answered(name: str) -> None:
    assert parsed(ON_THE_WIRE[name]) == ("understood" if name in _UNDERSTOOD else "refused")


@pytest.mark.parametrize("name", IN_A_FILE)
def test_a_megabyte_in_a_file_is_answered(name: str) -> None:
    assert read(IN_A_FILE[name]) == "file refused"
