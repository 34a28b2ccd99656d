"""The client of nats-py, which obeys when it is cancelled."""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from fairlead.tasks import attentive


class ObedientClient(Client):
    """Everything that asks the server, JetStream included, goes through the first two; everything that sends, through the third."""

    async def request(self, *args: Any, **options: Any) -> Msg:
        """Ask, as the client does; a cancellation that comes together with the answer counts."""
        return await attentive(super().request(*args, **options))

    async def flush(self, *args: Any, **options: Any) -> None:
        """Wait until the server has everything; a cancellation that comes together with its answer counts."""
        await attentive(super().flush(*args, **options))

    async def _flush_pending(self, *args: Any, **options: Any) -> Any:
        """Hand what is to be sent to the flusher; the client's own drops a cancellation that comes meanwhile."""
        return await attentive(super()._flush_pending(*args, **options))
