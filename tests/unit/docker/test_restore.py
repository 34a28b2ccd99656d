"""After a start of the plugin no rule of a published port is away for a moment: all are written at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients.docker.publish import PortPublisher
from clients.docker.state import Endpoint, Port, State
from fairlead.address import Address
from tests.support.etcd import free_port


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have every rule set that is loaded end up in this folder instead of in the kernel."""
    for name in ("nft", "iptables", "ip6tables"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\nexport PATH=/usr/bin:/bin\ncat > {tmp_path}/{name}.$(date +%s%N)\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def _loaded(folder: Path) -> list[str]:
    return [file.read_text() for file in folder.glob("nft.*")]


async def test_all_ports_come_back_in_one_step(written: Path) -> None:
    state, ports = State(written / "state"), (free_port(), free_port())
    state.load()
    for number, port in enumerate(ports, 2):
        published = (Port(protocol="tcp", host_port=port, port=80),)
        made = datetime(2026, 1, 1, tzinfo=UTC)
        address = Address(f"10.7.0.{number}")
        await state.put(Endpoint(id=f"e{number}", network="n", addresses=(address,), created=made, ports=published))
    said: list[tuple[str, bool, str]] = []
    publisher = PortPublisher(state, lambda *condition: said.append(condition))
    await publisher.restore()
    await publisher.close()
    assert said == [("published ports", True, "")]
    (text,) = _loaded(written)
    assert all(f"dport {port} dnat" in text for port in ports)
