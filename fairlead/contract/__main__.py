"""Write the contract into the tree, or check that the tree has it: `python -m fairlead.contract --write|--check`.

A vector whose promised bytes would lose a field or a value is not written over: such a change needs a `.v2` beside the `.v1`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fairlead.contract import asyncapi, vectors

_ROOT = Path(__file__).resolve().parents[2]


def wanted() -> dict[str, str]:
    """Return every file of the contract, by its path below the tree's root."""
    document = json.dumps(asyncapi.document(), indent=2, ensure_ascii=False) + "\n"
    golden = {
        f"tests/golden/wire/{name}.hex": vectors.to_hex(vectors.encoded(kind))
        for name, kind in vectors.vectors().items()
    }
    return {"docs/asyncapi.json": document, **golden}


def differences(root: Path) -> list[str]:
    """Return what stands in the tree and should not, is missing, or differs."""
    want = wanted()
    have = {str(path.relative_to(root)) for path in (root / "tests/golden/wire").glob("*.hex")}
    stale = [f"{path}: belongs to no topic or bucket" for path in sorted(have - want.keys())]
    return stale + [f"{path}: missing or different" for path, text in want.items() if _text(root / path) != text]


def breaking(root: Path) -> list[str]:
    """Return the promised bytes that the schema no longer understands as it did."""
    found = []
    for name, kind in vectors.vectors().items():
        old = _text(root / f"tests/golden/wire/{name}.hex")
        reason = vectors.still_means(vectors.from_hex(old), kind) if old else ""
        if reason:
            found.append(f"{name}: {reason}")
    return found


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def write(root: Path) -> None:
    """Make the tree hold the contract."""
    for path, text in wanted().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for line in differences(root):
        (root / line.partition(":")[0]).unlink()


def main(arguments: list[str] | None = None) -> int:
    """Write or check; exit status 1 when something differs or would break."""
    parser = argparse.ArgumentParser(prog="python -m fairlead.contract", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write docs/asyncapi.json and tests/golden/wire")
    action.add_argument("--check", action="store_true", help="say what differs")
    parser.add_argument(
        "--break", action="store_true", dest="breaks", help="write over vectors that break (before a release only)"
    )
    options = parser.parse_args(arguments)
    broken = breaking(_ROOT)
    if options.write and not (broken and not options.breaks):
        write(_ROOT)
        return 0
    wrong = broken + (differences(_ROOT) if options.check else [])
    for line in wrong:
        print(line, file=sys.stderr)  # noqa: T201 - a command line tool
    if wrong:
        print("to mend: python -m fairlead.contract --write", file=sys.stderr)  # noqa: T201 - same
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
