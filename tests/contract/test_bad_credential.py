"""A credential's file that cannot be used is named, and used once it is mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlead.bus_nats import connect
from fairlead.errors import Unavailable
from fairlead.schema.ipam import CLAIMS
from tests.support.nats import NatsServer


@pytest.mark.connected
@pytest.mark.parametrize("text", ["garbage\n", "", "SUAAAA", "SU" + "!" * 56])
async def test_a_file_that_is_no_credential_is_named(tmp_path: Path, text: str) -> None:
    server = NatsServer(tmp_path).start()
    seed = tmp_path / "x.nk"
    seed.write_text(text)
    try:
        async with connect(server.url, name="x", seed_file=str(seed)) as bus:
            with pytest.raises(Unavailable, match=r"x\.nk is no credential"):
                await bus.bucket(CLAIMS).ensure()
    finally:
        server.kill()
