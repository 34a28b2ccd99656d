"""`python -m services.policy.check`: what policies will do, asked offline of the code that fills the maps.

Exit status: 0 as asked (allowed, all passed, no change); 1 denied, failed, or verdicts change; 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fairlead.errors import FairleadError, InvalidInput
from services.policy.check import cases, run
from services.policy.resolve import Mode

_WRONG_INPUT = 2


def parser(prog: str = "fairlead policy check") -> argparse.ArgumentParser:
    """Return the command line; `fairlead policy check` has the same."""
    made = argparse.ArgumentParser(prog=prog, description="Say what policies will do, before they do it.")
    made.add_argument("cases", nargs="?", metavar="CASES", help="conformance file (.jsonl or .jsonl.gz)")
    made.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="policies; repeat for more")
    made.add_argument(
        "--workloads", action="append", default=[], metavar="FILE", help="list of {name, labels, addresses}"
    )
    made.add_argument("--from", dest="source", metavar="A", help="workload, address, or a word like world")
    made.add_argument("--to", dest="destination", metavar="B", help="the same")
    made.add_argument("--port", metavar="PORT", help="6379/TCP, 53/UDP, 8/ICMP (a type)")
    made.add_argument("--diff", action="store_true", help="the files of -f as a change to those of --base")
    made.add_argument("--base", action="append", default=[], metavar="FILE", help="policies in force, for --diff")
    made.add_argument("--flows", metavar="FILE", help="decide recorded flows again (from `fairlead flows -o json`)")
    made.add_argument("--mode", choices=[str(mode) for mode in Mode], default=str(Mode.DEFAULT), help="enforcement")
    made.add_argument("--cluster", default="default", metavar="NAME", help="name of the local cluster (%(default)s)")
    made.add_argument("-o", "--output", choices=("table", "json"), default="table", help="for people, or for programs")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run one check, and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        return _check(options)
    except FairleadError as error:
        print(f"fairlead: {error.message}", file=sys.stderr)
        return _WRONG_INPUT
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _check(options: argparse.Namespace) -> int:
    if options.file or options.workloads or options.flows or options.base:
        if options.cases:
            raise InvalidInput("a conformance file stands alone: leave out -f, --workloads, --base and --flows")
        return run.run(options)
    if options.source or options.destination or options.diff:
        raise InvalidInput("policies and workloads are needed: -f POLICIES --workloads FILE")
    found = cases.read(Path(options.cases)) if options.cases else cases.own()
    last = ""
    for last in cases.run(found, cases.listed()):
        print(last, flush=True)
    return 0 if last.endswith(" 0 failed") else 1


if __name__ == "__main__":
    sys.exit(main())
