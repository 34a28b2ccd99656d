"""The sets of configuration files on disk: the one in use, a candidate, and the last one that BIRD has accepted.

The files are the persisted desired state: BIRD starts, announces and restarts from them with nobody else alive. Each is replaced by
rename, so that BIRD never reads half of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fairlead import codec
from fairlead.errors import FairleadError
from services.bgp.engine import bird_config
from services.bgp.model import Speaker

_MODE = 0o640  # the main file may hold the sessions' password
NAMES = (bird_config.MAIN, bird_config.DRAIN, *bird_config.ROUTES.values())


class BirdFiles:
    """The three sets under one folder, and the speaker that the one in use was made from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.candidate = folder / "candidate" / bird_config.MAIN
        self._good = folder / "last-good"

    def current(self) -> dict[str, str]:
        """Return the set in use; a file that does not exist is missing in it."""
        return _read(self._folder)

    def last_good(self) -> dict[str, str]:
        """Return the last set that BIRD has accepted, or nothing."""
        return _read(self._good)

    def write_candidate(self, files: Mapping[str, str]) -> None:
        """Put the whole set where BIRD can check it."""
        _write(self.candidate.parent, files)

    def write(self, files: Mapping[str, str]) -> None:
        """Make `files` the set in use. The main file comes last: where it stands, the files that it includes do too."""
        parts = {name: text for name, text in files.items() if name != bird_config.MAIN}
        _write(self._folder, {**parts, **{name: text for name, text in files.items() if name not in parts}})

    def keep_as_good(self) -> None:
        """Remember the set in use as accepted."""
        _write(self._good, self.current())

    def speaker(self) -> Speaker | None:
        """Return the speaker of the set in use, if known."""
        try:
            return codec.decode((self._folder / "speaker.json").read_bytes(), Speaker, content_type="application/json")
        except (OSError, FairleadError):
            return None

    def keep_speaker(self, speaker: Speaker) -> None:
        """Remember the speaker of the set in use."""
        _write(self._folder, {"speaker.json": codec.encode_json(speaker).decode()})


def _read(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Replace what differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            _replace(path, text)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
