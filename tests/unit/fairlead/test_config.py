"""Options from variables and files: which one counts, and what is said of one that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fairlead.config import CommonSettings, load
from fairlead.errors import InvalidInput


def test_a_variable_beats_a_file(tmp_path: Path) -> None:
    for option, text in (("node", "n1"), ("cluster", "all"), ("log-level", "DEBUG"), ("of-others", "x")):
        (tmp_path / option).write_text(f"{text}\n")
    found = load(CommonSettings, {"FAIRLEAD_CONFIG_DIR": str(tmp_path), "FAIRLEAD_CLUSTER": "told"})
    assert (found.node, found.cluster, found.log_level) == ("n1", "told", "DEBUG")


def test_a_wrong_value_is_named_with_the_file_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("n1")
    (tmp_path / "log-level").write_text("loud")
    with pytest.raises(InvalidInput, match="/log-level='loud'"):
        load(CommonSettings, {"FAIRLEAD_CONFIG_DIR": str(tmp_path)})


def test_a_file_that_cannot_be_read_is_named_with_who_should() -> None:
    if os.geteuid() != 0:
        pytest.skip("A FILE THAT CANNOT BE READ IS NOT TESTED: not root, who can make one")
    script = "import os\nfrom fairlead.config import *\nos.setuid(65534)\nload(CommonSettings)"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "node")
        file.write_text("n1")
        file.chmod(0o600)
        environ = {**os.environ, "FAIRLEAD_CONFIG_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert f"{file}: Permission denied: let the user 65534 read it" in done.stderr
