"""Our own small cases, always run; and the observed answers of the reference, where they are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairlead.codec import from_builtins
from fairlead.errors import InvalidInput
from fairlead.schema.identity import RESERVED_LABELS
from fairlead.schema.policy import Direction, PolicyObject
from services.policy.labels import implied, make_identity, parse_label
from services.policy.model import Model, reserved_identities
from services.policy.parse import parse
from services.policy.resolve import Enforcement
from services.policy.rules import API_VERSION_BY_KIND, Translation
from services.policy.simulate import decide
from tests.unit.policy.scenarios import GOLDEN, PROTOCOLS, Outcome, Run, conformance_folder, read, verdict

FIELDS = ("apiVersion", "kind", "metadata", "spec", "specs")


def cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}: {case['name']}")
        for path in sorted(GOLDEN.glob("*.yaml"))
        for case in yaml.safe_load(path.read_text())
    ]


@pytest.mark.parametrize("case", cases())
def test_golden_case(case: dict[str, Any]) -> None:
    translation = Translation(cluster="default")
    documents = [PolicyObject(**document) for document in case["policies"]]
    if "refused" in case:
        with pytest.raises(InvalidInput) as caught:
            parse(documents[0], translation)
        assert caught.value.message.startswith(case["refused"])
        return
    model = Model(Enforcement())
    numbers = {labels[0].removeprefix("reserved:"): int(number) for number, labels in RESERVED_LABELS.items()}
    for identity in reserved_identities():
        model.put_identity(identity)
    for number, (name, labels) in enumerate(case["endpoints"].items(), 256):
        numbers[name] = number
        model.put_identity(make_identity(number, implied(map(parse_label, labels), "default")))
    for number, document in enumerate(documents):
        model.put_policy(str(number), parse(document, translation))
    for line in case["expect"]:
        question, _, expected = line.rpartition(": ")
        assert f"{question}: {answer(model, numbers, question)}" == f"{question}: {expected}"


def answer(model: Model, numbers: dict[str, int], question: str) -> str:
    subject, direction, peer, traffic = question.split()
    protocol, port = traffic.split("/")
    row = model.row(numbers[subject])
    assert row is not None
    return verdict(decide(row, Direction[direction.upper()], numbers[peer], PROTOCOLS[protocol], int(port)))


@pytest.mark.parametrize("name", ["visible.jsonl.gz", "mapstate.jsonl.gz"])
def test_conformance(name: str, record_property: Any) -> None:
    folder = conformance_folder()
    if folder is None:
        pytest.skip("THE REFERENCE'S ANSWERS ARE ABSENT: set FAIRLEAD_CONFORMANCE to their folder to compare with them")
    outcome = run_file(folder / name)
    record_property("conformance", outcome.summary())
    print(f"{name}: {outcome.summary()}; refused on purpose: {outcome.stricter}")
    assert outcome.questions > 10_000
    assert not outcome.wrong, f"{outcome.summary()}; the first wrong ones:\n" + "\n".join(outcome.wrong[:20])
    assert outcome.stricter == (["sample examples/auth/auth.yaml"] if name.startswith("visible") else [])


def run_file(path: Path) -> Outcome:
    total = Outcome()
    for scenario in read(path):
        run = Run(scenario)
        outcome = run.outcome
        if not outcome.stricter:
            outcome = run.check_maps() if "maps" in scenario else outcome
            outcome = run.check_queries()
        total.add(outcome)
    return total


def test_samples_of_public_projects_are_understood_or_refused_by_name() -> None:
    folder = conformance_folder()
    if folder is None:
        pytest.skip("THE REFERENCE'S SAMPLES ARE ABSENT: set FAIRLEAD_CONFORMANCE to their folder to compare with them")
    refusals = [refusal(document) for document in sample_documents(folder / "samples")]
    assert all("`" in text for text in refusals if text)
    print(f"{refusals.count('')} of {len(refusals)} samples are understood")
    assert refusals.count("") >= 70


def sample_documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") in API_VERSION_BY_KIND:
                yield {name: document[name] for name in FIELDS if name in document}


def refusal(document: dict[str, Any]) -> str:
    try:
        parse(from_builtins(document, PolicyObject), Translation())
    except InvalidInput as error:
        return error.message
    return ""
