"""What is run in the virtual machine: `python -m tests.kernels.inside WHAT...`; what came of each is written to /run/told as it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from services.datapath.kernel import abi, features, maps
from services.datapath.kernel.netlink import Netlink
from services.datapath.kernel.tables import Tables

TOLD = Path("/run/told")
ROOT = Path(__file__).resolve().parents[2]
RECORDED = TOLD / "programs.json"
LEFT_OUT = (
    *("migration", "successors", "taken_over", "moved", "kept_ways"),
    *("fuzz", "datapath_service", "host_policy_service"),
)
"""Files of tests/kernel that are not run: other programs would have to be compiled there (the first row), a million packets take hours, services want their bus."""
_LEFT_OUT_ALONE = ("tests/kernel/test_sweep.py::test_a_larger_table_takes_the_flows_along",)
"""Single tests that would have to compile, too."""
_FILES = sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests/kernel").glob("test_*.py"))
SUITE = tuple(name for name in _FILES if name not in LEFT_OUT)
"""All others: verdicts, bytes, flows, policy, packets between namespaces and through tunnels of both kinds."""
SHORT = ("features", "programs", "namespaces", "overlay_device", "overlay")


@dataclass(frozen=True)
class Stage:
    """What came of one part."""

    name: str
    good: bool
    seconds: float
    words: str


def show_features() -> None:
    """Print what the kernel can do, and fail if it lacks what nothing stands in for."""
    wire = Netlink()
    found = features.probe(wire)
    wire.close()
    for one in found:
        print(f"    {'yes' if one.present else 'no ':3} {one.name:28} {one.use if one.present else one.instead or '-'}")
    features.require(found)
    lacking = [f"{one.name} ({one.instead})" for one in found if not one.present]
    print(f"without {', '.join(lacking) or 'nothing'}")


def compile_there() -> None:
    """Compile, load and pin the programs with the real compiler, as the service does at its first start."""
    pins = Path("/sys/fs/bpf/fairlead_compiled")
    features.probe(wire := Netlink())
    wire.close()
    maps.ensure_pin_directory(pins)
    Tables(pins, 4096, 4096, 4096).open()
    os.environ["BCC_KERNEL_SOURCE"] = str(abi.BPF_DIRECTORY / "shim")
    seconds = json.loads(
        subprocess.check_output([sys.executable, "-m", "services.datapath.kernel.loader", str(pins), ""])
    )
    print(f"all {len(abi.PROGRAMS)} programs compiled, verified and pinned in {seconds['seconds']:.0f} s")


def main() -> None:
    """Do one thing (`features`, `compile`), or all that is asked for as stages of their own."""
    alone = {"features": show_features, "compile": compile_there}
    if sys.argv[1:2] == ["--alone"]:
        alone[sys.argv[2]]()
        return
    stages = []
    for name in sys.argv[1:]:
        stages.append(_stage(name, name in alone))
        (TOLD / "stages.json").write_text(json.dumps([asdict(one) for one in stages]))


def _stage(name: str, alone: bool) -> Stage:
    began, out = time.monotonic(), TOLD / f"{name}.out"
    print(f"  {name} ...", flush=True)
    command = [sys.executable, "-m", "tests.kernels.inside", "--alone", name]
    environment = dict(os.environ)
    if not alone:
        # slow as the machine is, it loads what was compiled outside
        environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/kernels/replay'}", "FAIRLEAD_RECORDED": str(RECORDED)}
        tests = SHORT if name == "short" else SUITE if name == "suite" else (name,)
        files = [f"tests/kernel/test_{test}.py" for test in tests]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.support.notrun"]
        command += ["-o", "timeout=900", "--tb=short", "--color=no", *files]
        command += [f"--deselect={one}" for one in _LEFT_OUT_ALONE]
    with out.open("w") as file:
        status = subprocess.run(command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    words = out.read_text().strip()
    print("\n".join(words.splitlines()[-60 if status.returncode else -25 :]), flush=True)
    last = words.splitlines()[-1].strip("= ") if words else ""
    return Stage(name, status.returncode == 0, time.monotonic() - began, last)


if __name__ == "__main__":
    main()
