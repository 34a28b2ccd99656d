"""Credentials without servers: what is refused, what is written, who may what."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from clients.cli import rights
from clients.cli.__main__ import main
from fairlead.schema.base import NodeName


def run(folder: Path, *words: str) -> int:
    return main(["credentials", words[0], "--dir", str(folder), *words[1:]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "credentials"
    assert run(made, "init", "--hub", "192.0.2.10", "--hub", "hub.example", "--hub", "2001:db8::1") == 0
    return made


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("issue", "system", "cmdb"), "`--may`: say what the system states"),
        (("issue", "node", "n1", "--may", "force"), "`--may`: a node may do what its work needs"),
        (("issue", "service", "datapath-1"), "`name`: 'datapath-1' names no replica"),
        (("issue", "operator", "operator"), "operator has a credential"),
        (("revoke", "nobody"), "nobody is called nobody"),
        (("init", "--hub", "192.0.2.11"), "holds credentials already"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_mend(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    before = (folder / "register.json").read_bytes()
    assert run(folder, *words) != 0
    assert told in capsys.readouterr().err
    assert (folder / "register.json").read_bytes() == before


@pytest.mark.parametrize("name", ["N1", "n.1", "n1*", "../n1", ""])
def test_names_that_would_break_a_subject_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        run(folder, "issue", "node", name)


@pytest.mark.parametrize("right", ["everything", "policies=", "policies=Shop CI", "policies=compose/shop", "force=me"])
def test_rights_that_nobody_has_are_refused(folder: Path, capsys: pytest.CaptureFixture[str], right: str) -> None:
    with pytest.raises(SystemExit):
        run(folder, "issue", "operator", "ops", "--may", right)
    assert "write workloads, policies, policies=OWNER (a-z, 0-9 and dashes) or force" in capsys.readouterr().err


def test_a_node_of_an_earlier_version_gets_what_it_lacks_when_it_is_rotated(folder: Path) -> None:
    run(folder, "issue", "node", "n1")
    register = folder / "register.json"
    known = json.loads(register.read_text())
    known["holders"] = [one for one in known["holders"] if one["name"] != "n1.docker"]
    register.write_text(json.dumps(known))
    (folder / "nodes/n1/n1.docker.nk").unlink()
    assert run(folder, "rotate", "n1") == 0
    assert (folder / "nodes/n1/n1.docker.nk").exists()
    assert "# n1.docker" in (folder / "nodes/n1/nats.conf").read_text()
    assert run(folder, "rotate", "n1", "--finish") == 0


def test_files_are_given_to_who_needs_them_without_being_root(tmp_path: Path) -> None:
    made = tmp_path / "credentials"
    user = os.getuid() or 5300  # whoever is not root can give files to nobody but itself
    assert run(made, "init", "--hub", "nats", "--user", str(user)) == 0
    assert run(made, "issue", "node", "n1") == 0
    assert run(made, "rotate", "n1") == 0
    theirs = {path.name for path in made.rglob("*") if path.is_file() and path.stat().st_uid == user}
    needed = {"authority.crt", "nats.conf", "hub.crt", "hub.key", "etcd.crt", "etcd.key"}
    needed |= {f"{name}.{kind}" for name in ("identity-1", "policy-1", "n1.ipam") for kind in ("nk", "crt", "key")}
    assert needed <= theirs
    if os.getuid() == 0:
        assert theirs == needed
        copies = [path for path in made.rglob("etcd.*") if path.stat().st_uid == user]
        assert {path.parent.name for path in copies} == {"etcd"}
    assert stat.S_IMODE((made / "nodes/n1").stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*.nk")} == {0o600}


def test_without_init_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "list") == 1
    assert "`fairlead credentials init` makes it" in capsys.readouterr().err


def test_a_broken_register_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "register.json").write_text('{"hosts": 7}')
    assert run(folder, "list") == 2
    assert "register.json cannot be read" in capsys.readouterr().err


def test_secrets_are_readable_for_their_owner_only_and_not_in_the_register(folder: Path) -> None:
    assert run(folder, "issue", "node", "n1") == 0
    secrets = [*folder.rglob("*.nk"), *folder.rglob("*.key"), *folder.rglob("nats.conf")]
    assert len(secrets) == 3 + 6 + 3 + 2 + len(("etcd", "etcd/etcd", "etcd-root", "identity-1", "policy-1", "n1.ipam"))
    assert [path for path in secrets if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    register = (folder / "register.json").read_text()
    assert [path for path in folder.rglob("*.nk") if path.read_text() in register] == []


def test_a_revoked_node_leaves_nothing(folder: Path) -> None:
    run(folder, "issue", "node", "n1")
    run(folder, "issue", "node", "n2")
    assert run(folder, "revoke", "n1") == 0
    assert [path.name for path in (folder / "nodes").iterdir()] == ["n2"]
    assert "n1" not in (folder / "register.json").read_text()


def test_a_node_has_no_right_to_a_subject_of_another() -> None:
    granted = rights.of_node(NodeName("n1"))
    for subject in (*granted.publish, *granted.subscribe):
        assert "*" not in subject
        assert "n2" not in subject
        own = (".n1", "show.v1", "admission.start.v1", ".owned.apply.v1.docker", ".owned.delete.v1.docker")
        assert not subject.startswith("fairlead.") or subject.endswith(own) or ".dead." in subject
    assert not [subject for subject in granted.publish if "admission" in subject]
    written = [subject for subject in granted.publish if ".API.$KV." in subject]
    assert written == ["$JS.hub.API.$KV.claims.n1", "$JS.hub.API.$KV.realised.n1"]


def test_only_who_may_force_can_force() -> None:
    force = "fairlead.cmd.policy.document.forceapply.v1"
    assert force not in rights.of_operator("ops", ("workloads", "policies")).publish
    assert force in rights.of_operator("ops", ("force",)).publish
    assert not [s for s in rights.of_system("cmdb", ("workloads",)).publish if ".policy.document.a" in s]


def test_a_right_to_policies_in_one_name_is_none_to_others() -> None:
    stated = [s for s in rights.of_system("ci", ("policies=shop-ci",)).publish if "cmd.policy" in s]
    assert stated == [
        f"fairlead.cmd.policy.owned.{verb}.v1.shop-ci" for verb in ("apply", "delete", "replace", "rollback")
    ]
    assert not [s for s in rights.of_system("ci", ("policies", "force")).publish if ".owned." in s]
