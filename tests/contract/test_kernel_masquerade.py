"""What the datapath service relies on about masquerade, of the real kernel and of the one in dicts alike."""

from __future__ import annotations

from dataclasses import replace

from fairlead.address import Family, Prefix
from services.datapath.outside import Masquerade
from tests.support.kernels import Bench

WANTED = Masquerade(
    frozenset({Family.IPV4, Family.IPV6}), 62000, 62999, frozenset({Prefix("10.0.0.0/8"), Prefix("fc00::/7")})
)


def test_masquerade_is_what_was_set_last_and_survives_a_process(bench: Bench) -> None:
    kernel = bench.kernel
    kernel.start()
    assert kernel.masquerade().families == frozenset()
    kernel.set_masquerade(WANTED)
    kernel.set_masquerade(WANTED)
    assert kernel.masquerade() == WANTED
    narrower = replace(WANTED, families=frozenset({Family.IPV6}), exclusions=frozenset({Prefix("fd00:77::/64")}))
    kernel.set_masquerade(narrower)
    again = bench.again()
    again.start()
    assert again.masquerade() == narrower
    again.start()  # a repair; nothing of it is forgotten
    assert again.masquerade() == narrower
    again.set_masquerade(Masquerade())
    assert again.masquerade() == Masquerade()
    assert again.masqueraded() == []
