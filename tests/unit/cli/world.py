"""Two nodes and a policy service, small enough to read at a glance, that answer the commands over any bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from clients.cli.__main__ import parser
from clients.cli.output import Answer
from clients.cli.session import Session
from fairlead.address import Address, Prefix
from fairlead.bus import Bus, Route, route
from fairlead.bus_memory import Hub, MemoryBus
from fairlead.clock import ManualClock
from fairlead.errors import Exhausted, FairleadError
from fairlead.schema import BUCKETS, bgp, datapath, features, health, held, identity, ipam, metrics, nat, policy
from fairlead.schema import flow as flow_schema
from fairlead.schema.base import BucketSpec, Empty, EndpointId, IdentityId, NodeName
from tests.unit.cli.policies import DB, N1, N2, NOW, Policies

__all__ = ["DB", "EMPLOYEE", "INTERN", "LABELS", "N1", "N2", "NOW", "RULE", "Node", "World", "end", "flow"]

EMPLOYEE, INTERN = IdentityId(1001), IdentityId(1002)
RULE = "CiliumNetworkPolicy default/clustermesh-ingress-l4-policy ingress[0]"
LABELS = {EMPLOYEE: ("container:app=employee",), INTERN: ("container:app=intern",), DB: ("container:app=protected-db",)}


def flow(
    uuid: str, verdict: flow_schema.Verdict, at_s: float, source: flow_schema.FlowEnd, port: int = 6379
) -> flow_schema.Flow:
    dropped = verdict is flow_schema.Verdict.DROPPED
    return flow_schema.Flow(
        uuid=uuid,
        time=NOW - timedelta(seconds=at_s),
        node_name=N2,
        verdict=verdict,
        traffic_direction="INGRESS",
        protocol="TCP",
        source=source,
        destination=flow_schema.FlowEnd(
            address=Address("10.0.2.4"), port=port, identity=DB, labels=LABELS[DB], name="protected-db"
        ),
        drop_reason=133 if dropped else 0,
        drop_reason_desc="Policy denied" if dropped else "",
        denied_by=(RULE,) if dropped else (),
        allowed_by=() if dropped else (RULE,),
        explanation="default deny of the policy; no rule allows app=intern" if dropped else "",
        policy_revision=42,
    )


def end(address: str, number: IdentityId, name: str) -> flow_schema.FlowEnd:
    return flow_schema.FlowEnd(
        address=Address(address), port=41000, identity=number, labels=LABELS[number], name=name, identity_age_s=33
    )


@dataclass
class Node:
    """One node's ipam and datapath."""

    name: NodeName
    subnet: str
    leases: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    endpoints: dict[str, datapath.EndpointStatus] = field(default_factory=dict)
    flows: list[flow_schema.Flow] = field(default_factory=list)
    refuse: FairleadError | None = None
    reach: datapath.EndpointState = datapath.EndpointState.READY

    async def allocate(self, ask: ipam.AllocateAddress) -> ipam.AddressAllocated:
        if len(self.leases) >= 3 and ask.owner not in self.leases:
            raise Exhausted("no free address: release some, or claim a larger prefix")
        found = self.leases.setdefault(ask.owner, ask.addresses or (Address(f"{self.subnet}.{len(self.leases) + 2}"),))
        return ipam.AddressAllocated(owner=ask.owner, addresses=found)

    async def release(self, ask: ipam.ReleaseAddress) -> ipam.AddressReleased:
        return ipam.AddressReleased(owner=ask.owner, addresses=self.leases.pop(ask.owner, ()))

    async def list_leases(self, _ask: Empty) -> ipam.Leases:
        leases = [
            ipam.Lease(address=one, owner=owner, state=ipam.LeaseState.LEASED, since=NOW - timedelta(minutes=5))
            for owner, addresses in self.leases.items()
            for one in addresses
        ]
        return ipam.Leases(node=self.name, prefixes=(Prefix(f"{self.subnet}.0/24"),), leases=tuple(leases), free=250)

    async def attach(self, ask: datapath.AttachEndpoint) -> datapath.EndpointStatus:
        if self.refuse:
            raise self.refuse
        status = datapath.EndpointStatus(
            endpoint=EndpointId(len(self.endpoints) + 1),
            name=ask.name,
            node=self.name,
            addresses=ask.addresses,
            labels=ask.labels,
            identity=DB if self.reach is datapath.EndpointState.READY else IdentityId(0),
            state=self.reach,
            detail="" if self.reach is datapath.EndpointState.READY else "identity is not known: the hub is away",
            netns=ask.netns,
        )
        return self.endpoints.setdefault(ask.name, status)

    async def detach(self, ask: datapath.DetachEndpoint) -> datapath.Detached:
        return datapath.Detached(removed=self.endpoints.pop(ask.name, None) is not None)

    async def list_endpoints(self, _ask: Empty) -> datapath.EndpointList:
        return datapath.EndpointList(node=self.name, endpoints=tuple(self.endpoints.values()))

    async def dump(self, ask: datapath.EndpointQuery) -> datapath.PolicyMapDump:
        if ask.endpoint == "host":
            return datapath.PolicyMapDump(endpoint=EndpointId(65535), name="host", pin=f"/pins/{self.name}", entries=())
        found = next(one for one in self.endpoints.values() if str(one.endpoint) == ask.endpoint)
        entry = datapath.PolicyMapEntry(direction=0, identity=EMPLOYEE, protocol=6, port=6379, deny=False, precedence=0, proxy_port=0, packets=7, bytes=420, labels=LABELS[EMPLOYEE], origin=RULE)  # fmt: skip
        return datapath.PolicyMapDump(endpoint=found.endpoint, name=found.name, pin="/sys/fs/bpf/x", entries=(entry,))

    async def outer_ends(self, _ask: Empty) -> nat.NatList:
        if self.name == N2:
            return nat.NatList(node=self.name, entries=())
        ends = {"pod": Address(f"{self.subnet}.2"), "own": Address("192.0.2.1"), "remote": Address("198.51.100.7")}
        one = nat.NatEntry(protocol=6, pod_port=1000, own_port=61000, remote_port=443, idle_s=2.4, **ends)
        return nat.NatList(node=self.name, entries=(one,))

    async def lookup(self, ask: datapath.AddressQuery) -> datapath.AddressAnswer:
        return datapath.AddressAnswer(
            node=self.name, address=ask.address, prefix=f"{ask.address}/32", identity=EMPLOYEE
        )

    async def list_flows(self, ask: flow_schema.FlowQuery) -> flow_schema.FlowList:
        kept = [one for one in self.flows if ask.matches(one)]
        return flow_schema.FlowList(node=self.name, flows=tuple(kept[-ask.last :]))

    async def list_metrics(self, _ask: Empty) -> metrics.NodeMetrics:
        denied = metrics.PacketCount(reason="policy denied", code=133, direction="INGRESS", packets=7, bytes=420)
        table = metrics.FlowTable(alive=5, capacity=100, collected=3, runs=2, outer_ends=2, outer_ends_freed=1)
        return metrics.NodeMetrics(node=self.name, packets=(denied,), flows=table, lost={"ration": 4})

    async def list_features(self, _ask: Empty) -> features.KernelFeatures:
        there = features.KernelFeature(name="vxlan devices", present=True, use="routing = vxlan", instead="another")
        missing = features.KernelFeature(
            name="geneve devices", present=False, use="routing = geneve", instead="another"
        )
        return features.KernelFeatures(node=self.name, kernel="6.1.0", features=(there, missing))

    async def release_held(self, _ask: Empty) -> held.HeldRows:
        return held.HeldRows(node=self.name, rows={"kernel addresses": 93} if self.name == N2 else {})

    async def peers(self, _ask: Empty) -> bgp.Peers:
        up = bgp.Peer(name="tor1", address=Address("fd00::1"), peer_asn=65001, local_asn=65000, state="Established")
        down = msgspec.structs.replace(up, name="tor2", state="Active")
        return bgp.Peers(node=self.name, engine="bird", peers=(up, down) if self.name == N2 else (up,))

    async def routes_announced(self, _ask: Empty) -> bgp.Routes:
        return bgp.Routes(node=self.name, routes=(bgp.Route(prefix=Prefix(f"{self.subnet}.0/24"), peers=("tor1",)),))

    def routes(self) -> list[Route]:
        pairs: list[tuple[Any, Any]] = [
            (ipam.ALLOCATE, self.allocate),
            (ipam.RELEASE, self.release),
            (ipam.LEASES, self.list_leases),
            (datapath.ATTACH, self.attach),
            (datapath.DETACH, self.detach),
            (datapath.ENDPOINTS, self.list_endpoints),
            (datapath.POLICY_MAP, self.dump),
            (datapath.LOOKUP_ADDRESS, self.lookup),
            (nat.NAT, self.outer_ends),
            (flow_schema.FLOWS, self.list_flows),
            (features.FEATURES, self.list_features),
            (held.RELEASE_HELD, self.release_held),
            (metrics.METRICS, self.list_metrics),
            (bgp.PEERS, self.peers),
            (bgp.ROUTES, self.routes_announced),
        ]
        return [route(topic, handler, self.name) for topic, handler in pairs]


