"""The unit of the network plugin as systemd itself reads it. Whether the plugin runs so is tested under systemd and with an engine (tests/docker)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_UNIT = Path(__file__).resolve().parents[2] / "deploy/fairlead-docker.service"
pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="THE UNIT IS NOT VERIFIED: systemd-analyze is missing"
)


def _verified(text: str, folder: Path) -> tuple[int, str]:
    """Return what systemd says of the unit on a machine that has its command; the tree of the image is not here."""
    path = folder / _UNIT.name
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/sh", text))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    assert _verified(_UNIT.read_text(), tmp_path) == (0, "")


def test_a_line_that_systemd_does_not_know_is_told(tmp_path: Path) -> None:
    text = _UNIT.read_text().replace("CapabilityBoundingSet", "CapabilityBoundSet")
    assert "Unknown key" in _verified(text, tmp_path)[1]
