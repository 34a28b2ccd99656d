"""How commands are declared: one function each, an example in each help text, the same global options everywhere."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.address import Address
from fairlead.errors import InvalidInput
from fairlead.schema.base import Label, NodeNameField

Run = Callable[[Session], Awaitable[Answer]]
Subcommands = Any
"""What `add_subparsers` returns; argparse has no public name for it."""


def seconds(text: str) -> float:
    """Return a number of seconds from 0 to a day."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds from 0 to 86400")
    return value


def node_name(text: str) -> str:
    """Return a node's name, checked, since it becomes part of a subject."""
    try:
        return str(msgspec.convert(text, NodeNameField))
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: a node name has a-z, 0-9 and dashes, at most 63") from error


_GLOBAL: tuple[tuple[tuple[str, ...], dict[str, Any], str, Any], ...] = (
    (("--nats",), {"metavar": "URL", "help": "nearest NATS server"}, "FAIRLEAD_NATS", "nats://127.0.0.1:4222"),
    (("--domain",), {"metavar": "NAME", "help": "JetStream domain, when --nats is a leaf"}, "FAIRLEAD_NATS_DOMAIN", ""),
    (("--credentials",), {"metavar": "FILE", "help": "nkey seed"}, "FAIRLEAD_NATS_CREDENTIALS", ""),
    (
        ("--authority",),
        {"metavar": "FILE", "help": "certificate that vouches for --nats"},
        "FAIRLEAD_NATS_AUTHORITY",
        "",
    ),
    (("--timeout",), {"metavar": "S", "type": seconds, "help": "seconds to wait for an answer (5)"}, "", None),
    (("-o", "--output"), {"choices": ("table", "json"), "help": "table for people, json for programs"}, "", "table"),
)
"""Names, what argparse is told, the environment variable, the default."""


def global_options(*, defaults: bool, outputs: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """Return the options that stand before or after the command; only the first place sets defaults."""
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("global options")
    for names, told, variable, value in _GLOBAL:
        default = os.environ.get(variable, value) if defaults else argparse.SUPPRESS
        shown = f"{told['help']} ({variable})" if variable else told["help"]
        more = {"choices": outputs, "help": ", ".join(outputs)} if outputs and "--output" in names else {"help": shown}
        group.add_argument(*names, **{**told, **more, "default": default})
    return shared


def add(
    subcommands: Subcommands, name: str, run: Run | None, summary: str, example: str, outputs: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """Declare a command (or, without `run`, a group of them), and return its parser for more arguments; `outputs`: other forms of -o."""
    parser: argparse.ArgumentParser = subcommands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[global_options(defaults=False, outputs=outputs)],
    )
    if run:
        parser.set_defaults(run=run, bus=True)
    return parser


def group(subcommands: Subcommands, name: str, summary: str, example: str) -> Subcommands:
    """Declare a group of commands, and return what its members are added to."""
    return add(subcommands, name, None, summary, example).add_subparsers(
        dest=f"{name}_command", required=True, metavar="COMMAND"
    )


def node_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Give the command a --node."""
    parser.add_argument(
        "--node", type=node_name, required=required, metavar="NODE", help="ask this node only; works without the hub"
    )


def label(text: str) -> str:
    """Return a label given as key=value or source:key=value, checked as the bus will."""
    try:
        return str(msgspec.convert(text, Label))
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write a label as key=value, one --label each") from error


def address(text: str) -> Address:
    """Return an IP address."""
    try:
        return Address(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
