"""What was expected and what was seen, printed as it happens and once more as a table."""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass

_WIDTHS = (6, 58, 66)


@dataclass(frozen=True)
class Line:
    """One expectation and what became of it."""

    step: str
    expected: str
    observed: str
    ok: bool


class Report:
    """Collects lines; says whether all were as expected."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._step = "0"
        self._began_s = time.monotonic()

    @property
    def ok(self) -> bool:
        """Tell whether every line so far was as expected."""
        return all(line.ok for line in self.lines)

    def step(self, name: str, title: str) -> None:
        """Begin a step."""
        self._step = name
        print(f"\n[{time.monotonic() - self._began_s:5.1f} s] step {name}: {title}", flush=True)

    def check(self, expected: str, observed: str, *, ok: bool) -> bool:
        """Record one expectation and print it; return `ok`."""
        self.lines.append(Line(self._step, expected, observed, ok))
        mark = "ok  " if ok else "FAIL"
        print(f"  {mark} expected {expected}\n       observed {observed}", flush=True)
        return ok

    def note(self, text: str) -> None:
        """Print something worth seeing that nothing depends on."""
        print(textwrap.indent(text.rstrip(), "       "), flush=True)

    def table(self) -> str:
        """Return all lines as a table."""
        rule = "-" * (sum(_WIDTHS) + 8)
        rows = [_row("step", "expected", "observed", "ok"), rule]
        rows += [_row(line.step, line.expected, line.observed, "yes" if line.ok else "NO") for line in self.lines]
        return "\n".join([*rows, rule])


def _row(*cells: str) -> str:
    """Return one row; cells wider than their column go on below."""
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, (*_WIDTHS, 3), strict=True)]
    height = max(map(len, columns))
    filled = [column + [""] * (height - len(column)) for column in columns]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, (*_WIDTHS, 3), strict=True)).rstrip()
        for line in zip(*filled, strict=True)
    )
