"""A virtual machine with a kernel of its own on this machine's files: they are read over 9p, and what it writes stays in its memory."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.kernels.packages import Unpacked

_BUSYBOX = "/bin/busybox"
_NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_UNPACKERS = {".xz": ("xz", "-dc"), ".zst": ("zstd", "-dqc"), ".gz": ("gzip", "-dc")}
_MEMORY = "4G"
_KVM_CREATE_VM = 0xAE01

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "no $module"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose files /files || exec poweroff -f
mount -t tmpfs -o size=3g tmpfs /written && mkdir /written/data /written/work
mount -t overlay -o lowerdir=/files,upperdir=/written/data,workdir=/written/work overlay /whole || exec poweroff -f
for kind in proc sysfs devtmpfs; do
    case $kind in proc) at=proc;; sysfs) at=sys;; devtmpfs) at=dev;; esac
    mount -t $kind $kind /whole/$at
done
mkdir -p /whole/dev/pts /whole/dev/shm /whole/usr/lib/modules/@RELEASE@ /whole/run
mount -t devpts devpts /whole/dev/pts; mount -t tmpfs tmpfs /whole/dev/shm; mount -t tmpfs tmpfs /whole/run
mount -t bpf bpf /whole/sys/fs/bpf; mount -t cgroup2 cgroup2 /whole/sys/fs/cgroup
mount --bind /files@MODULES@ /whole/usr/lib/modules/@RELEASE@
mkdir /whole/run/told
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none told /whole/run/told || exec poweroff -f
ip link set lo up
exec switch_root /whole /bin/sh /run/told/begin
"""
_BEGIN = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
hostname fairlead-kernel
cd @FOLDER@
@COMMAND@ </dev/null
echo $? >/run/told/status
sync
busybox poweroff -f
"""


def missing() -> str:
    """Return what this machine lacks to run others, or nothing."""
    programs = ("qemu-system-x86_64", "busybox", "depmod", "dpkg-deb", "apt-get")
    lacking = [name for name in programs if shutil.which(name) is None]
    if os.uname().machine != "x86_64":
        return f"the kernels are x86_64's, this machine is {os.uname().machine}"
    return f"{', '.join(lacking)} is missing: run scripts/setup.sh" if lacking else ""


def accelerator() -> str:
    """Return `kvm` where a stock kernel can run on it, else `tcg`: another way of virtualising may answer on the same device."""
    flags = Path("/proc/cpuinfo").read_text().split()
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return "tcg"
    try:
        os.close(fcntl.ioctl(device, _KVM_CREATE_VM))
    except OSError:
        return "tcg"
    finally:
        os.close(device)
    return "kvm" if {"vmx", "svm"} & set(flags) else "tcg"


def run(kernel: Unpacked, command: str, folder: Path, told: Path, limit_s: float) -> Iterator[str]:
    """Boot, run a shell command in `folder`, and yield what the machine says line by line; what it writes to /run/told stays in `told`."""
    begin = _BEGIN.replace("@FOLDER@", str(folder)).replace("@COMMAND@", command)
    (told / "begin").write_text(begin)
    with tempfile.TemporaryDirectory(prefix="fairlead-kernels-") as place:
        initramfs = Path(place) / "initramfs"
        _pack(kernel, Path(place) / "tree", initramfs)
        started = ["timeout", "--kill-after=10", str(limit_s), *_command(kernel, initramfs, told)]
        with subprocess.Popen(
            started,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as machine:
            try:
                yield from machine.stdout or ()
            finally:
                machine.terminate()  # timeout hands it on to the machine


def status(told: Path) -> int | None:
    """Return the command's exit status; None: the machine ended before it did."""
    try:
        return int((told / "status").read_text())
    except (OSError, ValueError):
        return None


def _command(kernel: Unpacked, initramfs: Path, told: Path) -> list[str]:
    shares = {"files": ("/", ",readonly=on,multidevs=remap"), "told": (str(told), "")}
    return [
        "qemu-system-x86_64",
        *("-accel", accelerator(), "-cpu", "max", "-smp", "2", "-m", _MEMORY),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-net", "none"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"),
        *(
            word
            for tag, (path, more) in shares.items()
            for word in ("-virtfs", f"local,path={path},mount_tag={tag},security_model=none{more}")
        ),
    ]


def _pack(kernel: Unpacked, tree: Path, packed: Path) -> None:
    """Write the file system that the kernel begins with: busybox, the modules for 9p, and what mounts this machine's files."""
    for name in ("bin", "proc", "sys", "dev", "files", "written", "whole", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or _BUSYBOX, tree / "bin/busybox")
    order = modules_in_order((kernel.modules / "modules.dep").read_text(), _NEEDED)
    for path in order:
        _lay(kernel.modules / path, tree / "modules")
    (tree / "modules/order").write_text("\n".join(_plain(path) for path in order) + "\n")
    init = _INIT.replace("@RELEASE@", kernel.release).replace("@MODULES@", str(kernel.modules))
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    with packed.open("wb") as file:
        names = "\n".join(str(path.relative_to(tree)) for path in (tree, *sorted(tree.rglob("*"))))
        subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            cwd=tree,
            input=names.encode(),
            stdout=file,
            stderr=subprocess.DEVNULL,
            check=True,
        )


def modules_in_order(dependencies: str, wanted: tuple[str, ...]) -> list[str]:
    """Return the files of the modules and of all that they need, each behind what it needs; what is built in has none. `dependencies`: modules.dep."""
    lines = (line.partition(":") for line in dependencies.splitlines())
    needs = {path: behind.split() for path, _, behind in lines}
    by_name = {_plain(path).removesuffix(".ko").replace("-", "_"): path for path in needs}
    found: dict[str, None] = {}
    for name in wanted:
        if name in by_name:
            found |= dict.fromkeys([*reversed(needs[by_name[name]]), by_name[name]])
    return list(found)


def _plain(path: str) -> str:
    name = Path(path).name
    return name[: name.index(".ko") + 3]


def _lay(module: Path, folder: Path) -> None:
    unpack = _UNPACKERS.get(module.suffix)
    if unpack is None:
        shutil.copy(module, folder)
        return
    with (folder / _plain(module.name)).open("wb") as file:
        subprocess.run([*unpack, str(module)], stdout=file, check=True)
