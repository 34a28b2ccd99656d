"""The kernels that are tried, and their packages: fetched by apt from the distribution's own archive, unpacked in a cache, installed nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("FAIRLEAD_TEST_CACHE", "/var/cache/fairlead-tests")) / "kernels"
KEYRING = "/usr/share/keyrings/{}-archive-keyring.gpg"
_APT_S = 600


@dataclass(frozen=True)
class Kernel:
    """One kernel of a distribution."""

    name: str
    """Major and minor version."""
    distribution: str
    vendor: str
    """Whose archive has it, as apt calls it in small letters."""
    suites: tuple[str, ...]
    """The part of the archive, and with `security:` before it that of the vendor's security archive."""
    package: str
    """The package that depends on the newest one."""


KERNELS = (
    Kernel("5.10", "Debian 11", "debian", ("bullseye", "security:bullseye-security"), "linux-image-amd64"),
    Kernel("6.1", "Debian 12", "debian", ("bookworm", "security:bookworm-security"), "linux-image-amd64"),
    Kernel("6.8", "Ubuntu 24.04", "ubuntu", ("noble", "noble-updates", "noble-security"), "linux-image-generic"),
    Kernel("6.12", "Debian 12", "debian", ("bookworm", "security:bookworm-security"), "linux-image-6.12-amd64"),
)


class Unobtainable(Exception):
    """A kernel that cannot be had here; the words say why, and how it could be."""


@dataclass(frozen=True)
class Unpacked:
    """A kernel's files in the cache."""

    tree: Path
    packages: tuple[str, ...]
    """What it came from, name and version."""

    @property
    def image(self) -> Path:
        return next(iter(sorted(self.tree.glob("boot/vmlinuz-*"))))

    @property
    def release(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")

    @property
    def modules(self) -> Path:
        found = (self.tree / "lib/modules" / self.release, self.tree / "usr/lib/modules" / self.release)
        return next(path for path in found if path.is_dir())


def obtain(kernel: Kernel, refresh: bool) -> Unpacked:
    """Return the kernel's files, fetched if they are not there yet. Raises Unobtainable."""
    folder = CACHE / kernel.name
    folder.mkdir(parents=True, exist_ok=True)
    if refresh or not list(folder.glob("*.deb")):
        _fetch(kernel, folder)
    packages = tuple(sorted(path.name for path in folder.glob("*.deb")))
    stamp, tree = folder / "unpacked", folder / "tree"
    if not stamp.exists() or stamp.read_text() != "\n".join(packages):
        _unpack(folder, tree)
        stamp.write_text("\n".join(packages))
    return Unpacked(tree, tuple(name.rsplit("_", 1)[0].replace("_", " ") for name in packages))


def _unpack(folder: Path, tree: Path) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    found = Unpacked(tree, ())
    base = found.modules.parents[2]  # `usr` or the root: depmod looks for lib/modules below it
    subprocess.run(["depmod", "-b", str(base), found.release], check=True)


def _fetch(kernel: Kernel, folder: Path) -> None:
    apt = _apt(kernel, folder)
    _run([*apt, "update"], f"the package lists of {kernel.distribution}")
    wanted = [name for name in _depends(apt, kernel.package) if name.startswith("linux-")]
    # the image of Ubuntu has its modules in a package of their own
    wanted += [name for one in wanted for name in _depends(apt, one) if name.startswith("linux-modules-")]
    images = [name for name in dict.fromkeys(wanted) if name.startswith(("linux-image-", "linux-modules-"))]
    if not images:
        raise Unobtainable(f"{kernel.package} of {kernel.distribution} depends on no kernel")
    for old in folder.glob("*.deb"):
        old.unlink()
    _run([*apt, "download", *images], f"the packages of {kernel.distribution}", folder)


def _apt(kernel: Kernel, folder: Path) -> list[str]:
    """Return the beginning of an apt-get command that knows the kernel's archive only, and keeps its lists in the cache."""
    sources, lists = folder / "sources.list", folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sources.write_text(source_lines(kernel, _archives(kernel.vendor)))
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": lists,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    return ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]


def source_lines(kernel: Kernel, archives: dict[str, str]) -> str:
    """Return apt's list of sources for a kernel; `archives`: the vendor's archive, and its security archive as `security`."""
    lines = []
    for suite in kernel.suites:
        where, _, name = suite.rpartition(":")
        lines.append(f"deb [signed-by={KEYRING.format(kernel.vendor)}] {archives[where or 'main']} {name} main\n")
    return "".join(lines)


def _archives(vendor: str) -> dict[str, str]:
    """Return where this machine gets a vendor's packages from. Raises Unobtainable."""
    if not Path(KEYRING.format(vendor)).exists():
        raise Unobtainable(
            f"the keys of {vendor} are not installed here: install {vendor}-archive-keyring, or {_BY_HAND}"
        )
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for origin, uri in (line.split() for line in asked.stdout.splitlines() if line.count(" ") == 1):
        if origin.lower() == vendor:
            found["security" if uri.rstrip("/").endswith("-security") else "main"] = uri
    if found.keys() >= ({"main", "security"} if vendor == "debian" else {"main"}):
        return found
    raise Unobtainable(f"this machine's package sources have no {vendor.capitalize()}: {_BY_HAND}")


_BY_HAND = "lay its linux-image-*.deb and linux-modules-*.deb into the cache's folder of that version"


def _depends(apt: list[str], package: str) -> list[str]:
    """Return the names that a package depends on."""
    said = _run(["apt-cache", *apt[2:], "depends", "--important", package], f"package {package}")
    words = (line.split() for line in said.splitlines())
    return [line[1] for line in words if len(line) == 2 and line[0] == "Depends:" and not line[1].startswith("<")]


def _run(command: list[str], what: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_APT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unobtainable(f"{what}: no answer within {_APT_S} s") from error
    if done.returncode != 0:
        raise Unobtainable(f"{what}: {done.stderr.strip()[-500:]}")
    return done.stdout
