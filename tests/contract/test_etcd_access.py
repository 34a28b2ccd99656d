"""Who may do what in the store, on a real etcd: with the folder that `fairlead credentials` makes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from clients.cli.__main__ import main
from fairlead.config import CommonSettings
from fairlead.credential import store_credential
from fairlead.errors import Denied, FairleadError, InvalidInput
from fairlead.etcd_link import Tls
from fairlead.kv import Put
from fairlead.kv_etcd import EtcdKv
from tests.support.etcd import EtcdServer

pytestmark = pytest.mark.connected
THEIRS = {
    "identity-1": ("cilium/state/ip/v1/default/10.0.0.1", "fairlead/endpoints/n1/a"),
    "policy-1": (
        "fairlead/policies/cnp/_/a",
        "fairlead/policy-leader",
        "fairlead/policy-history/a",
        "fairlead/cidrs/a",
    ),
    "n1.ipam": ("fairlead/claims/10.0.0.0_24",),
}


def credentials(folder: Path, *words: str) -> int:
    return main(["credentials", words[0], "--dir", str(folder), *words[1:]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "credentials"
    assert credentials(made, "init", "--hub", "127.0.0.1") == 0
    assert credentials(made, "issue", "node", "n1") == 0
    return made


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[EtcdServer]:
    made = EtcdServer(tmp_path / "data", folder)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def tls(folder: Path, name: str) -> Tls:
    """What a service of that name finds when it is told of the folder alone."""
    node, _, service = name.partition(".") if "." in name else (name, "", name.partition("-")[0])
    files = store_credential(CommonSettings(node=node, nats_credentials=str(folder)), service)
    return Tls(*map(Path, files))


async def _outcome(server: EtcdServer, with_tls: Tls | None, key: str) -> str:
    """Write a key and read it; return which error came, or nothing."""
    kv = EtcdKv(server.url, tls=with_tls, timeout_s=3)
    try:
        await kv.commit((), (Put(key, b"x"),))
        assert await kv.get(key)
        async with aclosing(kv.watch(key, 0)) as changes:
            assert (await anext(changes))[0].key == key
    except FairleadError as error:
        return type(error).__name__
    finally:
        await kv.close()
    return ""


def outcome(server: EtcdServer, with_tls: Tls | None, key: str) -> str:
    return asyncio.run(_outcome(server, with_tls, key))


def ask_everybody(folder: Path, server: EtcdServer) -> None:
    assert credentials(folder, "etcd", "--url", server.url) == 0


@pytest.mark.parametrize("asked", [False, True], ids=["certificates alone", "with rights"])
def test_without_a_certificate_of_the_fleet_nobody_is_heard(
    folder: Path, server: EtcdServer, tmp_path: Path, asked: bool
) -> None:
    if asked:
        ask_everybody(folder, server)
    other = tmp_path / "others"
    assert credentials(other, "init", "--hub", "127.0.0.1") == 0
    stranger = tls(other, "policy-1")
    for found in (None, Tls(folder / "authority.crt"), Tls(folder / "authority.crt", *stranger[1:])):
        assert outcome(server, found, "fairlead/policies/cnp/_/a") == "Unavailable"
    assert outcome(server, tls(folder, "policy-1"), "fairlead/policies/cnp/_/a") == ""


def test_everybody_writes_their_own_keys_and_no_others(folder: Path, server: EtcdServer) -> None:
    ask_everybody(folder, server)
    for name in THEIRS:
        for owner, keys in THEIRS.items():
            for key in (*keys, "fairlead/something"):
                expected = "" if owner == name and key in keys else "Denied"
                assert (name, key, outcome(server, tls(folder, name), key)) == (name, key, expected)


def test_policy_reads_what_identity_keeps(folder: Path, server: EtcdServer) -> None:
    ask_everybody(folder, server)

    async def story() -> None:
        kv = EtcdKv(server.url, tls=tls(folder, "policy-1"))
        assert (await kv.list("cilium/state/identities/v1/id/")).items == ()
        with pytest.raises(Denied, match="permission denied: `fairlead credentials etcd"):
            await kv.list("fairlead/claims/")
        await kv.close()

    asyncio.run(story())


def test_a_rotation_counts_and_the_old_one_ends_with_it(folder: Path, server: EtcdServer, tmp_path: Path) -> None:
    ask_everybody(folder, server)
    old = Tls(*(tmp_path / name for name in ("a", "old.crt", "old.key")))
    for before, after in zip(tls(folder, "n1.ipam"), old, strict=True):
        assert before is not None is not after
        after.write_bytes(before.read_bytes())
    key = THEIRS["n1.ipam"][0]
    assert credentials(folder, "rotate", "n1") == 0
    ask_everybody(folder, server)
    assert [outcome(server, one, key) for one in (old, tls(folder, "n1.ipam"))] == ["", ""]
    assert credentials(folder, "rotate", "n1", "--finish") == 0
    ask_everybody(folder, server)
    assert [outcome(server, one, key) for one in (old, tls(folder, "n1.ipam"))] == ["Denied", ""]


def test_who_is_revoked_is_nobody_and_people_of_others_stay(folder: Path, server: EtcdServer) -> None:
    ask_everybody(folder, server)
    found = tls(folder, "n1.ipam")
    kept = Tls(folder / "authority.crt", folder / "kept.crt", folder / "kept.key")
    for before, after in zip(found[1:], kept[1:], strict=True):
        assert before is not None is not after
        after.write_bytes(before.read_bytes())
    server.ctl("user", "add", "backup", "--no-password")
    assert credentials(folder, "revoke", "n1") == 0
    ask_everybody(folder, server)
    assert outcome(server, kept, THEIRS["n1.ipam"][0]) == "Denied"
    assert server.ctl("user", "list").split()[0] == "backup"


def test_a_repetition_changes_nothing(folder: Path, server: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    ask_everybody(folder, server)
    capsys.readouterr()
    ask_everybody(folder, server)
    assert capsys.readouterr().out == f"{server.url} asks everybody who they are\n"


def test_a_folder_of_an_earlier_version_gets_certificates(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (
        *folder.glob("etcd*.*"),
        *(folder / "etcd").iterdir(),
        *folder.rglob("*-1.crt"),
        *folder.rglob("*.ipam.crt"),
    ):
        path.unlink()
    (folder / "etcd").rmdir()
    assert store_credential(CommonSettings(node="n1", nats_credentials=str(folder)), "ipam") == ("", "", "")
    assert credentials(folder, "rotate", "n1") == 0, (
        "which makes none by the way: a plain etcd would not understand TLS"
    )
    assert not list(folder.rglob("*.ipam.crt"))
    assert credentials(folder, "etcd") != 0
    assert "--url" in capsys.readouterr().err
    assert all(path and path.is_file() for name in THEIRS for path in tls(folder, name))


def test_a_file_that_is_missing_is_named(folder: Path) -> None:
    settings = CommonSettings(node="n1", etcd_certificate="/nowhere/a.crt", etcd_key="/nowhere/a.key")
    with pytest.raises(InvalidInput, match=r"`etcd_certificate`: /nowhere/a\.crt is not there"):
        store_credential(settings, "ipam")
    with pytest.raises(InvalidInput, match="one is of no use without the other"):
        store_credential(CommonSettings(node="n1", etcd_key="/nowhere/a.key"), "ipam")


def test_an_etcd_that_is_away_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert credentials(folder, "etcd", "--url", "https://127.0.0.1:1") != 0
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert credentials(folder, "etcd", "--url", "https://127.0.0.1:1,https://127.0.0.1:2") != 0
    assert "`--url`: name one member" in capsys.readouterr().err
