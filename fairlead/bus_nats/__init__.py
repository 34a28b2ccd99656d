"""The bus on NATS: core for requests and flows, JetStream for state and events. The only home of nats-py."""

from fairlead.bus_nats.connection import NatsBus, connect

__all__ = ["NatsBus", "connect"]
