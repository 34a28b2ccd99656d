"""`x-fairlead.tests` into documents of tests: `web -> db:5432/TCP`, between services, other projects' services, addresses and words like `world`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from clients.cli.compose_files import EXTENSION, Extension
from clients.cli.compose_rules import Stated, stack_part
from clients.cli.compose_services import Stack
from fairlead.address import Address, Prefix
from fairlead.containers import PROJECT, SERVICE
from fairlead.errors import InvalidInput
from fairlead.schema.identity import RESERVED_LABELS
from fairlead.schema.policy import PolicyObject

NAME = "compose"
"""What the document is called that holds a stack's tests."""
_LINE = re.compile(r"(?P<source>\S+)\s*->\s*(?P<target>\[[^\]\s]+\]|[^\s:]+):(?P<port>\d{1,5})(?:/(?P<protocol>\w+))?")
_PROTOCOLS = {name.upper(): name for name in ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6")}
_RESERVED = {labels[0].removeprefix("reserved:") for labels in RESERVED_LABELS.values()}
_AT_ONCE = 200
_LONGEST = 253


class End(NamedTuple):
    """One end as a document of tests has it, and on which of the stack's networks it is; none: that does not matter."""

    plain: dict[str, Any]
    networks: frozenset[str] = frozenset()


def documents(extensions: Iterable[Extension], stack: Stack) -> list[Stated]:
    """Return the tests of all files as documents. Raises InvalidInput naming file, path and mend."""
    tests = [test for extension in extensions for test in _of_file(extension, stack)]
    pieces = [tests[start : start + _AT_ONCE] for start in range(0, len(tests), _AT_ONCE)]
    return [Stated(f"{EXTENSION}.tests", _document(piece, number, stack)) for number, piece in enumerate(pieces, 1)]


def _document(tests: list[dict[str, Any]], number: int, stack: Stack) -> PolicyObject:
    name = NAME if number == 1 else f"{NAME}-{number}"
    metadata = {"name": name, "namespace": stack.project}
    return PolicyObject(apiVersion="fairlead.dev/v1", kind="PolicyTests", metadata=metadata, spec={}, tests=tests)


def _of_file(extension: Extension, stack: Stack) -> Iterator[dict[str, Any]]:
    expected = stack_part(extension).tests
    for verdict, lines in (("allow", expected.allow), ("deny", expected.deny)):
        for number, line in enumerate(lines):
            yield from _tests(line, verdict, f"{extension.file}: {EXTENSION}.tests.{verdict}[{number}]", stack)


def _tests(line: str, verdict: str, where: str, stack: Stack) -> Iterator[dict[str, Any]]:
    """Yield a test for each network on which the two ends can meet."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise InvalidInput(
            f"{where}: {line!r} is no test: write SOURCE -> DESTINATION:PORT, for instance web -> db:5432"
        )
    protocol = _PROTOCOLS.get((match["protocol"] or "TCP").upper())
    if protocol is None:
        raise InvalidInput(f"{where}: {match['protocol']!r} is none of {', '.join(_PROTOCOLS.values())}")
    for source, target in meeting(
        ends(match["source"], f"{where}: {line!r}", stack), ends(match["target"], f"{where}: {line!r}", stack)
    ):
        yield {
            "name": f"{where}: {line}"[-_LONGEST:],
            "from": source.plain,
            "to": target.plain,
            "port": f"{match['port']}/{protocol}",
            "expect": verdict,
        }


def meeting(sources: list[End], targets: list[End]) -> list[tuple[End, End]]:
    """Return the pairs that share a network; all of them where none does, or where it does not matter."""
    pairs = [(source, target) for source in sources for target in targets]
    shared = [(source, target) for source, target in pairs if source.networks & target.networks]
    return shared or pairs


def ends(word: str, where: str, stack: Stack) -> list[End]:
    """Return whom a word means, once for each label set that a service has on its networks. Raises InvalidInput."""
    if word in stack.services:
        return _service_ends(word, where, stack)
    if word in _RESERVED:
        return [End({"entity": word})]
    plain = word.strip("[]")
    if (address := _address(plain)) is not None:
        return [End({"address": address})]
    project, slash, service = word.rpartition("/")
    if not slash or not project or not service:
        raise InvalidInput(
            f"{where}: {stack.without(word)}; else write PROJECT/SERVICE, an address, or one of {', '.join(sorted(_RESERVED))}"
        )
    return [End(_labels([f"container:{PROJECT}={project}", f"container:{SERVICE}={service}"]))]


def _service_ends(name: str, where: str, stack: Stack) -> list[End]:
    service = stack.services[name]
    if not service.networks:
        raise InvalidInput(
            f"{where}: {name} is on no network of Fairlead's ({service.elsewhere}): nothing is policed there; write for "
            "instance networks: {default: {driver: fairlead, ipam: {driver: fairlead}}}"
        )
    return [End(_labels(labels), frozenset(networks)) for labels, networks in stack.parties(name).items()]


def _labels(labels: Iterable[str]) -> dict[str, Mapping[str, str]]:
    parts = [label.partition("=") for label in labels]
    return {"labels": {key: value for key, _, value in parts}}


def _address(text: str) -> str | None:
    for kind in (Address, Prefix):
        try:
            return str(kind(text))
        except InvalidInput:
            continue
    return None
