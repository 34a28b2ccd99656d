"""A pytest plugin: end by saying loudly what was not run, and why. A green run that skipped half is not a green run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_ELSEWHERE = (
    "this run knows the kernel of this machine alone; those of the distributions are another command: make test-kernels"
)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count skipped tests by reason, and print them as the last section."""
    terminalreporter.write_line(_ELSEWHERE)
    skipped: list[pytest.TestReport] = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report) for report in skipped)
    if not reasons:
        terminalreporter.section("every test of this run was run", sep="=")
        return
    terminalreporter.section(f"NOT RUN: {len(skipped)} tests", sep="=", yellow=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"  {count:4}  {reason}")


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
