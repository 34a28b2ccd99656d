"""Options: one per environment variable or per file, checked once at start.

An option `claim_lengths` is read from the variable `FAIRLEAD_CLAIM_LENGTHS`, else from the file `claim-lengths` in the folder that
`FAIRLEAD_CONFIG_DIR` names (so that configuration management can own options one by one), else its default holds. Lists are
separated by commas; files with other names belong to other services.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fairlead.address import Address, Prefix
from fairlead.errors import InvalidInput

_PREFIX = "FAIRLEAD_"
STATE_DIR = "/var/lib/fairlead"
"""The default of the option `state_dir`."""


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs to know."""

    node: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """This node, or for cluster services the name of this instance: a-z, 0-9, dashes."""
    cluster: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")] = "default"
    nats: str = "nats://127.0.0.1:4222"
    """Where the nearest NATS server (on nodes: the leaf) listens."""
    nats_domain: str = ""
    """The JetStream domain of the hub; empty when the server we connect to has JetStream itself."""
    nats_credentials: str = ""
    """File with the nkey seed of this service, called by the credential's name, or a folder in which it is; empty: none."""
    nats_authority: str = ""
    """File with the certificate of the authority that vouches for the server; empty: no TLS (on a node the leaf is on the loopback)."""
    etcd: str = "http://127.0.0.1:2379"
    etcd_authority: str = ""
    """File with the certificate of the authority that vouches for etcd; empty: the one beside our own seed, if certificates are there."""
    etcd_certificate: str = ""
    """File with our certificate for etcd, and `etcd_key` with its key; empty: the ones beside our seed, if they are there."""
    etcd_key: str = ""
    etcd_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    state_dir: str = STATE_DIR
    """What must survive a restart; each service uses a folder of its own name in it."""
    log_level: Annotated[str, Meta(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    syslog: str = ""
    """Where logs go beside stderr, as RFC 5424: udp://HOST:514, tcp://HOST:601 or unix:///dev/log; empty: nowhere."""


S = TypeVar("S", bound=CommonSettings)


def load(kind: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Return the settings from environment and files. Raises InvalidInput naming the option and where it came from."""
    env = os.environ if environ is None else environ
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    folder = env.get(_PREFIX + "CONFIG_DIR", "")
    texts = {**(_from_files(Path(folder), fields) if folder else {}), **_from_environment(env, fields)}
    values = {name: (_plain(text, fields[name].type), origin) for name, (text, origin) in texts.items()}
    return _convert(kind, values)


def _from_environment(env: Mapping[str, str], names: Iterable[str]) -> dict[str, tuple[str, str]]:
    found = {name: _PREFIX + name.upper() for name in names}
    return {name: (env[variable], variable) for name, variable in found.items() if variable in env}


def _from_files(folder: Path, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    if not folder.is_dir():
        raise InvalidInput(f"FAIRLEAD_CONFIG_DIR: {folder} is not a folder: make it, or unset the variable")
    known = {name.replace("_", "-"): name for name in names}
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name in known]
        return {known[path.name]: (path.read_text().strip(), str(path)) for path in files}
    except OSError as error:
        mend = f"let the user {os.geteuid()} read it"
        raise InvalidInput(f"FAIRLEAD_CONFIG_DIR: {error.filename}: {error.strerror}: {mend}") from error


def _plain(text: str, kind: Any) -> Any:
    """Return a list for tuple options, else the text itself; numbers are read from text by the conversion."""
    if msgspec.inspect.type_info(kind).__class__.__name__ in ("VarTupleType", "TupleType", "ListType"):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(kind: type[S], values: Mapping[str, tuple[Any, str]]) -> S:
    for name, (value, origin) in values.items():
        field_type = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
        try:
            msgspec.convert(value, field_type, strict=False, dec_hook=_hook)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{origin}={value!r}: {error}") from error
    try:
        return msgspec.convert({n: v for n, (v, _) in values.items()}, kind, strict=False, dec_hook=_hook)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{error}: set FAIRLEAD_<OPTION> or the file in FAIRLEAD_CONFIG_DIR") from error


def _hook(kind: type, value: object) -> object:
    if kind in (Address, Prefix) and isinstance(value, str):
        try:
            return kind(value)
        except InvalidInput as error:
            raise ValueError(error.message) from error
    raise NotImplementedError(f"no option type {kind.__name__}")
