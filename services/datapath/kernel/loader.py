"""Compiles the programs with BCC and pins them: `python -m services.datapath.kernel.loader <pin directory>`.

It is a process of its own, because the compiler would stay in the service's memory for ever (some 100 MB). It opens
the maps that are pinned already, replaces the program pins one by one by renaming, and says on standard output how long
that took. It touches no device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from services.datapath.kernel import abi, syscalls
from services.datapath.operations import KernelError

_TIMEOUT_S = 120


def compile_and_pin(pin_directory: Path) -> float:
    """Run the compiler in a child process; return the seconds it took. Raises KernelError with the compiler's words."""
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))),
        "BCC_KERNEL_SOURCE": str(abi.BPF_DIRECTORY / "shim"),
    }
    command = [sys.executable, "-m", "services.datapath.kernel.loader", str(pin_directory)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"compiling the programs failed: {error}") from error
    if done.returncode != 0:
        raise KernelError(f"the programs do not compile or load: {done.stderr.strip()[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def compiler_flags(pin_directory: Path) -> list[str]:
    """Return what the compiler must know: where the pins are, and where the distribution has the UAPI headers."""
    flags = [f'-DPIN_DIRECTORY="{pin_directory}"', "-I/usr/include", "-Wno-unused-function"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [Path("/usr/include") / multiarch] if multiarch else []
    candidates += sorted(Path("/usr/include").glob("*-linux-gnu"))
    flags += [f"-I{path}" for path in candidates if (path / "asm").is_dir()]
    if not Path("/usr/include/linux/bpf.h").exists():
        raise KernelError("the kernel's UAPI headers are missing: install linux-libc-dev")
    return flags


def _pin(pin_directory: Path, name: str, fd: int) -> None:
    new = pin_directory / f"{abi.PIN_PREFIX}{name}_new"
    new.unlink(missing_ok=True)
    syscalls.object_pin(fd, str(new))
    new.rename(pin_directory / f"{abi.PIN_PREFIX}{name}")


def _load(pin_directory: Path) -> None:
    from bcc import BPF, lib  # noqa: PLC0415 - only this process pays for the compiler

    module = BPF(text=abi.source_text(), cflags=compiler_flags(pin_directory))
    for name, spec in abi.map_specs(1, 1).items():
        sizes = (
            lib.bpf_table_key_size(module.module, name.encode()),
            lib.bpf_table_leaf_size(module.module, name.encode()),
        )
        if spec.key_bytes and sizes != (spec.key_bytes, spec.value_bytes):
            raise KernelError(f"map {name}: C says {sizes}, abi.py says {(spec.key_bytes, spec.value_bytes)}")
    for name in abi.PROGRAMS:
        _pin(pin_directory, name, module.load_func(name, BPF.SCHED_CLS).fd)


def main() -> None:
    """Compile, load, pin, and report."""
    began = time.monotonic()
    _load(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - began}) + "\n")


if __name__ == "__main__":
    main()
