"""`fairlead credentials`: who may speak on the bus, and what. Works on a folder; no server needs to run."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from clients.cli import authority, credentials_etcd, rights, servers
from clients.cli.command import Subcommands, add, group, node_name
from clients.cli.files import write_secret
from clients.cli.keyring import Holder, Issued, Keyring, Kind, Register, finish, issue, rights_of, rotate
from clients.cli.output import Answer, table
from fairlead.clock import SYSTEM
from fairlead.errors import Conflict, InvalidInput
from fairlead.schema.base import NAME

_FOLDER = "/etc/fairlead/credentials"
_OPERATOR_MAY = ("workloads", "policies", f"{rights.OF_OWNER}compose")
"""What the first operator may state unless `init` is told otherwise; `compose` owns what `fairlead compose` states."""
_RELOAD = "have the hub read its configuration again: `docker compose kill -s HUP nats`, or SIGHUP to nats-server"
_STORE = "have the store know too: `fairlead credentials etcd --url https://HUB:2379`"
_RESTART = "restart the hub (`docker compose restart nats`): a node that is connected outlives a mere reload"


def register(subcommands: Subcommands) -> None:
    """Declare the commands."""
    commands = group(subcommands, "credentials", "who may speak on the bus", "fairlead credentials issue node n1")
    init = _command(
        commands, "init", _init, "make the fleet's authority and the first credentials", "init --hub 192.0.2.10"
    )
    _servers(init)
    _grants(init)
    issuing = _command(commands, "issue", _issue, "give somebody a credential", "issue node n1")
    issuing.add_argument("kind", choices=[kind.value for kind in Kind])
    issuing.add_argument("name", type=node_name, help="a-z, 0-9 and dashes; of a replica: policy-1, identity-2")
    _grants(issuing)
    revoking = _command(commands, "revoke", _revoke, "take a credential away", "revoke cmdb")
    revoking.add_argument("name")
    rotating = _command(commands, "rotate", _rotate, "give new keys; the old ones count until --finish", "rotate n1")
    rotating.add_argument("name")
    rotating.add_argument("--finish", action="store_true", help="the new keys are in use everywhere: drop the old ones")
    _command(commands, "list", _list, "show who has a credential", "list")
    store = _command(
        commands, "etcd", _etcd, "have the store ask who its users are", "etcd --url https://192.0.2.10:2379"
    )
    credentials_etcd.options(store)
    showing = _command(commands, "show", _show, "show what a credential may do", "show n1.datapath")
    showing.add_argument("name")


def _servers(init: argparse.ArgumentParser) -> None:
    """Declare where servers are, and where and as whom they find their files."""
    init.add_argument(
        "--hub", action="append", required=True, metavar="HOST", help="name or address of the hub; repeat for more"
    )
    init.add_argument("--hub-store", default="/data", metavar="PATH", help="where the hub keeps its messages (/data)")
    init.add_argument(
        "--place",
        default="/etc/nats",
        metavar="PATH",
        help="where servers find their folder (/etc/nats); '' means where it is made",
    )
    init.add_argument(
        "--tree",
        default="",
        metavar="PATH",
        help="where every server finds this folder or its part of it, for instance /etc/fairlead/credentials in containers",
    )
    init.add_argument(
        "--user",
        type=int,
        default=0,
        metavar="NUMBER",
        help="as whom hub, leaves, cluster services and ipam run (5300 in containers): their files are given to that user",
    )


def _command(commands: Subcommands, name: str, run: object, summary: str, example: str) -> argparse.ArgumentParser:
    parser = add(commands, name, run, summary, f"fairlead credentials {example}")  # type: ignore[arg-type] # needs no bus
    parser.set_defaults(bus=False)
    folder = os.environ.get("FAIRLEAD_CREDENTIALS_DIR", _FOLDER)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(folder),
        help=f"folder of the credentials (FAIRLEAD_CREDENTIALS_DIR, {_FOLDER})",
    )
    return parser


def _grants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--may",
        action="append",
        type=_intent,
        metavar="WHAT",
        help="systems and operators: workloads, policies, policies=OWNER (in this owner's name only), force",
    )


def _intent(text: str) -> str:
    """Return what somebody may state, checked: an owner becomes part of a subject."""
    owner = text.removeprefix(rights.OF_OWNER)
    if text in rights.INTENTS or (owner != text and re.fullmatch(NAME, owner)):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: write workloads, policies, {rights.OF_OWNER}OWNER (a-z, 0-9 and dashes) or force"
    )


def _init(options: argparse.Namespace) -> Answer:
    ring = Keyring(options.dir)
    if (options.dir / "register.json").exists():
        raise Conflict(f"{options.dir} holds credentials already: `issue`, `rotate` or `revoke` change them")
    now = SYSTEM.now()
    places = {"store": options.hub_store, "place": options.place, "tree": options.tree.rstrip("/")}
    register = Register(hosts=tuple(options.hub), user=options.user, **places)
    made = Issued(register, {})
    for service in rights.CLUSTER_SERVICES:
        made = _also(made, issue(made.register, f"{service}-1", Kind.SERVICE, now, service=service))
    made = _also(made, issue(made.register, "operator", Kind.OPERATOR, now, options.may or _OPERATOR_MAY))
    authority.make_authority(options.dir, now)
    authority.make_server(options.dir, "hub", "Fairlead hub", options.hub, now)
    ring.save(made.register, made.seeds)
    credentials_etcd.make_certificates(ring, made.register)
    return _written(options, ring, made.register, f"{options.dir}: authority, hub, identity-1, policy-1, operator")


def _also(before: Issued, after: Issued) -> Issued:
    return Issued(after.register, {**before.seeds, **after.seeds})


def _issue(options: argparse.Namespace) -> Answer:
    ring, kind = Keyring(options.dir), Kind(options.kind)
    service = _service_of(options.name) if kind is Kind.SERVICE else ""
    if options.may and kind not in {Kind.SYSTEM, Kind.OPERATOR}:
        raise InvalidInput(f"`--may`: a {kind} may do what its work needs, no more and no less: leave it out")
    if kind is Kind.SYSTEM and not options.may:
        raise InvalidInput(
            "`--may`: say what the system states: workloads, policies, policies=OWNER, force (repeat for several)"
        )
    made = issue(ring.load(), options.name, kind, SYSTEM.now(), options.may or (), service)
    ring.save(made.register, made.seeds)
    seeds = [str(ring.seed_file(made.register.find(name))) for name in sorted(made.seeds)]
    return _written(options, ring, made.register, "\n".join(seeds))


def _service_of(name: str) -> str:
    service = name.partition("-")[0]
    if service not in rights.CLUSTER_SERVICES:
        raise InvalidInput(
            f"`name`: {name!r} names no replica: write identity-2 or policy-2 (services of a node come with `issue node`)"
        )
    return service


def _revoke(options: argparse.Namespace) -> Answer:
    ring = Keyring(options.dir)
    register = ring.load()
    gone, left = register.parts(options.name), register.without(options.name)
    ring.save(left, {})
    ring.forget(gone)
    if gone[0].kind is Kind.NODE:
        shutil.rmtree(ring.node_folder(options.name), ignore_errors=True)
    said = "revoked " + ", ".join(holder.name for holder in gone)
    return _written(options, ring, left, said, _RESTART if gone[0].kind is Kind.NODE else _RELOAD)


def _rotate(options: argparse.Namespace) -> Answer:
    ring = Keyring(options.dir)
    if options.finish:
        register = finish(ring.load(), options.name)
        ring.save(register, {})
        next_step = _RESTART if register.find(options.name).kind is Kind.NODE else _RELOAD
        return _written(options, ring, register, f"only the newest keys of {options.name} count", next_step)
    made = rotate(ring.load(), options.name, SYSTEM.now())
    ring.save(made.register, made.seeds)
    return _written(
        options, ring, made.register, f"new keys for {', '.join(sorted(made.seeds))}; the old ones count until --finish"
    )


def _written(
    options: argparse.Namespace, ring: Keyring, register: Register, said: str, next_step: str = _RELOAD
) -> Answer:
    """Write the servers' configurations anew, and say what is to be done with them."""
    hub = options.dir / "hub"
    write_secret(hub / "nats.conf", servers.hub_config(register, register.place_of(hub, "hub")).encode())
    for name in ("hub.crt", "hub.key"):
        write_secret(hub / name, (options.dir / name).read_bytes())
    for node in servers.nodes(register):
        folder = ring.node_folder(node.name)
        place = register.place_of(folder, f"nodes/{node.name}")
        config = servers.leaf_config(register, node.name, ring.seed_file(node).read_bytes(), place)
        write_secret(folder / "nats.conf", config.encode())
        write_secret(folder / "authority.crt", (options.dir / "authority.crt").read_bytes())
    if credentials_etcd.has_certificates(options.dir):
        credentials_etcd.make_certificates(ring, register)
        next_step = f"{next_step}\n{_STORE}"
    ring.hand_over(register)
    return Answer(
        {"folder": str(options.dir), "holders": [one.name for one in register.holders]}, f"{said}\n{next_step}"
    )


