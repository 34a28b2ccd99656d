"""`fairlead policy check`: what policies will do, before they do it.

The answer comes from the policy service's own code, run as a child: a client imports no service. With --live the policies, workloads
and flows of the running network are written to files for it first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from clients.cli import command, flow
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead import codec
from fairlead.schema.base import Empty
from fairlead.schema.flow import FlowQuery
from fairlead.schema.identity import IDENTITIES
from fairlead.schema.policy import POLICIES, StoredPolicy

_FIELDS = ("apiVersion", "kind", "metadata", "spec", "specs", "tests")
_ROWS_PER_FILE = 1000
_MOST_FLOWS = 4096
_FIRST_WORKLOAD = 256
_LAST_WORKLOAD = 65535


def run(given: Session | argparse.Namespace) -> Coroutine[Any, Any, Answer]:
    """Run the check; it ends the program with its own exit status, since everything has been said by then."""
    if isinstance(given, Session):
        return _live(given)
    raise SystemExit(_child(_arguments(given)))


def _child(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "services.policy.check", *arguments], check=False).returncode


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line of the child."""
    found = [options.cases] if options.cases else []
    for name, values in (("--file", options.file), ("--base", options.base), ("--workloads", options.workloads)):
        found += [part for value in values for part in (name, value)]
    single = {"--from": options.source, "--to": options.destination, "--port": options.port, "--flows": options.flows}
    single |= {"--mode": options.mode, "--cluster": options.cluster, "--output": options.output}
    found += [part for name, value in single.items() if value for part in (name, value)]
    return [*found, "--diff"] if options.diff else found


async def _live(session: Session) -> Answer:
    """Write down what the network knows, and check that."""
    options = session.options
    with tempfile.TemporaryDirectory(prefix="fairlead-check-") as name:
        folder = Path(name)
        in_force = write(folder, "policies", await _documents(session), kind="List")
        if options.diff:
            options.base = in_force
        else:
            options.file = in_force + options.file
        options.workloads = write(folder, "workloads", await _workloads(session)) + options.workloads
        if options.minutes:
            path = folder / "flows.json"
            path.write_text(json.dumps(await _flows(session)))
            options.flows = str(path)
        for warning in session.warnings:
            print(f"fairlead: {warning}", file=sys.stderr)
        raise SystemExit(_child(_arguments(options)))


def write(folder: Path, name: str, rows: list[Any], *, kind: str = "") -> list[str]:
    """Write rows to as many files as their number needs, and return the paths; a file is a list, or of a kind of list."""
    paths = []
    for start in range(0, len(rows), _ROWS_PER_FILE):
        some = rows[start : start + _ROWS_PER_FILE]
        path = folder / f"{name}-{start}.json"
        path.write_text(json.dumps({"kind": kind, "items": some} if kind else some))
        paths.append(str(path))
    return paths


async def _documents(session: Session) -> list[dict[str, Any]]:
    return [plain(one) for one in (await session.ask(POLICIES, Empty())).policies]


def plain(stored: StoredPolicy) -> dict[str, Any]:
    """Return a document as it would stand in a file."""
    found = codec.to_builtins(stored.document)
    return {key: found[key] for key in _FIELDS if found.get(key) is not None}


async def _workloads(session: Session) -> list[dict[str, Any]]:
    """Return the workloads that nodes host, and the identities that none of them has: others may be elsewhere."""
    hosted = [one for one in await session.endpoints() if _FIRST_WORKLOAD <= one.identity <= _LAST_WORKLOAD]
    names = Counter(one.name for one in hosted)
    found: list[dict[str, Any]] = [
        {
            "name": one.name if names[one.name] == 1 else f"{one.name}@{one.node}",
            "labels": list(one.labels),
            "addresses": list(map(str, one.addresses)),
        }
        for one in hosted
    ]
    known = {one.identity for one in hosted}
    rows = (await session.rows(IDENTITIES)).values()
    elsewhere = [row for row in rows if _FIRST_WORKLOAD <= row.identity <= _LAST_WORKLOAD and row.identity not in known]
    return found + [{"name": f"identity {row.identity}", "labels": list(row.labels)} for row in elsewhere]


async def _flows(session: Session) -> list[Any]:
    since = session.clock.now() - timedelta(minutes=session.options.minutes)
    flows, _ = await flow.recorded(session, FlowQuery(last=_MOST_FLOWS, never=flow.WHOLE))
    return [codec.to_builtins(one) for one in flows if one.time >= since]


def register(group: command.Subcommands) -> None:
    """Declare `policy check`."""
    example = "fairlead policy check -f policy.yaml --workloads all.yaml --from web --to db --port 6379/TCP"
    parser = command.add(group, "check", None, "say what policies will do, before they do it", example)
    parser.set_defaults(run=run, bus=False)
    parser.add_argument("cases", nargs="?", metavar="CASES", help="conformance file; alone: the project's own cases")
    parser.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="policies; repeat for more")
    parser.add_argument("--workloads", action="append", default=[], metavar="FILE", help="{name, labels, addresses}")
    parser.add_argument("--from", dest="source", metavar="A", help="workload, address, or a word like world")
    parser.add_argument("--to", dest="destination", metavar="B", help="the same")
    parser.add_argument("--port", metavar="PORT", help="6379/TCP, 53/UDP, 8/ICMP (a type)")
    parser.add_argument("--diff", action="store_true", help="which verdicts the files of -f would change")
    parser.add_argument("--base", action="append", default=[], metavar="FILE", help="policies in force, for --diff")
    parser.add_argument("--flows", metavar="FILE", help="decide these flows again (`fairlead flows -o json`)")
    parser.add_argument("--live", dest="bus", action="store_true", help="take what is in force from the bus")
    parser.add_argument("--minutes", type=float, metavar="N", help="with --live: the flows of the last N minutes")
    parser.add_argument("--mode", choices=("default", "always", "never"), help="enforcement mode (default)")
    parser.add_argument("--cluster", metavar="NAME", help="name of the local cluster (default)")
