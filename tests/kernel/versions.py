"""Other versions of the datapath for tests: copies of the code whose maps have grown. They run as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FLOW_GREW = (
    (
        "bpf/lib/abi.h",
        "\t__u32 hop_mtu;\t/* of the way off the node */\n\t__u32 reserved;\n};",
        "\t__u32 hop_mtu;\n\t__u32 reserved;\n\t__u64 grown;\n};",
    ),
    ("kernel/abi.py", 'struct.Struct("=QIHHIIII4QQI16s2B2s16sQI4x")', 'struct.Struct("=QIHHIIII4QQI16s2B2s16sQI4xQ")'),
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
CHANGES = {3: FLOW_GREW + STATE_GREW, 4: FLOW_GREW + STATE_GREW + IDENTITY_GREW}

DRIVER = """
import json, sys
from pathlib import Path
from services.datapath.kernel.linux import LinuxKernel
from services.datapath.kernel.tuning import Tuning
kernel = LinuxKernel(Path(sys.argv[1]), ("up0",), Tuning(flows=4096, addresses=4096))
report = kernel.start()
print(json.dumps({"adopted": report.adopted, "migrated_from": report.migrated_from,
                  "endpoints": len(kernel.endpoints()), "addresses": len(kernel.addresses())}))
kernel.stop()
"""


def make(folder: Path, schema: int) -> Path:
    """Write the code of that schema version into the folder."""
    for package in ("services", "fairlead"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    changes = (*CHANGES[schema], ("kernel/abi.py", "SCHEMA_VERSION = 2", f"SCHEMA_VERSION = {schema}"))
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
