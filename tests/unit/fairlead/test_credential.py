"""Which file a process finds its credential in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.config import CommonSettings
from fairlead.credential import Credential, credential
from fairlead.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("policy-1.nk", "identity-1.nk", "identity-2.nk", "authority.crt", "nodes/n1/n1.docker.nk", "n2.bgp.nk")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def found(path: Path, service: str, node: str = "n1", authority: str = "") -> Credential:
    settings = CommonSettings(node=node, nats_credentials=str(path), nats_authority=authority)
    return credential(settings, service)


def test_one_folder_serves_every_process_of_a_machine(folder: Path) -> None:
    assert found(folder, "policy") == (f"{folder}/policy-1.nk", f"{folder}/authority.crt")
    assert found(folder, "docker") == (f"{folder}/nodes/n1/n1.docker.nk", "")
    assert found(folder, "bgp", "n2") == (f"{folder}/n2.bgp.nk", "")
    assert found(folder, "identity", "identity-2").seed_file == f"{folder}/identity-2.nk"
    assert found(folder, "policy", authority=f"{folder}/authority.crt").authority == f"{folder}/authority.crt"


def test_a_file_is_what_it_is_and_nothing_is_none(folder: Path) -> None:
    assert found(folder / "policy-1.nk", "docker") == (f"{folder}/policy-1.nk", "")
    assert credential(CommonSettings(node="n1"), "docker") == ("", "")


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("ipam", "holds neither n1.ipam.nk nor ipam-"),
        ("identity", "holds 2 for replicas of it: name the file"),
    ],
)
def test_a_folder_without_ones_own_is_refused(folder: Path, service: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        found(folder, service)


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"n1.ipam.nk is not there or not for user \d+ to read"):
        found(folder / "n1.ipam.nk", "ipam")