class World:
    """Everything, over one bus."""

    def __init__(self, bus: Bus | None = None) -> None:
        self.hub = Hub()
        self.bus: Bus = bus or MemoryBus(self.hub)
        self.nodes = {N1: Node(N1, "10.0.1"), N2: Node(N2, "10.0.2")}
        self.policies = Policies()
        self.health: list[health.Health] = [
            health.Health(
                service=service, node=node, version="0.1.0", since=NOW - timedelta(hours=1), pid=7, rss_bytes=42_000_000
            )
            for node in (N1, N2)
            for service in ("ipam", "datapath")
        ]

    async def start(self) -> World:
        for node in self.nodes.values():
            await self.bus.serve("datapath", node.routes())
        for one in self.health:
            await self.bus.serve(one.service, [route(health.HEALTH, self._show(one))], shared=False)
        await self.bus.serve("policy", self.policies.routes())
        await self._fill()
        return self

    def show(self, one: health.Health, conditions: tuple[health.Condition, ...]) -> Route:
        return route(health.HEALTH, self._show(msgspec.structs.replace(one, conditions=conditions)))

    @staticmethod
    def _show(one: health.Health) -> Any:
        async def show(_ask: Empty) -> health.Health:
            return one

        return show

    async def _fill(self) -> None:
        specs: tuple[BucketSpec[Any], ...] = (*BUCKETS,)
        for spec in specs:
            await self.bus.bucket(spec).ensure()
        for node in self.nodes.values():
            await self.bus.bucket(ipam.CLAIMS).put(
                node.name, ipam.Claim(node=node.name, prefixes=(Prefix(f"{node.subnet}.0/24"),))
            )
        for number, labels in LABELS.items():
            await self.bus.bucket(identity.IDENTITIES).put(
                str(number), identity.IdentityRow(identity=number, labels=labels)
            )
        entry = identity.AddressEntry(
            prefix=Prefix("10.0.1.2/32"), identity=EMPLOYEE, host=Address("192.0.2.1"), name="employee-1"
        )
        await self.bus.bucket(identity.ADDRESSES).put("n1", identity.AddressGroup(group="n1", entries=(entry,)))
        named = policy.CidrRow(prefix="10.0.0.0/8", identity=IdentityId(1 << 24), labels=("cidr:10.0.0.0/8",))
        await self.bus.bucket(policy.CIDRS).put("all", policy.CidrRows(rows=(named,)))

    async def run(self, *arguments: str) -> Answer:
        """Run one command in this world, as `main` would after it has connected."""
        options = parser().parse_args(arguments)
        session = Session(self.bus, options, ManualClock(NOW))
        answer: Answer = await options.run(session)
        return Answer(answer.value, answer.text, answer.status, (*session.warnings, *answer.warnings))
