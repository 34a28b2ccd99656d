"""`fairlead ipcache`: which identity an address has, as the hub announces it or as one node's kernel holds it."""

from __future__ import annotations

from typing import Any

import msgspec

from clients.cli import command, output
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.address import Address, Prefix
from fairlead.errors import NotFound
from fairlead.schema.base import NodeName
from fairlead.schema.datapath import LOOKUP_ADDRESS, AddressQuery
from fairlead.schema.identity import ADDRESSES
from fairlead.schema.policy import CIDRS


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """One prefix, its identity, and who says so: a node's name, a shard of the externals, or `policy` for named prefixes."""

    prefix: Prefix
    identity: int
    host: str = ""
    name: str = ""
    source: str = ""


async def mappings(session: Session) -> list[Mapping]:
    """Return every prefix that the hub announces, sorted."""
    found = [
        Mapping(prefix=entry.prefix, identity=entry.identity, host=entry.host or "", name=entry.name, source=key)
        for key, group in (await session.rows(ADDRESSES)).items()
        for entry in group.entries
    ]
    named = [row for rows in (await session.rows(CIDRS)).values() for row in rows.rows]
    found += [Mapping(prefix=Prefix(row.prefix), identity=row.identity, source="policy") for row in named]
    return sorted(
        found, key=lambda one: (one.prefix.family, one.prefix.network.network_address.packed, one.prefix.length)
    )


def longest(found: list[Mapping], address: Address) -> Mapping | None:
    """Return the mapping with the longest prefix that holds the address; who names a workload beats who names a prefix."""
    holding = [one for one in found if address in one.prefix]
    return max(holding, key=lambda one: (one.prefix.length, one.source != "policy"), default=None)


async def list_all(session: Session) -> Answer:
    """List all mappings."""
    found = await mappings(session)
    return Answer(found, _table(found))


async def get(session: Session) -> Answer:
    """Show what one address is; with --node, what that node's kernel holds."""
    address = session.options.address
    if session.options.node:
        return await _from_kernel(session, address, NodeName(session.options.node))
    found = longest(await mappings(session), address)
    if found is None:
        raise NotFound(f"{address} has no identity of its own: packets from it count as world (identity 2)")
    return Answer(found, _table([found]))


async def _from_kernel(session: Session, address: Address, node: NodeName) -> Answer:
    found = await session.ask(LOOKUP_ADDRESS, AddressQuery(address=address), node)
    row = (found.node, found.address, found.prefix, found.identity, found.name, output.labels(found.labels))
    return Answer(found, output.table(("NODE", "ADDRESS", "PREFIX", "IDENTITY", "NAME", "LABELS"), [row]))


def _table(found: list[Mapping]) -> str:
    rows: list[tuple[Any, ...]] = [(one.prefix, one.identity, one.host, one.name, one.source) for one in found]
    return output.table(("PREFIX", "IDENTITY", "HOST", "NAME", "SOURCE"), rows)


def register(commands: command.Subcommands) -> None:
    """Declare `ipcache list` and `ipcache get`."""
    group = command.group(commands, "ipcache", "address to identity", "fairlead ipcache get 10.4.0.2 --node n1")
    command.add(group, "list", list_all, "list every address and its identity", "fairlead ipcache list")
    getting = command.add(group, "get", get, "show one address", "fairlead ipcache get 10.4.0.2 --node n1")
    getting.add_argument("address", type=command.address, metavar="ADDRESS")
    command.node_option(getting)
