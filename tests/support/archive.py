"""Packages of distributions that this machine does not have installed: fetched by apt from its own archives, unpacked in a cache, installed nowhere.

apt checks them by the vendor's signed lists. The machine's own sources stay as they are; what is in the cache is there without a network too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("FAIRLEAD_TEST_CACHE", "/var/cache/fairlead-tests"))
KEYRING = "/usr/share/keyrings/{}-archive-keyring.gpg"
_APT_S = 600


class Unobtainable(Exception):
    """What cannot be had here; the words say why, and how it could be."""


@dataclass(frozen=True)
class Archive:
    """A part of a vendor's archive."""

    vendor: str
    """As apt calls it in small letters."""
    suites: tuple[str, ...]
    """With `security:` before it, one of the vendor's security archive."""
    by_hand: str
    """What a person can do without it."""
    components: str = "main"

    def source_lines(self, places: dict[str, str]) -> str:
        """Return apt's list of sources; `places`: the vendor's archive as `main`, and its security archive as `security`."""
        lines = []
        for suite in self.suites:
            where, _, name = suite.rpartition(":")
            signed = f"[signed-by={KEYRING.format(self.vendor)}]"
            lines.append(f"deb {signed} {places[where or 'main']} {name} {self.components}\n")
        return "".join(lines)

    def places(self) -> dict[str, str]:
        """Return where this machine gets the vendor's packages from. Raises Unobtainable."""
        if not Path(KEYRING.format(self.vendor)).exists():
            name = f"{self.vendor}-archive-keyring"
            raise Unobtainable(f"the keys of {self.vendor} are not installed here: install {name}, or {self.by_hand}")
        found = {}
        for origin, uri in origins():
            if origin.lower() == self.vendor:
                found["security" if uri.rstrip("/").endswith("-security") else "main"] = uri
        needed = {suite.rpartition(":")[0] or "main" for suite in self.suites}
        if found.keys() >= needed:
            return found
        raise Unobtainable(f"this machine's package sources have no {self.vendor.capitalize()}: {self.by_hand}")


def origins() -> list[tuple[str, str]]:
    """Return the vendors in this machine's package sources, as they write themselves, and the address of each part."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise Unobtainable(f"there is no apt-get here ({error})") from error
    pairs = (line.split() for line in said.splitlines())
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


class Apt:
    """apt that knows one archive only, and keeps its lists in a folder of its own. Raises Unobtainable."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        sources, lists = folder / "sources.list", folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        sources.write_text(archive.source_lines(archive.places()))
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": lists,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
        }
        self._folder, self._options = folder, [f"-o{name}={value}" for name, value in options.items()]
        _run(["apt-get", "-q", *self._options, "update"], f"the package lists of {' '.join(archive.suites)}")

    def depends(self, package: str) -> list[str]:
        """Return the names that a package depends on."""
        said = _run(["apt-cache", *self._options, "depends", "--important", package], f"package {package}")
        words = (line.split() for line in said.splitlines())
        return [line[1] for line in words if len(line) == 2 and line[0] == "Depends:" and not line[1].startswith("<")]

    def download(self, packages: list[str]) -> None:
        """Lay the packages into the folder, in place of those that are there."""
        fresh = self._folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _run(["apt-get", "-q", *self._options, "download", *packages], f"the packages {' '.join(packages)}", fresh)
        for old in self._folder.glob("*.deb"):
            old.unlink()
        for package in fresh.glob("*.deb"):
            package.replace(self._folder / package.name)
        fresh.rmdir()


def unpack(folder: Path) -> tuple[Path, bool]:
    """Return the tree of the packages that lie in a folder, and whether it was made only now."""
    packages = sorted(folder.glob("*.deb"))
    names, stamp, tree = "\n".join(one.name for one in packages), folder / "unpacked", folder / "tree"
    if stamp.exists() and stamp.read_text() == names:
        return tree, False
    stamp.unlink(missing_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    stamp.write_text(names)
    return tree, True


def _run(command: list[str], what: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_APT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unobtainable(f"{what}: no answer within {_APT_S} s") from error
    if done.returncode != 0:
        raise Unobtainable(f"{what}: {done.stderr.strip()[-500:]}")
    return done.stdout
