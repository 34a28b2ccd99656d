"""Starts the network plugin beside a docker engine."""

from __future__ import annotations

import uuid

from clients.docker import http
from clients.docker.addresses import AddressDriver
from clients.docker.driver import NetworkDriver
from clients.docker.engine import Engine
from clients.docker.follow import Follower, Parts
from clients.docker.labeller import Labeller
from clients.docker.node import NodeServices
from clients.docker.plugin import Plugin
from clients.docker.publish import PortPublisher
from clients.docker.settings import DockerSettings
from clients.docker.spares import Stock
from clients.docker.state import State
from fairlead.app import App, launch
from fairlead.schema.base import NodeName


async def run(settings: DockerSettings) -> None:
    """Serve until told to stop."""
    async with App("docker", settings) as app:
        state = State(app.state_dir)
        state.load()
        node = NodeServices(app.bus, NodeName(settings.node))
        publisher = PortPublisher(state, app.condition)
        labeller = Labeller(app.bus, node, state, settings)
        engine = Engine(settings.docker_engine, settings.driver)
        stock = Stock(node, state, settings.docker_spares, app.clock, lambda: uuid.uuid4().hex[:11])
        parts = Parts(engine, node, state, labeller, publisher, stock)
        follower = Follower(parts, settings, app.clock, app.condition)
        networks = NetworkDriver(node, state, publisher, stock, app.clock.now, follower.wake)
        addresses = AddressDriver(node, state, stock, lambda: uuid.uuid4().hex)
        await publisher.restore()
        server = await http.serve(settings.docker_plugin, Plugin(networks, addresses).answer)
        app.spawn("events", follower.events)
        app.spawn("looks", follower.looks)
        app.spawn("spares", stock.keep)
        await app.run()
        server.close()
        await publisher.close()


if __name__ == "__main__":
    launch("docker", DockerSettings, run)
