"""The rate at which whole fleets start: spread evenly, once per window, and ever slower while everybody crashes."""

from __future__ import annotations

import pytest

from services.entrypoint import window_s
from tests.bench.fleet import SERVICES, Rate, boot, crash_loop, main


@pytest.mark.parametrize("nodes", [1000, 5000])
def test_a_fleet_that_boots_at_once_starts_evenly_within_its_window(nodes: int) -> None:
    rate, window = boot(nodes), window_s(nodes)
    assert len(rate.starts) == nodes * len(SERVICES)
    assert 0.95 * window < rate.starts[-1] < window
    mean_per_min = len(rate.starts) / (window / 60)
    assert rate.peak(60) < 1.5 * mean_per_min
    assert rate.peak(1) < 0.01 * len(rate.starts)


def test_a_small_fleet_starts_at_once() -> None:
    assert set(boot(19).starts) == {0.0}


def test_a_fleet_that_goes_on_crashing_starts_ever_slower() -> None:
    nodes, window = 1000, window_s(1000)
    rate = crash_loop(nodes, lives_s=5, windows=15)
    agents = nodes * len(SERVICES)
    per_window = [rate.per_minute(n * window, (n + 1) * window) * window / 60 for n in range(15)]
    assert per_window[0] == pytest.approx(agents)
    assert all(count <= 1.01 * agents for count in per_window)
    assert sum(per_window[11:]) == pytest.approx(agents, rel=0.05)  # once in four windows each


def test_peaks_and_means_are_those_of_the_starts() -> None:
    rate = Rate((0.0, 0.5, 0.9, 61.0))
    assert (rate.peak(1), rate.peak(60), rate.per_minute(0, 120)) == (3, 3, 2.0)
    assert Rate(()).peak(1) == 0


def test_figures_end_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "50", "--windows", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = dict(line.split("=") for line in lines[lines.index("") + 1 :] if "=" in line)
    assert figures["boot_50_starts"] == "150"
    assert float(figures["window_50_min"]) == pytest.approx(window_s(50) / 60, abs=0.05)
    with pytest.raises(SystemExit):
        main(["--nodes", "0"])
