"""The engine's address driver: pools are the node's own prefixes, addresses are leases of the node's ipam.

Nothing is remembered here. A lease's owner is `docker/<address>` where a person chose the address, so that the same address can be had
again at once, and a random name otherwise, so that ipam's quarantine protects it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from clients.docker.node import NodeServices
from clients.docker.protocol import GATEWAY, AddressRequest, PoolRequest, RequestPool
from clients.docker.spares import Stock
from clients.docker.state import PREFIX, State
from fairlead.address import Address, Family, Prefix
from fairlead.errors import Conflict, Exhausted, FairleadError, InvalidInput

_LOG = logging.getLogger("docker.addresses")
GATEWAYS = {Family.IPV4: Address("169.254.1.1"), Family.IPV6: Address("fe80::1")}
"""Whom containers send everything to; no machine has these addresses."""
_POOL = "fairlead/"
_KIND = "RequestAddressType"


class AddressDriver:
    """Answers for pools and addresses."""

    def __init__(self, node: NodeServices, state: State, stock: Stock, new_owner: Callable[[], str]) -> None:
        self._node = node
        self._state = state
        self._stock = stock
        self._new_owner = new_owner

    async def request_pool(self, ask: RequestPool) -> dict[str, object]:
        """Give a network the node's prefix, or the part of it that was asked for. Raises InvalidInput naming the option."""
        if ask.sub_pool:
            raise InvalidInput(f"`--ip-range`: {ask.sub_pool}: addresses come from the whole prefix: leave it out")
        unknown = sorted(set(ask.options or {}))
        if unknown:
            raise InvalidInput(f"`--ipam-opt`: {unknown[0]!r} is unknown, there are none: leave it out")
        wanted = _prefix(ask.pool) if ask.pool else None
        family = wanted.family if wanted else (Family.IPV6 if ask.v6 else Family.IPV4)
        own = next((prefix for prefix in await self._node.prefixes() if prefix.family is family), None)
        if own is None:
            raise InvalidInput(f"`--ipv6`: this node has no prefix of IPv{family.value}: add a pool to FAIRLEAD_POOLS")
        if wanted and wanted not in own:
            raise InvalidInput(
                f"`--subnet`: {wanted} is outside this node's {own}: leave it out, or choose a part of that"
            )
        pool, gateway = wanted or own, GATEWAYS[family]
        return {"PoolID": f"{_POOL}{pool}", "Pool": str(pool), "Data": {GATEWAY: f"{gateway}/{family.bits}"}}

    async def release_pool(self, _ask: PoolRequest) -> dict[str, object]:
        """Nothing is held for a pool."""
        return {}

    async def request_address(self, ask: AddressRequest) -> dict[str, object]:
        """Lease an address. Raises InvalidInput, Conflict, Exhausted, Unavailable."""
        pool = pool_of(ask.pool_id)
        wanted = _address(ask.address, "--ip") if ask.address else None
        if (ask.options or {}).get(_KIND) == GATEWAY:
            return self._gateway(pool.family, wanted)
        if wanted is not None:
            await self._free(wanted, pool)
        elif lent := await self._stock.lend(pool):
            return {"Address": f"{lent}/{lent.family.bits}", "Data": {}}
        owner = f"{PREFIX}{wanted}".rstrip(":") if wanted else f"{PREFIX}{self._new_owner()}"
        address = await self._lease(owner, pool.family, wanted)
        return {"Address": f"{address}/{address.family.bits}", "Data": {}}

    async def _lease(self, owner: str, family: Family, wanted: Address | None) -> Address:
        """Lease an address; the last ones are those of spares."""
        while True:
            try:
                return await self._node.lease(owner, family, wanted)
            except Exhausted:
                if not await self._stock.spend():
                    raise

    def _gateway(self, family: Family, wanted: Address | None) -> dict[str, object]:
        gateway = GATEWAYS[family]
        if wanted not in (None, gateway):
            raise InvalidInput(f"`--gateway`: {wanted}: the gateway is {gateway} in every network: leave it out")
        return {"Address": f"{gateway}/{family.bits}", "Data": {}}

    async def _free(self, wanted: Address, pool: Prefix) -> None:
        """Make sure that nobody uses the address; what a container left that is gone is cleared away."""
        if wanted not in pool:
            raise InvalidInput(f"`--ip`: {wanted} is outside the network's {pool}")
        for other in self._state.holding((wanted,)):
            if other.in_use():
                raise Conflict(
                    f"`--ip`: {wanted} is in use by endpoint {other.id[:12]}: choose another, or stop its container"
                )
        await self._stock.free(wanted)

    async def release_address(self, ask: AddressRequest) -> dict[str, object]:
        """Give an address back. What cannot be done now is done by the sweep: a refusal would leave the engine with half a container."""
        pool, address = pool_of(ask.pool_id), _address(ask.address, "Address")
        if address == GATEWAYS[pool.family]:
            return {}
        if any(other.in_use() for other in self._state.holding((address,))):
            _LOG.warning("%s is given back while a container has it: kept", address)
            return {}
        if await self._stock.give_back(address):
            return {}
        try:
            await self._node.release(address)
        except FairleadError as error:
            _LOG.warning("%s is given back later: %s", address, error.message)
        return {}


def pool_of(pool_id: str) -> Prefix:
    """Return the pool that `request_pool` named so. Raises InvalidInput."""
    if not pool_id.startswith(_POOL):
        raise InvalidInput(f"`PoolID`: {pool_id[:80]!r} is none of ours")
    return _prefix(pool_id.removeprefix(_POOL))


def _prefix(text: str) -> Prefix:
    try:
        return Prefix(text)
    except InvalidInput as error:
        raise InvalidInput(f"`--subnet`: {error.message}") from error


def _address(text: str, option: str) -> Address:
    try:
        return Address(text.partition("/")[0])
    except InvalidInput as error:
        raise InvalidInput(f"`{option}`: {error.message}") from error
