"""Who speaks on the lab's bus: everybody with a credential, as on real machines; nobody without."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.processes import ROOT

DOMAIN = "hub"
OPERATOR, OTHER_SYSTEM, SABOTEUR = "operator", "other-system", "saboteur"
_NATS = 4222
_STORE_S = 30.0


class Credentials:
    """The lab's folder of credentials, made with the command that people use."""

    def __init__(self, folder: Path, hub: str, nodes: Sequence[str]) -> None:
        self._folder, self._hub, self._nodes = folder / "credentials", hub, tuple(nodes)
        self._store = folder / "ctl" / "jetstream"

    def issue(self) -> None:
        """Make everybody's credentials. One more, which no fleet has, may do anything: it is for doing damage."""
        self._command("init", "--hub", self._hub, "--place", "", "--hub-store", str(self._store))
        for node in self._nodes:
            self._command("issue", "node", node)
        self._command("issue", "system", OTHER_SYSTEM, "--may", "workloads", "--may", "policies")
        self._command("issue", "system", SABOTEUR, "--may", "workloads")
        lines = self.hub_config.read_text().splitlines()
        place = next(number for number, line in enumerate(lines) if line.strip() == f"# {SABOTEUR}")
        lines[place + 1] = lines[place + 1].split(", permissions")[0] + " }"
        self.hub_config.write_text("\n".join(lines) + "\n")

    def give_rights(self, etcd: str, inside: Sequence[str]) -> None:
        """Have the store ask everybody who they are, as soon as it answers. Raises CalledProcessError when it does not."""
        deadline = time.monotonic() + _STORE_S
        while True:
            try:
                return self._command("etcd", "--url", etcd, inside=inside)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _command(self, *words: str, inside: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "clients.cli", "credentials", words[0], "--dir", str(self._folder), *words[1:]]
        subprocess.run([*inside, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def of_store(self) -> dict[str, str]:
        """Return the files with which the store knows us, by etcd's own names of options."""
        root = self._folder / "etcd-root"
        return {"cacert": f"{self._folder / 'authority.crt'}", "cert": f"{root}.crt", "key": f"{root}.key"}

    def store_options(self) -> dict[str, str]:
        """Return the options with which the store asks its clients for certificates."""
        files = {"cert-file": "etcd.crt", "key-file": "etcd.key", "trusted-ca-file": "authority.crt"}
        return {
            **{option: str(self._folder / "etcd" / file) for option, file in files.items()},
            "client-cert-auth": "true",
        }

    @property
    def hub_config(self) -> Path:
        """Return the configuration of the hub."""
        return self._folder / "hub" / "nats.conf"

    def leaf_config(self, node: str) -> Path:
        """Return the configuration of a node's server."""
        return self._folder / "nodes" / node / "nats.conf"

    def at_hub(self, name: str) -> dict[str, str]:
        """Return the options with which somebody speaks at the hub."""
        return {
            "FAIRLEAD_NATS": f"nats://{self._hub}:{_NATS}",
            "FAIRLEAD_NATS_CREDENTIALS": str(self._folder / f"{name}.nk"),
            "FAIRLEAD_NATS_AUTHORITY": str(self._folder / "authority.crt"),
        }

    def at_node(self, node: str, who: str) -> dict[str, str]:
        """Return the options with which a service of a node, or `client`, speaks at the node's server."""
        return {
            "FAIRLEAD_NATS": f"nats://127.0.0.1:{_NATS}",
            "FAIRLEAD_NATS_CREDENTIALS": str(self._folder / "nodes" / node / f"{node}.{who}.nk"),
            "FAIRLEAD_NATS_AUTHORITY": "",
        }
