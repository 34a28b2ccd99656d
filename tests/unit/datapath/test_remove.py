"""Taking Fairlead off a machine is refused while the service would make everything anew."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.datapath.remove import refusal
from services.datapath.settings import DatapathSettings

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_it_waits_until_the_service_has_been_silent(tmp_path: Path) -> None:
    settings = DatapathSettings(node="n1", state_dir=str(tmp_path))
    assert refusal(settings, _NOW) == ""
    file = tmp_path / "datapath" / "health.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"at": (_NOW - timedelta(seconds=2)).isoformat()}))
    assert "stop it first" in refusal(settings, _NOW)
    assert refusal(settings, _NOW + timedelta(seconds=20)) == ""
