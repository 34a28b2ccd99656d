"""With which credential a process speaks: the file that is named, or in a folder of several the one that is called after it.

A folder, as `fairlead credentials` makes it, serves every process of a machine by one option: `<node>.<service>.nk` for what belongs to a
node (there or in `nodes/<node>`), `<service>-<any>.nk` for replicas of cluster services, who speak with the hub itself and trust its `authority.crt`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from fairlead.config import CommonSettings
from fairlead.errors import InvalidInput


class Credential(NamedTuple):
    """Files: our own seed, and the certificate of the authority that vouches for the server; empty: none."""

    seed_file: str = ""
    authority: str = ""


def credential(settings: CommonSettings, service: str) -> Credential:
    """Return the credential of this process. Raises InvalidInput when there is none for it, several, or one that it may not read."""
    found = Credential(settings.nats_credentials, settings.nats_authority)
    folder = Path(settings.nats_credentials)
    if settings.nats_credentials and folder.is_dir():
        found = _in_folder(folder, settings, service)
    for path in filter(None, found):
        if not os.access(path, os.R_OK):
            raise InvalidInput(
                f"`nats_credentials`: {path} is not there or not for user {os.geteuid()} to read: "
                "`fairlead credentials issue` makes it, `fairlead credentials init --user` says for whom"
            )
    return found


class StoreCredential(NamedTuple):
    """Files with which a process uses etcd; empty: none."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


def store_credential(settings: CommonSettings, service: str) -> StoreCredential:
    """Return the files that are named, else those beside our seed. Raises InvalidInput for a file that is missing or may not be read."""
    found = StoreCredential(settings.etcd_authority, settings.etcd_certificate, settings.etcd_key)
    if bool(found.certificate) != bool(found.key):
        raise InvalidInput("`etcd_certificate`, `etcd_key`: one is of no use without the other: name both files")
    seed = Path(credential(settings, service).seed_file or "none")
    if not any(found) and seed.with_suffix(".crt").exists():
        found = StoreCredential(
            *(str(seed.with_name(name)) for name in ("authority.crt", f"{seed.stem}.crt", f"{seed.stem}.key"))
        )
    for option, path in zip(("etcd_authority", "etcd_certificate", "etcd_key"), found, strict=True):
        if path and not os.access(path, os.R_OK):
            raise InvalidInput(f"`{option}`: {path} is not there, or not for user {os.geteuid()} to read")
    return found


def _in_folder(folder: Path, settings: CommonSettings, service: str) -> Credential:
    own = f"{settings.node}.{service}.nk"
    for path in (folder / own, folder / "nodes" / settings.node / own):
        if path.is_file():
            return Credential(str(path), settings.nats_authority)
    replicas = sorted(folder.glob(f"{service}-*.nk"))
    mine = [path for path in replicas if path.stem == settings.node] or replicas
    if len(mine) != 1:
        held = f"{len(mine)} for replicas of it: name the file" if mine else f"neither {own} nor {service}-*.nk"
        raise InvalidInput(f"`nats_credentials`: {folder} holds {held} (`fairlead credentials issue` makes them)")
    vouching = folder / "authority.crt"
    return Credential(str(mine[0]), settings.nats_authority or (str(vouching) if vouching.is_file() else ""))
