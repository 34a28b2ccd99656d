"""Who may do what in the store: certificates for those who use it, and `fairlead credentials etcd`.

The name in a certificate is the holder's with the beginning of its public key, so whatever counts on the bus counts in the store: after
a rotation both names do, until it is finished; after `revoke` none.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from clients.cli import authority
from clients.cli.files import write_secret
from clients.cli.keyring import Holder, Keyring, Register
from clients.cli.output import Answer
from fairlead.clock import SYSTEM
from fairlead.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from fairlead.etcd_access import Permission

SERVER, ROOT = "etcd", "etcd-root"
"""Names of files in the folder: the server's certificate, and that of who may do everything."""
_KEY_CHARACTERS = 12
_OTHER_NAMES = ("etcd", "localhost", "127.0.0.1")


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fairlead credentials etcd`."""
    parser.add_argument(
        "--url",
        default="",
        metavar="URL",
        help="have the etcd there ask everybody who they are (https://192.0.2.10:2379)",
    )
    parser.add_argument(
        "--identity-prefix", default="cilium", metavar="PREFIX", help="where identity keeps its keys (cilium)"
    )


def permissions(identity_prefix: str) -> dict[str, tuple[Permission, ...]]:
    """Return what each service may do with which keys; policy reads what identity keeps."""
    from fairlead.etcd_access import Permission  # noqa: PLC0415 - gRPC costs every command a third of a second

    return {
        "identity": (
            Permission(f"{identity_prefix}/", writes=True),
            *(Permission(f"fairlead/{name}/", writes=True) for name in ("endpoints", "externals")),
        ),
        "policy": (
            Permission(f"{identity_prefix}/state/"),
            *(
                Permission(f"fairlead/{name}", writes=True)
                for name in ("policies/", "policy-", "cidrs/", "cidr-numbers/")
            ),
        ),
        "ipam": (Permission("fairlead/claims/", writes=True),),
    }


def role_of(holder: Holder) -> str:
    """Return the role that a holder has in the store; empty: it does not use the store."""
    return holder.service or ("ipam" if holder.node and holder.name == f"{holder.node}.ipam" else "")


def users(register: Register) -> dict[str, str]:
    """Return the roles by the names that count in the store: one for each key that counts on the bus."""
    return {
        _subject(holder, key): role for holder in register.holders if (role := role_of(holder)) for key in holder.keys
    }


def _subject(holder: Holder, key: str) -> str:
    return f"{holder.name}/{key[:_KEY_CHARACTERS]}"


def has_certificates(folder: Path) -> bool:
    """Tell whether the store of this fleet asks who its users are; folders of earlier versions know nothing of it."""
    return (folder / f"{SERVER}.crt").exists()


def make_certificates(ring: Keyring, register: Register) -> None:
    """Make the store's and root's certificates if they are missing, those of holders whose key is another, and the folder `etcd/`."""
    now, folder = SYSTEM.now(), ring.folder
    if not has_certificates(folder):
        authority.make_client(folder, folder / ROOT, "root", now)
        authority.make_server(
            folder, SERVER, "Fairlead etcd", tuple(dict.fromkeys((*register.hosts, *_OTHER_NAMES))), now
        )
    for holder in register.holders:
        subject, path = _subject(holder, holder.keys[0]), ring.certificate(holder)
        if role_of(holder) and authority.subject_of(path) != subject:
            authority.make_client(folder, path.with_suffix(""), subject, now)
    for name in (f"{SERVER}.crt", f"{SERVER}.key", "authority.crt"):
        write_secret(folder / "etcd" / name, (folder / name).read_bytes())


def apply(asked: argparse.Namespace) -> Answer:
    """Have the store know who may do what, and ask everybody who they are."""
    ring = Keyring(asked.dir)
    register = ring.load()
    if not asked.url:
        raise InvalidInput(
            f"`--url`: certificates are made ({asked.dir}); name the etcd that shall ask for them, once it was started with {asked.dir}/etcd"
        )
    if "," in asked.url:
        raise InvalidInput("`--url`: name one member of etcd: the others learn it from that one")
    if not (asked.dir / f"{ROOT}.key").exists():
        raise NotFound(f"{asked.dir / ROOT}.key is not there: do this where credentials are made")
    changes = asyncio.run(_ensure(asked, register))
    return Answer(
        {"url": asked.url, "changes": changes}, "\n".join([*changes, f"{asked.url} asks everybody who they are"])
    )


async def _ensure(asked: argparse.Namespace, register: Register) -> list[str]:
    from fairlead.etcd_access import EtcdAccess  # noqa: PLC0415 - as above
    from fairlead.etcd_link import Tls  # noqa: PLC0415

    folder: Path = asked.dir
    access = EtcdAccess(asked.url, Tls(folder / "authority.crt", folder / f"{ROOT}.crt", folder / f"{ROOT}.key"))
    try:
        async with aclosing(access.ensure(users(register), permissions(asked.identity_prefix))) as changes:
            return [said async for said in changes]
    finally:
        await access.close()
