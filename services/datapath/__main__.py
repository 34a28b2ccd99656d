"""Composition root of the datapath service."""

from __future__ import annotations

from pathlib import Path

from fairlead.app import App, launch
from services.datapath import host, process
from services.datapath.kernel.tuning import tuning_of
from services.datapath.masquerade import masquerade_of
from services.datapath.service import Datapath
from services.datapath.settings import DatapathSettings, overlay_of
from services.datapath.store import Store


async def serve(settings: DatapathSettings) -> None:
    """Run until told to end."""
    from services.datapath.kernel.linux import LinuxKernel  # noqa: PLC0415 - bcc is needed on nodes only
    from services.datapath.kernel.survey import Surveyor  # noqa: PLC0415 - same

    process.prepare()
    uplinks = settings.uplinks or host.uplinks()
    addresses = settings.node_addresses or host.addresses(uplinks)
    async with App("datapath", settings) as app:
        overlay = overlay_of(settings, addresses)
        kernel = LinuxKernel(Path(settings.pin_directory), uplinks, tuning_of(settings), tunnels=overlay)
        store = Store(app.state_dir)
        surveyor = Surveyor(Path(settings.pin_directory), uplinks, overlay)
        datapath = Datapath(
            *(kernel, app.bus, store, settings, app.clock, app.condition),
            addresses=addresses,
            inspector=surveyor,
            overlay=overlay,
            masquerade=masquerade_of(settings, addresses),
        )
        await datapath.begin()
        process.begun()
        for name, work in datapath.tasks().items():
            app.spawn(name, work)
        await app.serve(datapath.routes())
        await app.run()
    datapath.close()


if __name__ == "__main__":
    launch("datapath", DatapathSettings, serve)
