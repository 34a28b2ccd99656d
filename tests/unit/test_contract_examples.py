"""The example in docs/protocol.md is run as it stands, against a real server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairlead.bus import route
from fairlead.bus_nats import connect
from fairlead.errors import InvalidInput
from fairlead.schema import BUCKETS, TOPICS
from fairlead.schema.base import IdentityId
from fairlead.schema.identity import PUT_WORKLOAD, WORKLOAD_PUBLISHED, Committed, ExternalWorkload
from tests.support.nats import NatsServer
from tests.unit.cli.world import World

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text()


@pytest.mark.connected
async def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    server = NatsServer(tmp_path).start()
    seen: list[ExternalWorkload] = []

    async def put(workload: ExternalWorkload) -> Committed:
        if seen and workload.generation <= seen[-1].generation:
            raise InvalidInput("`generation`: is not new: count on")
        seen.append(workload)
        return Committed(revision=len(seen), identity=IdentityId(1001))

    try:
        async with connect(server.url, name="identity") as bus:
            world = await World(bus).start()
            await bus.serve("identity", [route(PUT_WORKLOAD, put), route(WORKLOAD_PUBLISHED, put)])
            code_, out, error = await _python(server.url, tmp_path / "example.py")
            assert code_ == 0, error
            assert "'identity': 1001" in out
            assert "realised everywhere" in out
            assert list(world.policies.stored) == ["db-ingress"]
            async with asyncio.timeout(10):
                while len(seen) < 2:
                    await asyncio.sleep(0.02)
            assert [(one.generation, one.labels) for one in seen] == [(1, ("app=employee",)), (2, ("app=intern",))]
            code_, _, error = await _python(server.url, tmp_path / "example.py")
            assert (code_, error.strip()) == (1, "invalid: `generation`: is not new: count on")
    finally:
        server.kill()


async def _python(url: str, path: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "FAIRLEAD_NATS": url},
    )
    out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


def test_every_subject_and_bucket_in_the_prose_exists() -> None:
    known = {topic.subject for topic in TOPICS}
    named = {
        re.sub(r"\.n1$", "", text)
        for text in re.findall(r"fairlead\.(?:cmd|get|evt|flow)\.[a-z0-9.]+v1(?:\.n1)?", DOCUMENT)
    }
    assert named <= known
    assert set(
        re.findall(r"^\| `([a-z]+)` \| [^|]+ \| (?:ipam|identity|policy|datapath) \|$", DOCUMENT, re.MULTILINE)
    ) == {spec.name for spec in BUCKETS}


def test_every_intent_subject_is_named() -> None:
    for topic in TOPICS:
        noun_and_verb = ".".join(topic.subject.split(".")[3:5])
        assert not topic.intent or f"`{noun_and_verb}`" in DOCUMENT


ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "LICENSES/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_tree_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_walk_goes_through_ten_files_that_exist() -> None:
    text = (ROOT / "docs/walk.md").read_text()
    steps = re.findall(r"^([0-9]+)\. \*\*`([^`]+)`\*\*", text, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 11))
    assert [path for _, path in steps if not (ROOT / path).is_file()] == []
    minutes = [int(found) for found in re.findall(r"\(([0-9]+) min\)", text)]
    assert sum(minutes) == 30
