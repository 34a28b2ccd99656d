"""Other versions of the datapath for tests: the former one as it was, and copies of the code whose maps have grown.

They run as processes of their own. The former version comes from the repository's history.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from services.datapath.kernel import abi
from services.datapath.kernel.tuning import Tuning

REPOSITORY = Path(__file__).resolve().parents[2]
FLOW_GREW = (
    (
        "bpf/lib/abi.h",
        "};\nRECORDS(struct flow_key, struct flow,",
        "\t__u64 grown;\n};\nRECORDS(struct flow_key, struct flow,",
    ),
    ("kernel/abi.py", 'struct.Struct("=QIHHIIII4QQI16s2B2s16sQI4x")', 'struct.Struct("=QIHHIIII4QQI16s2B2s16sQI4xQ")'),
    ("kernel/abi.py", '"scratch": MapSpec("percpu_array", 4, 376, 1)', '"scratch": MapSpec("percpu_array", 4, 384, 1)'),
)
STATE_GREW = (
    (
        "bpf/lib/abi.h",
        "\t__u8 host_mac[6];\n\t__u32 reserved;\n",
        "\t__u8 host_mac[6];\n\t__u32 reserved;\n\t__u64 grown;\n",
    ),
    ("kernel/abi.py", 'struct.Struct("=6I6s6sI")', 'struct.Struct("=6I6s6sIQ")'),
    ("kernel/abi.py", "    reserved: int = 0\n", "    reserved: int = 0\n    grown: int = 0\n"),
)
IDENTITY_GREW = (
    (
        "bpf/lib/abi.h",
        "struct identity_of {\n\t__u32 identity;\n",
        "struct identity_of {\n\t__u32 identity;\n\t__u32 grown;\n",
    ),
    ("kernel/abi.py", 'MapSpec("hash", 16, 4, addresses', 'MapSpec("hash", 16, 8, addresses'),
    ("kernel/abi.py", 'MapSpec("lpm_trie", 24, 4, addresses', 'MapSpec("lpm_trie", 24, 8, addresses'),
    ("kernel/ipcache.py", 'struct.pack("=I", puts[prefix])', 'struct.pack("=II", puts[prefix], 0)'),
    ("kernel/ipcache.py", "int.from_bytes(value, sys.byteorder)", "int.from_bytes(value[:4], sys.byteorder)"),
)
RECORDS_GREW = (
    ("bpf/lib/abi.h", "};\nRECORDS(struct fragment_key,", "\t__u64 grown;\n};\nRECORDS(struct fragment_key,"),
    (
        "kernel/abi.py",
        '"fragments": MapSpec("lru_hash", 40, 8, 8192)',
        '"fragments": MapSpec("lru_hash", 40, 16, 8192)',
    ),
    ("kernel/sweep.py", '_FRAGMENT = struct.Struct("=6xH")', '_FRAGMENT = struct.Struct("=6xH8x")'),
    (
        "bpf/lib/masquerade.h",
        "\t__u16 pod_port_be;\n\t__u8 pad[6];\n",
        "\t__u16 pod_port_be;\n\t__u8 pad[6];\n\t__u64 grown;\n",
    ),
    ("kernel/abi.py", 'MASQUERADE = struct.Struct("=Q16s2s6x")', 'MASQUERADE = struct.Struct("=Q16s2s6x8x")'),
)
CURRENT = abi.SCHEMA_VERSION
FORMER = {1: "6bf73ce77b4be160f5c032c84e89edc821d369c2"}
"""The last commit of each schema that was."""
CHANGES = {3: FLOW_GREW + STATE_GREW, 4: FLOW_GREW + STATE_GREW + IDENTITY_GREW + RECORDS_GREW}

TUNING = Tuning(flows=65_536, addresses=4096)
"""Room for every flow of a test: of a small table idle flows are the first to go when others come by the thousand, and that is no fault of a move."""

DRIVER = f"""
import json, sys
from pathlib import Path
from services.datapath.kernel import linux  # the former version keeps its Tuning there, this one knows it there too
kernel = linux.LinuxKernel(Path(sys.argv[1]), ("up0",), linux.Tuning(flows={TUNING.flows}, addresses={TUNING.addresses}))
report = kernel.start()
print(json.dumps({{"adopted": report.adopted, "migrated_from": report.migrated_from,
                  "endpoints": len(kernel.endpoints()), "addresses": len(kernel.addresses())}}))
kernel.stop()
"""


def missing() -> str:
    """Return why the former version cannot be had here, or nothing."""
    asks = [["git", "-C", str(REPOSITORY), "cat-file", "-e", f"{commit}^{{commit}}"] for commit in FORMER.values()]
    if all(subprocess.run(ask, capture_output=True, check=False).returncode == 0 for ask in asks):
        return ""
    return "the former version is not in the repository's history here: clone it whole (git fetch --unshallow)"


def _former(folder: Path, schema: int) -> Path:
    command = ["git", "-C", str(REPOSITORY), "archive", FORMER[schema], "services", "fairlead"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def make(folder: Path, schema: int) -> Path:
    """Write the code of that schema version into the folder."""
    if schema in FORMER:
        return _former(folder, schema)
    for package in ("services", "fairlead"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    changes = (*CHANGES[schema], ("kernel/abi.py", f"SCHEMA_VERSION = {CURRENT}", f"SCHEMA_VERSION = {schema}"))
    for name, before, after in changes:
        path = folder / "services" / "datapath" / name
        text = path.read_text()
        assert before in text, (name, before)
        path.write_text(text.replace(before, after, 1))
    return folder


def start(code: Path, pins: Path) -> dict[str, int]:
    """Have that version take over the node in whose namespace this thread is."""
    environment = os.environ | {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", DRIVER, str(pins)]
    done = subprocess.run(command, env=environment, cwd=code, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