def _etcd(options: argparse.Namespace) -> Answer:
    ring = Keyring(options.dir)
    if not credentials_etcd.has_certificates(options.dir):
        credentials_etcd.make_certificates(ring, ring.load())
        ring.hand_over(ring.load())
    return credentials_etcd.apply(options)


def _list(options: argparse.Namespace) -> Answer:
    holders = Keyring(options.dir).load().holders
    rows = [(one.name, one.kind, ",".join(one.may) or "-", f"{one.issued:%Y-%m-%d}", _keys(one)) for one in holders]
    value = [
        {"name": one.name, "kind": one.kind, "may": one.may, "issued": one.issued.isoformat(), "keys": one.keys}
        for one in holders
    ]
    return Answer(value, table(("NAME", "KIND", "MAY", "ISSUED", "KEYS"), rows))


def _keys(holder: Holder) -> str:
    return holder.keys[0][:12] + ("  (an older one counts too)" if len(holder.keys) > 1 else "")


def _show(options: argparse.Namespace) -> Answer:
    granted = rights_of(Keyring(options.dir).load().find(options.name))
    text = "\n".join((*_listed("publish", granted.publish), *_listed("subscribe", granted.subscribe)))
    return Answer({"publish": granted.publish, "subscribe": granted.subscribe}, text)


def _listed(verb: str, subjects: Iterable[str]) -> list[str]:
    return [f"{verb:<10} {subject}" for subject in subjects]
