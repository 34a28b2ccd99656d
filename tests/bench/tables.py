"""Tables as text that is also Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    """A title, the names of the columns behind the first, and lines."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a line: its name, then one cell per column."""
        assert len(cells) == len(self.columns) + 1, cells
        self.lines.append(cells)

    def text(self) -> str:
        """Return the table in Markdown, its columns aligned."""
        rows = [("", *self.columns), *self.lines]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        first, *rest = [self._line(row, widths) for row in rows]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"### {self.title}", "", first, rule, *rest, ""])

    @staticmethod
    def _line(row: tuple[str, ...], widths: list[int]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        return "| " + " | ".join(cells) + " |"
