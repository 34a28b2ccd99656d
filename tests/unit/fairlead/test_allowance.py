"""One node's flood of requests takes no other node's turn, and passes."""

from __future__ import annotations

import pytest

from fairlead.allowance import Allowance
from fairlead.clock import ManualClock
from fairlead.errors import FairleadError, Unavailable


def answered(allowance: Allowance, node: str, times: int) -> int:
    """Return how many of so many requests at once are let through."""
    good = 0
    for _ in range(times):
        try:
            allowance.take(node)
        except FairleadError:
            break
        good += 1
    return good


def test_each_node_has_its_own_burst_and_rate() -> None:
    clock = ManualClock()
    allowance = Allowance(10, 50, clock.monotonic_s)
    assert answered(allowance, "loud", 200) == 50
    assert answered(allowance, "quiet", 20) == 20
    clock.advance(2)
    assert answered(allowance, "loud", 200) == 20
    clock.advance(3600)
    assert answered(allowance, "loud", 200) == 50


def test_refusals_are_shown_for_a_while() -> None:
    clock = ManualClock()
    allowance = Allowance(1, 1, clock.monotonic_s)
    allowance.take("n1")
    with pytest.raises(Unavailable, match="node n1 asks more than 1 times per second"):
        allowance.take("n1")
    assert allowance.refused(60) == {"n1": 1}
    clock.advance(61)
    assert allowance.refused(60) == {}
