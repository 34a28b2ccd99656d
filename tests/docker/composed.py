"""One machine whose Fairlead runs in containers, brought up with compose.yaml as people do, and the example stacks on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fairlead.app import is_serving
from fairlead.schema.base import NodeName
from services.datapath.kernel import netlink
from tests.docker.dockerd import Dockerd
from tests.docker.images import EXAMPLES, ROOT
from tests.docker.machine import Machine, until
from tests.kernel.rig import _wire_network, run

FRIEND = "198.51.100.2"
"""A machine that may read the blog; it has the same network as any other."""
SERVICES = ("nats", "etcd", "identity", "policy", "leaf", "ipam", "datapath", "docker", "bird", "bgp")
SYSLOG = 5514
_OURS = "label=com.docker.compose.project=fairlead"
_OPTIONS = {
    "pools": "10.7.0.0/16,fd07::/64",
    "node-addresses": "192.0.2.1,2001:db8::1",
    "bgp-asn": "65001",
    "bgp-peers": "192.0.2.2:65101",
    "docker-resync-s": "2",
    "docker-orphan-s": "3",
    "syslog": f"udp://192.0.2.2:{SYSLOG}",
}


class Composed(Machine):
    """A machine of which the network namespace is there already, and what a person would write for it.

    `options` stand in its /etc/fairlead, `environ` in its .env.
    """

    bus_url = "nats://127.0.0.1:4222"
    crashed = "nothing"
    """The service that was killed last."""

    def __init__(
        self,
        stack: ExitStack,
        node: str,
        name: str,
        options: Mapping[str, str],
        environ: Mapping[str, str],
        file: str = "compose.yaml",
        generation: str = "",
    ) -> None:
        self.node, self.name, self._file = NodeName(node), name, file
        self.folder = Path(tempfile.mkdtemp(prefix="fairlead-composed-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "config").mkdir()
        self.configure(options)
        places = {"FAIRLEAD_CONFIG": str(self.folder / "config"), "FAIRLEAD_STATE": str(self.folder / "state")}
        self.environ = {**places, **environ}
        self.plugin_state = self.folder / "state" / "docker"
        self.engine = Dockerd(stack, like_a_machine=True, netns=f"/run/netns/{name}n", generation=generation)
        stack.callback(self.end_workloads)
        active = set(self.environ.get("COMPOSE_PROFILES", "").split(","))
        shown: dict[str, dict[str, list[str]]] = yaml.safe_load(self.fairlead("config"))["services"]
        self.services = {name for name, one in shown.items() if active.issuperset(one.get("profiles", []))}

    def end_workloads(self) -> None:
        """Remove containers of others while the plugin is there to answer: without it the engine waits half a minute for each."""
        ours = self.engine.run("ps", "-aq", "--filter", _OURS, check=False).stdout.split()
        every = self.engine.run("ps", "-aq", check=False).stdout.split()
        if others := sorted({*every} - {*ours}):
            self.engine.run("rm", "-f", *others, check=False, timeout_s=120)

    def configure(self, options: Mapping[str, str]) -> None:
        """Write options, one per file."""
        for option, value in options.items():
            (self.folder / "config" / option).write_text(f"{value}\n")

    def start(self, images: Path) -> Composed:
        """Start the engine and Fairlead on it; return when every container is well and the kernel's side is there."""
        self.engine.start()
        self.engine.run("load", "-i", str(images), timeout_s=300)
        self.engine.import_busybox()
        return self.up()

    def up(self) -> Composed:
        """Start Fairlead; return when every container is well and the kernel's side is there."""
        self.fairlead("up", "-d", "--no-build")
        self.well()
        return self

    def fairlead(self, *arguments: str) -> str:
        """Run compose on compose.yaml."""
        return self.engine.compose(ROOT, "-p", "fairlead", "-f", self._file, *arguments, environ=self.environ)

    def example(self, stack: str, *arguments: str) -> str:
        """Run compose on one of the examples."""
        files = ("-p", stack, "-f", f"{stack}.yaml")
        return self.engine.compose(EXAMPLES, *files, *arguments, environ=self.environ)

    def well(self, within_s: float = 120) -> None:
        """Wait until every container of Fairlead says that it is healthy, and the programs are in the kernel."""
        until(lambda: not self.ill(), within_s, what="all containers to be well", tell=self.ill_with_logs)
        until(self.kernel_is_up, within_s, what="the kernel's side", tell=lambda: self.said("datapath"))

    def ill(self) -> dict[str, str]:
        """Return the containers of Fairlead that are not well, and what the engine says of them."""
        form = '{{.Label "com.docker.compose.service"}}\t{{.Status}}'
        lines = self.engine.said("ps", "-a", "--filter", _OURS, "--format", form)
        away = {"docker"} if self.environ.get("FAIRLEAD_DOCKER_SCALE") == "0" else set()
        states = dict(line.split("\t") for line in lines.splitlines())
        return {
            name: states.get(name, "absent") for name in self.services - away if "(healthy)" not in states.get(name, "")
        }

    def ill_with_logs(self) -> dict[str, tuple[str, str]]:
        """The same, and the end of what they logged."""
        return {name: (state, self.said(name)[-1500:]) for name, state in self.ill().items()}

    def said(self, service: str) -> str:
        """Return the log of one of Fairlead's containers."""
        done = self.engine.run("logs", "--tail", "60", self.engine.member(f"fairlead/{service}"), check=False)
        return done.stdout + done.stderr

    def plugin_said(self) -> str:
        """Return the log of the network plugin."""
        return self.said("docker")

    def kernel_is_up(self) -> bool:
        conditions: Any = self.health("datapath").get("conditions", ())
        return any(one["name"] == "kernel" and one["ok"] for one in conditions)

    def health(self, service: str) -> dict[str, Any]:
        """Return what a service last wrote about itself."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "state" / service / "health.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def prefixes(self) -> list[str]:
        """Return what this machine has claimed for its workloads."""
        found: list[str] = json.loads((self.folder / "state" / "ipam" / "leases.json").read_text())["prefixes"]
        return found

    def cut_power(self) -> None:
        """Have the machine end at once, with all that its kernel held; the engine may be started again."""
        self.engine.cut_power()
        names = (
            line.split()[1].rstrip(":").split("@")[0]
            for line in run("ip", "-n", f"{self.name}n", "-o", "link").splitlines()
        )
        devices = " ".join(name for name in names if name not in ("lo", "up0"))
        script = f"nft flush ruleset; tc qdisc del dev up0 clsact; for one in {devices}; do ip link del $one; done; "
        script += "for family in -4 -6; do while ip $family rule del proto 88; do :; done; ip $family route flush table 2047; done"
        inside = ["nsenter", f"--net=/run/netns/{self.name}n", "sh", "-c", script]
        subprocess.run(inside, check=False, capture_output=True, timeout=60)

    def starts(self) -> dict[str, str]:
        """Return when each of Fairlead's containers was started."""
        names = self.engine.said("ps", "-q", "--filter", _OURS).split()
        lines = self.engine.said("inspect", "-f", "{{.Name}} {{.State.StartedAt}}", *names).splitlines()
        return dict(line.split() for line in lines)

    def crash(self, service: str) -> None:
        """SIGKILL a container's first process, and return when the engine has started it again."""
        name, form = self.engine.member(f"fairlead/{service}"), "{{.State.Pid}} {{.RestartCount}}"
        pid, restarts = self.engine.said("inspect", "-f", form, name).split()
        self.crashed = service
        os.kill(int(pid), signal.SIGKILL)

        def again() -> bool:
            now, count = self.engine.said("inspect", "-f", form, name).split()
            return now not in ("0", pid) and int(count) > int(restarts)

        until(again, 60, what=f"{service} to be started again", tell=lambda: self.said(service))

    def remove(self) -> None:
        """Take Fairlead off the machine, as deploy/README.md says."""
        self.fairlead("down", "-t", "5")
        command = ("run", "--rm", "--entrypoint", "python -m services.datapath.remove", "datapath")
        file = self.folder / "state" / "datapath" / "health.json"
        until(lambda: not is_serving(file, datetime.now(UTC)), what="the datapath's last word to be old")
        self.fairlead(*command)
        self.fairlead("down")

    def pins(self) -> list[str]:
        """Return what is left on the machine's bpffs, beside what every kernel has."""
        done = subprocess.run(
            [*self.engine.inside, "find", "/sys/fs/bpf", "-mindepth", "1"], capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if not line.endswith(".debug")]

    def visit(self, port: int, source: str = "", at: str = "192.0.2.1") -> dict[str, Any]:
        """Return what a machine on the network gets from a stack's published port; an `error` when it gets nothing."""
        return _json(self._python(_VISIT, f"http://{at}:{port}/", source))

    def opens(self, port: int, stack: str) -> None:
        """Wait until a machine that may do so reaches a stack at its published port."""
        until(lambda: self.visit(port, FRIEND).get("stack") == stack, 60, what=f"the {stack}", tell=self.tell)

    def connects(self, service: str, host: str, port: int) -> bool:
        """Tell whether a `PROJECT/SERVICE` of an example (its api, which has Python) gets a connection."""
        command = ("exec", self.engine.member(service), "python3", "-c", _CONNECT, host, str(port))
        return self.engine.run(*command, check=False).returncode == 0

    def resolves(self, service: str, name: str) -> str:
        """Return the IPv6 address that a `PROJECT/SERVICE` of an example (its api) finds for a name; empty when there is none."""
        command = ("exec", self.engine.member(service), "python3", "-c", _RESOLVE, name)
        return self.engine.run(*command, check=False).stdout.strip()

    def _python(self, script: str, *arguments: str) -> str:
        command = ["nsenter", f"--net=/run/netns/{self.name}w", sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


_VISIT = """
import http.client, json, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
talk = http.client.HTTPConnection(url.hostname, url.port, 5, (sys.argv[2], 0) if sys.argv[2] else None)
try:
    talk.request("GET", url.path)
    print(talk.getresponse().read().decode())
except OSError as error:
    print(json.dumps({"error": repr(error)}))
"""
_RESOLVE = "import socket, sys; print(socket.getaddrinfo(sys.argv[1], None, socket.AF_INET6)[0][4][0])"
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def _json(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"error": text}
    return found


@contextmanager
def composed(
    images: Path, prepare: Callable[[Composed], None] = lambda _: None, generation: str = ""
) -> Iterator[Composed]:
    """Bring one machine up with a network behind its uplink, and leave nothing. The thread stands in its network meanwhile.

    `prepare` does what a person does before Fairlead is started.
    """
    with ExitStack() as stack:
        name = f"fk{os.getpid()}{os.urandom(2).hex()}"
        for which in ("n", "w"):
            run("ip", "netns", "add", name + which)
            stack.callback(run, "ip", "netns", "del", name + which)
        _wire_network(name)
        run("ip", "-n", f"{name}w", "addr", "add", f"{FRIEND}/32", "dev", "lo")
        stack.enter_context(netlink.inside(f"/run/netns/{name}n"))
        environ = {"FAIRLEAD_NODE": "n1", "COMPOSE_PROFILES": "bgp", "BLOG_READERS": f"{FRIEND}/32"}
        machine = Composed(stack, "n1", name, _OPTIONS, environ, generation=generation)
        prepare(machine)
        yield machine.start(images)
