"""Configurations of NATS servers in which only holders of credentials speak: one for the hub, one for each node's leaf."""

from __future__ import annotations

import json
from collections.abc import Sequence

from clients.cli.keyring import Holder, Kind, Register, users
from clients.cli.rights import DOMAIN

CLIENT_PORT, LEAF_PORT = 4222, 7422
_MAX_PAYLOAD = "8MB"


def hub_config(register: Register, place: str) -> str:
    """Return the hub's configuration; `place` is where it finds its certificate."""
    tls = f'cert_file: "{place}/hub.crt", key_file: "{place}/hub.key"'
    return (
        "# Made by `fairlead credentials`: changes are lost. The hub reads it again on SIGHUP.\n"
        f'server_name: hub\nlisten: "0.0.0.0:{CLIENT_PORT}"\nhttp: "127.0.0.1:8222"\nmax_payload: {_MAX_PAYLOAD}\n'
        f"tls {{ {tls} }}\n"
        f'jetstream {{ domain: {DOMAIN}, store_dir: "{register.store}", sync_interval: always }}\n'
        f'leafnodes {{ listen: "0.0.0.0:{LEAF_PORT}", tls {{ {tls} }} }}\n'
        + users(holder for holder in register.holders if not holder.node)
    )


def leaf_config(register: Register, node: str, seed: bytes, place: str) -> str:
    """Return a node's configuration; it holds the seed with which the leaf tells the hub who it is."""
    holders = [holder for holder in register.holders if holder.node == node]
    return (
        "# Made by `fairlead credentials`: changes are lost. It holds a secret.\n"
        f'server_name: {node}\nlisten: "127.0.0.1:{CLIENT_PORT}"\nmax_payload: {_MAX_PAYLOAD}\n'
        f'leafnodes {{ reconnect: "1s", remotes: [ {{\n'
        f"  urls: {json.dumps(_urls(register.hosts))}\n"
        f'  nkey: {seed.decode()}\n  tls {{ ca_file: "{place}/authority.crt" }}\n}} ] }}\n' + users(holders)
    )


def _urls(hosts: Sequence[str]) -> list[str]:
    return [f"tls://[{host}]:{LEAF_PORT}" if ":" in host else f"tls://{host}:{LEAF_PORT}" for host in hosts]


def nodes(register: Register) -> list[Holder]:
    """Return the nodes."""
    return [holder for holder in register.holders if holder.kind is Kind.NODE]
