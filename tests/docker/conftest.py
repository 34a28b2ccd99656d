"""One host with an engine per file, as starting all of it takes some seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docker.host import NETWORK_OPTIONS, Host, new_host
from tests.docker.machine import skip_unless_possible


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    skip_unless_possible()
    with new_host() as made:
        made.engine.run("network", "create", "--ipv6", *NETWORK_OPTIONS, "fl")
        yield made


@pytest.fixture(autouse=True)
def clean(host: Host) -> Iterator[None]:
    """Leave no container and no policy to the next test, and see that nothing else is left of them."""
    yield
    names = host.engine.said("ps", "-aq").split()
    if names:
        host.engine.run("rm", "-f", *names)
    host.forget_policies()
    host.settled_empty()
