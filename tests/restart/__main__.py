"""`make test-restart`: SIGKILLs under traffic, of one version and amid moves between versions, and their figures.

Exit status 1 if anything was lost, dropped, late, or passed that must not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.kernel import versions as codes
from tests.restart import story, versions
from tests.support import kernels


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.restart", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=1000, help="of this version's service (default 1000, some 15 minutes)"
    )
    parser.add_argument(
        "--moves",
        type=int,
        default=400,
        help="of versions with other map schemas (default 400, or as many as 15 minutes allow)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random instants")
    options = parser.parse_args()
    if reason := kernels.missing() or (options.moves and codes.missing()):
        sys.exit(f"test-restart: {reason}")
    good = True
    if options.kills:
        figures = asyncio.run(story.run(options.kills, options.seed))
        print("\n".join(figures.lines()), flush=True)
        good = figures.good
    if options.moves:
        figures = versions.run_kills(options.moves, options.seed)
        print("\n".join(figures.lines("moves_")), flush=True)
        good = good and figures.good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
