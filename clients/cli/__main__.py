"""`fairlead`: look at the network, change it, and ask it why.

Exit status: 0 done; 1 the answer is no (not found, refused, degraded); 2 wrong usage or input; 3 not in time (stragglers, no
answer); 4 the bus cannot be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from clients.cli import (
    admission,
    bgp,
    bpf,
    break_glass,
    compose,
    credentials,
    datapath,
    endpoint,
    flow,
    identity,
    ipam,
    ipcache,
    metrics,
    node,
    policy,
    status,
    trace,
    why,
    workload,
)
from clients.cli.command import global_options
from clients.cli.output import Answer, Exit, Stop, as_json
from clients.cli.session import Session, status_of
from fairlead import telemetry
from fairlead.bus_nats import connect
from fairlead.errors import FairleadError

_MODULES = (
    status,
    node,
    endpoint,
    workload,
    identity,
    ipcache,
    policy,
    compose,
    bpf,
    datapath,
    ipam,
    bgp,
    flow,
    metrics,
    why,
    trace,
    credentials,
    break_glass,
    admission,
)
_EXAMPLE = """\
example:
  fairlead status
  fairlead policy apply -f policy.yaml --wait
  fairlead why 10.4.0.2 10.4.1.3:6379
"""


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    made = argparse.ArgumentParser(
        prog="fairlead",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[global_options(defaults=True)],
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _MODULES:
        module.register(commands)
    return made


async def _with_bus(options: argparse.Namespace) -> Answer:
    trust = {"seed_file": options.credentials, "authority": options.authority}
    async with connect(options.nats, name="cli", domain=options.domain, **trust) as bus:
        try:
            session = Session(bus, options)
            await bus.client(session.timeout_s)
            answer: Answer = await options.run(session)
        except FairleadError as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            raise Stop(status_of(error, connected=bus.connected), error.message + notes) from error
    return Answer(answer.value, answer.text, answer.status, (*session.warnings, *answer.warnings))


def _say(answer: Answer, output: str) -> None:
    for warning in answer.warnings:
        print(f"fairlead: {warning}", file=sys.stderr)
    text = as_json(answer.value) if output == "json" else answer.text
    if text:
        print(text, flush=True)


def _run(options: argparse.Namespace) -> int:
    answer: Answer = asyncio.run(_with_bus(options)) if options.bus else options.run(options)
    _say(answer, options.output)
    return answer.status


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="fairlead: %(message)s")
    spans = telemetry.setup("cli", os.uname().nodename)
    try:
        return _run(options)
    except Stop as stop:
        print(f"fairlead: {stop.message}", file=sys.stderr)
        return stop.status
    except FairleadError as error:
        print(f"fairlead: {error.message}", file=sys.stderr)
        return status_of(error, connected=True)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return 130
    finally:
        spans.shutdown()


if __name__ == "__main__":
    sys.exit(main())
