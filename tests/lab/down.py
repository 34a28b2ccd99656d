"""`make lab-down`: remove what a lab has left behind, after KEEP=1 or a crash. Needs nothing but the standard library."""

from __future__ import annotations

import sys

from tests.lab import cleanup
from tests.lab.network import LabError

PREFIX = "flab"


def main() -> int:
    """Remove the lab; 2 when one is running."""
    try:
        with cleanup.only_one(PREFIX):
            print(f"removed {cleanup.clean(PREFIX)}")
    except LabError as error:
        print(f"lab-down: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
