"""The kernels that are tried, and their packages."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.archive import CACHE, Apt, Archive, Unobtainable, unpack


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


def archive(kernel: Kernel) -> Archive:
    """Return the part of the archive that has a kernel."""
    return Archive(kernel.vendor, kernel.suites, _BY_HAND)


def obtain(kernel: Kernel, refresh: bool) -> Unpacked:
    """Return the kernel's files, fetched if they are not there yet. Raises Unobtainable."""
    folder = CACHE / "kernels" / kernel.name
    folder.mkdir(parents=True, exist_ok=True)
    if refresh or not list(folder.glob("*.deb")):
        _fetch(kernel, folder)
    packages = tuple(sorted(path.name for path in folder.glob("*.deb")))
    tree, fresh = unpack(folder)
    found = Unpacked(tree, tuple(name.rsplit("_", 1)[0].replace("_", " ") for name in packages))
    base = found.modules.parents[2]  # `usr` or the root: depmod looks for lib/modules below it
    if fresh or not (found.modules / "modules.dep").exists():
        subprocess.run(["depmod", "-b", str(base), found.release], check=True)
    return found


def _fetch(kernel: Kernel, folder: Path) -> None:
    apt = Apt(archive(kernel), folder)
    wanted = [name for name in apt.depends(kernel.package) if name.startswith("linux-")]
    # the image of Ubuntu has its modules in a package of their own
    wanted += [name for one in wanted for name in apt.depends(one) if name.startswith("linux-modules-")]
    images = [name for name in dict.fromkeys(wanted) if name.startswith(("linux-image-", "linux-modules-"))]
    if not images:
        raise Unobtainable(f"{kernel.package} of {kernel.distribution} depends on no kernel")
    apt.download(images)


_BY_HAND = "lay its linux-image-*.deb and linux-modules-*.deb into the cache's folder of that version"
