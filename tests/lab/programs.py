"""Which program runs where, with which options: the lab's processes as data."""

from __future__ import annotations

from pathlib import Path

from tests.lab.credentials import DOMAIN, Credentials
from tests.lab.processes import ROOT, Spec
from tests.lab.topology import POOLS, Node, Router, Topology

PINS = Path("/sys/fs/bpf")
CLUSTER = "default"
NODE_SERVICES = ("ipam", "datapath", "bgp")
CLUSTER_SERVICES = ("identity", "policy")
_ETCD, _OTLP = 2379, 4318
_PYTHON = str(ROOT / ".venv/bin/python")
_NATS_SERVER = str(ROOT / ".venv/bin/nats-server")


class Programs:
    """Makes the lab's `Spec`s; `folder` holds configuration, state and logs."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self._topology = topology
        self._folder = folder
        self.credentials = Credentials(folder, topology.control, [node.name for node in topology.nodes])

    def all(self) -> list[Spec]:
        """Return every process; the order means nothing."""
        routers = [self.router(router) for router in self._topology.routers]
        nodes = [spec for node in self._topology.nodes for spec in self.node(node)]
        self.credentials.issue()
        return [self.etcd(), self.hub(), self.traces(), *routers, *self.cluster(), *nodes]

    def control_socket(self, name: str) -> Path:
        """Return BIRD's control socket on a router or a node."""
        return self._folder / name / "run" / "bird.ctl"

    def pins(self, node: str) -> Path:
        """Return where the node's maps are pinned."""
        return self.all_pins / node / "tc" / "globals"

    @property
    def all_pins(self) -> Path:
        """Return the folder of bpffs that holds all pins of this lab."""
        return PINS / f"fairlead-{self._topology.prefix}"

    @property
    def trace_store(self) -> Path:
        """Return the file in which spans are kept."""
        return self._folder / "ctl" / "traces.jsonl"

    @property
    def etcd_url(self) -> str:
        """Return where etcd answers."""
        return f"https://{self._topology.control}:{_ETCD}"

    @property
    def traces_url(self) -> str:
        """Return where spans go, and where traces are asked for."""
        return f"http://{self._topology.control}:{_OTLP}"

    def etcd(self) -> Spec:
        """Return the store. A short election: it is alone."""
        urls = f"{self.etcd_url},https://127.0.0.1:{_ETCD}"
        options = {
            "name": "ctl",
            "data-dir": str(self._folder / "ctl" / "etcd"),
            "listen-client-urls": urls,
            "advertise-client-urls": urls,
            "listen-peer-urls": "http://127.0.0.1:2380",
            "initial-advertise-peer-urls": "http://127.0.0.1:2380",
            "initial-cluster": "ctl=http://127.0.0.1:2380",
            "heartbeat-interval": "50",
            "election-timeout": "250",
            "logger": "zap",
            "log-level": "warn",
            **self.credentials.store_options(),
        }
        return Spec("ctl/etcd", ("etcd", *(f"--{name}={value}" for name, value in options.items())))

    def hub(self) -> Spec:
        """Return the hub of the bus."""
        return Spec("ctl/nats", (_NATS_SERVER, "-c", str(self.credentials.hub_config)))

    def traces(self) -> Spec:
        """Return the receiver of spans."""
        listen = f"{self._topology.control}:{_OTLP}"
        command = (_PYTHON, "-m", "clients.otlp", "--listen", listen, "--store", str(self.trace_store))
        return Spec("ctl/otlp", command)

    def router(self, router: Router) -> Spec:
        """Return a router's BIRD."""
        from tests.lab import routers  # noqa: PLC0415 - it needs more than the standard library; removing a lab does not

        config = self._write(router.name, "bird.conf", routers.render(router))
        control = self.control_socket(router.name)
        control.parent.mkdir(parents=True, exist_ok=True)
        return Spec(f"{router.name}/bird", ("bird", "-f", "-c", config, "-s", str(control), "-P", f"{control}.pid"))

    def cluster(self) -> list[Spec]:
        """Return the services that exist once."""
        return [
            self._service("ctl", service, f"{service}-1", self.credentials.at_hub(f"{service}-1"))
            for service in CLUSTER_SERVICES
        ]

    def node(self, node: Node) -> list[Spec]:
        """Return everything that runs on one node."""
        environment = {
            "FAIRLEAD_UPLINKS": ",".join(node.uplinks),
            "FAIRLEAD_NODE_ADDRESSES": ",".join(node.addresses),
            "FAIRLEAD_ROUTING": self._topology.ways.routing,
            "FAIRLEAD_PIN_DIRECTORY": str(self.pins(node.name)),
            "FAIRLEAD_BGP_ASN": str(node.asn),
            "FAIRLEAD_BGP_PEERS": ",".join(f"{peer.address}:{peer.asn}" for peer in node.peers),
            "FAIRLEAD_BGP_RUN_DIR": str(self.control_socket(node.name).parent),
        }
        services = [
            self._service(
                node.name, service, node.name, {**environment, **self.credentials.at_node(node.name, service)}
            )
            for service in NODE_SERVICES
        ]
        return [self.leaf(node), self.speaker(node), *services]

    def leaf(self, node: Node) -> Spec:
        """Return the node's own NATS server."""
        return Spec(f"{node.name}/nats", (_NATS_SERVER, "-c", str(self.credentials.leaf_config(node.name))))

    def speaker(self, node: Node) -> Spec:
        """Return the node's BIRD; it waits for the configuration that the bgp service writes."""
        entrypoint = ROOT / "services/bgp/engine/bird-entrypoint.sh"
        run = self.control_socket(node.name).parent
        return Spec(f"{node.name}/bird", (str(entrypoint), str(self.state(node.name) / "bgp"), str(run)))

    def state(self, place: str) -> Path:
        """Return what a machine of the lab keeps on its disk."""
        return self._folder / place / "state"

    def _service(self, place: str, service: str, instance: str, environment: dict[str, str]) -> Spec:
        common = {**self.settings(instance), "FAIRLEAD_STATE_DIR": str(self.state(place)), **environment}
        return Spec(f"{place}/{service}", (_PYTHON, "-m", f"services.{service}"), common)

    def settings(self, instance: str) -> dict[str, str]:
        """Return the options that all services and the command line share."""
        return {
            "FAIRLEAD_NODE": instance,
            "FAIRLEAD_CLUSTER": CLUSTER,
            "FAIRLEAD_NATS_DOMAIN": DOMAIN,
            "FAIRLEAD_ETCD": self.etcd_url,
            "FAIRLEAD_POOLS": ",".join(POOLS),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.traces_url,
        }

    def _write(self, place: str, name: str, text: str) -> str:
        path = self._folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)
