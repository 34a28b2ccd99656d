"""Who may do what in etcd: users, known by the names in their certificates, and roles.

Nobody needs a password: etcd wants one for each user, so it gets one that nobody knows. Users whose names have a slash are ours, and go
when they are not wanted any more; others are left alone.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, NamedTuple, TypeVar

import grpc.aio

from fairlead import etcd_messages as messages
from fairlead.errors import FairleadError
from fairlead.etcd_link import Link, Tls

from etcd3 import etcdrpc  # isort: skip - importable only after etcd_messages

T = TypeVar("T")
ROOT = "root"
"""The user, and the role, that may do everything; etcd's own name."""
_READ, _READ_WRITE = 0, 2  # authpb.Permission.Type


class Permission(NamedTuple):
    """A prefix of keys that a role may read, and perhaps write."""

    prefix: str
    writes: bool = False


class EtcdAccess:
    """Speaks with one etcd as its root."""

    def __init__(self, url: str, tls: Tls | None, timeout_s: float = 10.0) -> None:
        self._link = Link(url, tls)
        self._timeout_s = timeout_s

    async def close(self) -> None:
        """End the connection."""
        await self._link.channel.close()

    async def ensure(
        self, users: Mapping[str, str], roles: Mapping[str, tuple[Permission, ...]]
    ) -> AsyncGenerator[str, None]:
        """Make etcd know just these users (name to role) and roles, and ask everybody who they are; yield each change.

        Raises Denied when etcd asks already and we are not its root, Unavailable.
        """
        known = set((await self._ask("RoleList", etcdrpc.AuthRoleListRequest())).roles)
        for role in [*roles, ROOT]:
            if role not in known:
                await self._ask("RoleAdd", etcdrpc.AuthRoleAddRequest(name=role))
                yield f"role {role} added"
            async for said in self._permit(role, roles.get(role, ())):
                yield said
        async for said in self._ensure_users({**users, ROOT: ROOT}):
            yield said
        await self._ask("AuthEnable", etcdrpc.AuthEnableRequest())

    async def _permit(self, role: str, wanted: tuple[Permission, ...]) -> AsyncGenerator[str, None]:
        """Give the role these permissions and no others."""
        if role == ROOT:
            return
        asked = {_range(one.prefix): _READ_WRITE if one.writes else _READ for one in wanted}
        asked[b"\0", b""] = _READ  # the question whether a revision is still known (kv_etcd)
        answer = await self._ask("RoleGet", etcdrpc.AuthRoleGetRequest(role=role))
        given = {(one.key, one.range_end): one.permType for one in answer.perm}
        for first, last in given.keys() - asked.keys():
            request = etcdrpc.AuthRoleRevokePermissionRequest(role=role, key=first, range_end=last)
            await self._ask("RoleRevokePermission", request)
            yield f"role {role} has no right to {first.decode(errors='replace')} any more"
        for (first, last), kind in asked.items():
            if given.get((first, last)) != kind:
                grant = etcdrpc.AuthRoleGrantPermissionRequest(name=role)
                grant.perm.key, grant.perm.range_end, grant.perm.permType = first, last, kind
                await self._ask("RoleGrantPermission", grant)
                yield f"role {role} may {'write' if kind == _READ_WRITE else 'read'} {first.decode()!r}"

    async def _ensure_users(self, wanted: Mapping[str, str]) -> AsyncGenerator[str, None]:
        known = set((await self._ask("UserList", etcdrpc.AuthUserListRequest())).users)
        for name in sorted(known - wanted.keys()):
            if "/" in name:
                await self._ask("UserDelete", etcdrpc.AuthUserDeleteRequest(name=name))
                yield f"user {name} removed"
        for name, role in wanted.items():
            if name not in known:
                request = etcdrpc.AuthUserAddRequest(name=name, password=secrets.token_urlsafe(32))
                await self._ask("UserAdd", request)
                yield f"user {name} added"
            roles = (await self._ask("UserGet", etcdrpc.AuthUserGetRequest(name=name))).roles
            if role not in roles:
                await self._ask("UserGrantRole", etcdrpc.AuthUserGrantRoleRequest(user=name, role=role))

    async def _ask(self, call: str, request: object) -> Any:
        stub: Any = getattr(self._link.auth, call)
        return await self._answer(stub(request, timeout=self._timeout_s))

    async def _answer(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            failed: FairleadError = self._link.failure(error)
            raise failed from error


def _range(prefix: str) -> tuple[bytes, bytes]:
    first, last = messages.bounds(prefix)
    return bytes(first), bytes(last)
