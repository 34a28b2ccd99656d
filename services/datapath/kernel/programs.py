"""The programs of this version by descriptor: those for good, and those that go between while tables move to another shape."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from services.datapath.kernel import abi, loader, syscalls


class Programs:
    """One set of programs, pinned in a directory."""

    def __init__(self, pin_directory: Path) -> None:
        self._directory = pin_directory
        self._in_use: dict[str, int] = {}
        self._ids: dict[str, int] = {}

    def stand(self) -> bool:
        """Tell whether every program is pinned."""
        return all(self._pin(name).exists() for name in abi.PROGRAMS)

    def make(self, former: Mapping[str, int]) -> float:
        """Compile and pin them, with those that go between if tables move; return the seconds that it took."""
        return loader.compile_and_pin(self._directory, former)

    def use(self, suffix: str = "") -> None:
        """From now on mean the programs that are pinned with this suffix."""
        self.close()
        for name in abi.PROGRAMS:
            self._in_use[name] = syscalls.object_get(str(self._pin(name, suffix)))
            self._ids[name] = syscalls.program_id(self._in_use[name])

    def fd(self, name: str) -> int:
        """Return a program's descriptor."""
        return self._in_use[name]

    def number(self, name: str) -> int:
        """Return the number by which tc names a program."""
        return self._ids[name]

    def forget_between(self) -> None:
        """Remove the pins of programs that go between."""
        for name in abi.PROGRAMS:
            self._pin(name, loader.BETWEEN).unlink(missing_ok=True)

    def close(self) -> None:
        """Close descriptors; pins and filters keep the programs."""
        for fd in self._in_use.values():
            os.close(fd)
        self._in_use.clear()

    def _pin(self, name: str, suffix: str = "") -> Path:
        return self._directory / f"{abi.PIN_PREFIX}{name}{suffix}"
