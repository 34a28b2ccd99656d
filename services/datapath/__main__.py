"""Composition root of the datapath service."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from fairlead.app import App, launch
from services.datapath import host
from services.datapath.kernel.tuning import tuning_of
from services.datapath.masquerade import masquerade_of
from services.datapath.service import Datapath
from services.datapath.settings import DatapathSettings, overlay_of
from services.datapath.store import Store

_SWITCH_S = 0.0005
"""The kernel thread gives the interpreter away at each system call. Until it has it back from a busy event loop takes 5 ms by default, and to
plug an endpoint takes a dozen calls."""
_GARBAGE_AFTER = 20_000
"""A start makes a million objects that stay: to look for garbage among them after every 700, as by default, takes a quarter of its time."""


async def serve(settings: DatapathSettings) -> None:
    """Run until told to end."""
    from services.datapath.kernel.linux import LinuxKernel  # noqa: PLC0415 - bcc is needed on nodes only
    from services.datapath.kernel.survey import Surveyor  # noqa: PLC0415 - same

    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(_GARBAGE_AFTER)
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
        for name, work in datapath.tasks().items():
            app.spawn(name, work)
        await app.serve(datapath.routes())
        await app.run()
    datapath.close()


if __name__ == "__main__":
    launch("datapath", DatapathSettings, serve)
