"""Composition root of the bgp service. BIRD itself is another process (`engine/bird-entrypoint.sh`)."""

from __future__ import annotations

from pathlib import Path

from fairlead.app import App, launch
from fairlead.mirror import Mirror
from fairlead.schema.base import NodeName
from fairlead.schema.ipam import CLAIMS
from services.bgp.engine.bird import Bird
from services.bgp.service import Bgp
from services.bgp.settings import BgpSettings


async def serve(settings: BgpSettings) -> None:
    """Run until told to end. Raises InvalidInput for settings that cannot be."""
    node, speaker = NodeName(settings.node), settings.speaker()
    async with App("bgp", settings) as app:
        bird = Bird(app.state_dir, Path(settings.bgp_run_dir) / "bird.ctl", speaker, app.clock)
        bgp = Bgp(node, speaker, bird, app.clock, app.condition)
        claims = Mirror(
            app.bus.bucket(CLAIMS),
            on_change=bgp.on_claim,
            cache=app.state_dir / "claims",
            clock=app.clock,
            keys={node},
        )
        bgp.begin(claims.rows)
        app.spawn("claims", claims.run)
        app.spawn("announce", bgp.keep)
        await app.serve(bgp.routes())
        await app.run()
        bird.close()


if __name__ == "__main__":
    launch("bgp", BgpSettings, serve)
