"""The images of compose.yaml and of the examples, built on this machine from its distribution's packages, without any image registry.

The base and the layers are kept in a folder outside the repository, so that only what changed is built again. The builder is an
engine of its own, in the machine's network namespace since it fetches packages; it makes no bridge and no rule there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from fairlead import __version__
from tests.docker import tools
from tests.docker.dockerd import Dockerd
from tests.support.archive import CACHE

ROOT = Path(__file__).resolve().parents[2]
BASE, RELEASE = "fairlead-test/base", "bookworm"
EXAMPLES = ROOT / "deploy/examples"
PLUGIN, SYSTEMD = f"fairlead/docker:{__version__}", "fairlead-test/systemd"
_SYSTEMD = Path(__file__).parent / "systemd"
_BUILD_S = 1500.0
_UNTOUCHED = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")


def why_not() -> str:
    """Return why no image is made here, or nothing."""
    if not os.environ.get("FAIRLEAD_CONTAINERS"):
        return "building Fairlead's own images takes minutes: `make test-compose` does"
    if shutil.which("debootstrap") or _base_file().exists():
        return ""
    return "debootstrap is missing: run scripts/setup.sh"


def images() -> Path:
    """Return a file with all images for `docker load`; builds what is not there yet, which takes minutes the first time."""
    with _builder() as builder:
        names = [name for folder, file in _stacks() for name in _build(builder, folder, file)]
        # what no image needs any more; a day old, as the stage that compiles for the others is none itself
        builder.run("image", "prune", "-f", "--filter", "until=24h", timeout_s=300)
        return _saved(builder, sorted(set(names)), "images")


def with_systemd() -> Path:
    """Return a file with the plugin's image and that of a machine whose first process is systemd."""
    with _builder() as builder:
        _build(builder, ROOT, "compose.yaml")
        command = ("build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}", "-t", SYSTEMD, str(_SYSTEMD))
        builder.run(*command, timeout_s=_BUILD_S)
        return _saved(builder, [PLUGIN, SYSTEMD], "systemd")


@contextmanager
def _builder() -> Iterator[Dockerd]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(), ExitStack() as stack:
        builder = Dockerd(stack, *_UNTOUCHED, store=CACHE / "engine", programs=tools.Engine()).start()
        if builder.run("image", "inspect", BASE, check=False).returncode != 0:
            builder.run("import", str(_base()), BASE, timeout_s=300)
        yield builder


def _stacks() -> list[tuple[Path, str]]:
    return [(ROOT, "compose.yaml"), *((path.parent, path.name) for path in sorted(EXAMPLES.glob("*.yaml")))]


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _base_file() -> Path:
    return CACHE / f"{RELEASE}.tar"


def _base() -> Path:
    """Return the least Debian as a file."""
    done = _base_file()
    if not done.exists():
        tree, unfinished = CACHE / "tree", done.with_suffix(".new")
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", RELEASE, str(tree)], check=True, capture_output=True)
        left_out = (
            "./var/cache/apt/archives/*.deb",
            "./var/lib/apt/lists/*",
            "./dev/*",
            "./usr/share/doc/*",
            "./usr/share/locale/*",
        )
        command = ["tar", "-C", str(tree), *(f"--exclude={one}" for one in left_out), "-cf", str(unfinished), "."]
        subprocess.run(command, check=True)
        unfinished.replace(done)
        shutil.rmtree(tree)
    return done


def _build(builder: Dockerd, folder: Path, file: str) -> list[str]:
    """Build a stack's images; return their names."""
    environ = {"FAIRLEAD_NODE": "n1", "BASE_IMAGE": BASE, "COMPOSE_PROFILES": "bgp", "COMPOSE_DOCKER_CLI_BUILD": "0"}
    environ |= {"PIP_INDEX_URL": _index(), "EXTRA_CA": _extra_authorities()}
    shown = yaml.safe_load(builder.compose(folder, "-f", file, "config", environ=environ))["services"]
    built = {name: one["image"] for name, one in shown.items() if "build" in one}
    over = CACHE / "network.yaml"
    over.write_text(yaml.safe_dump({"services": {name: {"build": {"network": "host"}} for name in built}}))
    files = ("-f", file, "-f", str(over))
    distinct = {image: name for name, image in built.items()}
    builder.compose(folder, *files, "build", *sorted(distinct.values()), timeout_s=_BUILD_S, environ=environ)
    return list(built.values())


def _index() -> str:
    """Return where this machine's pip looks first, as far as others than this machine can; empty: pip's own default."""
    asked = subprocess.run(["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    found = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    return found if found.startswith(("http://", "https://")) else ""


def _extra_authorities() -> str:
    """Return the certificates that this machine trusts beyond its distribution's."""
    return "".join(path.read_text() for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt")))


def _saved(builder: Dockerd, names: list[str], stem: str) -> Path:
    kept, known = CACHE / f"{stem}.tar", CACHE / f"{stem}.json"
    ids = {name: builder.said("image", "inspect", "-f", "{{.Id}}", name) for name in names}
    if not kept.exists() or not known.exists() or json.loads(known.read_text()) != ids:
        known.unlink(missing_ok=True)
        builder.run("save", "-o", str(kept), *names, timeout_s=600)
        known.write_text(json.dumps(ids))
    return kept
