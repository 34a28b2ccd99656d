"""`make fuzz`: the only ways in for a policy, under fire. Nothing but InvalidInput may come out, and nothing may be slow, not even a megabyte.

python -m tests.fuzz.policy [--inputs N] [--seconds S] [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, NamedTuple

import yaml

from fairlead import manifest
from fairlead.codec import from_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject
from services.policy.parse import parse
from services.policy.rules import Translation
from tests.fuzz.megabytes import IN_A_FILE, ON_THE_WIRE
from tests.fuzz.mutate import mutated, samples

SLOW_S = 1.0
_TEXT_EVERY = 50
"""One input in so many is a file: YAML is a hundred times slower to read than a document on the wire."""


def parsed(document: dict[str, Any]) -> str:
    """Return what became of a document as it comes from the wire. Everything but InvalidInput goes through."""
    try:
        parse(from_builtins(document, PolicyObject), Translation())
    except InvalidInput:
        return "refused"
    return "understood"


def read(text: str) -> str:
    """Return what became of a file."""
    try:
        for document in manifest.read(text, "file"):
            parse(document, Translation())
    except InvalidInput:
        return "file refused"
    return "file understood"


def scribbled_file(chance: Random) -> str:
    """Return a sample as a file, with some characters of it exchanged."""
    text = yaml.safe_dump(chance.choice(samples()))
    for _ in range(chance.randint(0, 4)):
        place = chance.randrange(len(text))
        text = text[:place] + chance.choice("{}[]:,&*!|>'\"#-%@`\n\t\x00 <=?~") + text[place + chance.randint(0, 2) :]
    return text


class Fuzzed(NamedTuple):
    """What became of the inputs, and the slowest of them, in seconds of the processor: the machine may be busy."""

    outcomes: Counter[str]
    slowest_s: float
    slowest: str


def run(inputs: int, seconds: float, seed: int) -> Fuzzed:
    """Give the parser that many inputs, or as many as the time allows."""
    chance, found, began_s = Random(seed), Counter[str](), time.monotonic()
    slowest_s, slowest = 0.0, ""
    while found.total() < inputs and time.monotonic() - began_s < seconds:
        text = scribbled_file(chance) if found.total() % _TEXT_EVERY == 0 else None
        document = {} if text is not None else mutated(chance)
        start_s = time.process_time()
        try:
            outcome = parsed(document) if text is None else read(text)
        except BaseException:
            print(f"seed {seed}, input {found.total()}: {document if text is None else text!r}", file=sys.stderr)
            raise
        if (took_s := time.process_time() - start_s) > slowest_s:
            slowest_s, slowest = took_s, repr(document if text is None else text)
        found[outcome] += 1
    return Fuzzed(found, slowest_s, slowest)


def megabytes() -> dict[str, float]:
    """Return how long each of the largest documents takes, in seconds of the processor."""
    ways: list[tuple[str, Callable[[], str]]] = [
        *((name, partial(parsed, document)) for name, document in ON_THE_WIRE.items()),
        *((name, partial(read, text)) for name, text in IN_A_FILE.items()),
    ]
    took: dict[str, float] = {}
    for name, answer in ways:
        start_s = time.process_time()
        answer()
        took[name] = time.process_time() - start_s
    return took


def main() -> int:
    """Run, and tell what became of the inputs; exit status 1 when one was slow."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=None, help="default: by the clock, and printed")
    given = options.parse_args()
    seed = time.time_ns() if given.seed is None else given.seed
    began_s = time.monotonic()
    found, slowest_s, slowest = run(given.inputs, given.seconds, seed)
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))
    print(f"seed {seed}: {found.total()} inputs in {time.monotonic() - began_s:.0f} s: {told}; none escaped")
    took = megabytes()
    for name in sorted(took, key=lambda name: -took[name])[:5]:
        print(f"a megabyte, {name}: {took[name]:.3f} s")
    slow = [slowest[:2000]] if slowest_s > SLOW_S else []
    slow += [name for name, took_s in took.items() if took_s > SLOW_S]
    for one in slow:
        print(f"slow: {one}", file=sys.stderr)
    print(f"inputs={found.total()}\nslowest_input_s={slowest_s:.3f}\nslowest_megabyte_s={max(took.values()):.3f}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
