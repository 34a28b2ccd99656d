"""`make test-restart`: SIGKILLs under traffic, and their figures. Exit status 1 if anything was lost, or passed that must not."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.restart import story
from tests.support import kernels


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.restart", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how often (default 1000, some 20 minutes)")
    parser.add_argument("--seed", type=int, default=1, help="of the random instants")
    options = parser.parse_args()
    if reason := kernels.missing():
        sys.exit(f"test-restart: {reason}")
    figures = asyncio.run(story.run(options.kills, options.seed))
    print("\n".join(figures.lines()))
    bad = figures.lost or figures.wrongly_dropped or figures.wrongly_passed or figures.problems
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
