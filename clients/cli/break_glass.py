"""`fairlead break-glass`: let an endpoint, or all of this node, pass what policies deny, for a while; with everything else dead too.

Runs on the node itself, as root. The work is the datapath's own code, run as a child: a client imports no service.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from clients.cli import command
from clients.cli.output import Answer

_OPEN = "fairlead break-glass endpoint db --for 15m --reason INC-7"


def run(options: argparse.Namespace) -> Answer:
    """Run it; it ends the program with its own exit status, since everything has been said by then."""
    child = [sys.executable, "-m", "services.datapath.emergency", *arguments(options)]
    raise SystemExit(subprocess.run(child, check=False).returncode)


def arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line of the child."""
    what: str = options.glass
    found = [what, options.endpoint] if what == "endpoint" else [what]
    single = {"--state-dir": options.state_dir, "--pins": options.pins, "--output": options.output}
    if what != "list":
        single |= {"--for": options.lasts, "--reason": options.reason}
        found += ["--end"] if options.end else []
    return found + [f"{name}={value}" for name, value in single.items() if value is not None]


def register(commands: command.Subcommands) -> None:
    """Declare the commands."""
    group = command.group(
        commands, "break-glass", "this node, as root: let pass what policies deny, for a while", _OPEN
    )
    endpoint = _add(group, "endpoint", "open one endpoint for a while, or end that", _OPEN)
    endpoint.add_argument("endpoint", metavar="NAME|ADDRESS|NUMBER", help="`host`: the node itself")
    node = _add(group, "node", "open the whole node for a while, or end that", _OPEN.replace("endpoint db", "node"))
    for opening in (endpoint, node):
        opening.add_argument("--for", dest="lasts", metavar="TIME", help="90s, 15m, 1h; at most 24h")
        opening.add_argument("--reason", metavar="TEXT", help="why, for the record")
        opening.add_argument("--end", action="store_true", help="end it now")
    _add(group, "list", "show what is open on this node", "fairlead break-glass list")


def _add(group: command.Subcommands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser = command.add(group, name, run, summary, example)  # type: ignore[arg-type] # needs no bus
    parser.set_defaults(bus=False, glass=name)
    parser.add_argument("--state-dir", metavar="PATH", help="the node's state (FAIRLEAD_STATE_DIR, /var/lib/fairlead)")
    parser.add_argument("--pins", metavar="PATH", help="the node's pinned maps (FAIRLEAD_PIN_DIRECTORY)")
    return parser
