"""What a start finds that somebody did while the service was dead; the periodic comparison comes too late to be what found it."""

from __future__ import annotations

import pytest

from services.datapath.kernel import abi, pins
from tests.restart.test_verify import DAMAGES, until_clean, verify, whole
from tests.support import kernels
from tests.support.node import Node

pytestmark = [pytest.mark.kernel, pytest.mark.connected, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := kernels.missing():
        pytest.skip(f"real kernel: {reason}")


async def test_a_start_finds_what_has_lost_its_name_through_the_programs_that_use_it() -> None:
    async with whole(3600) as made:
        before = _map_ids(made)
        made.service.kill()
        for pin in made.pins.iterdir():
            if pin.name != "fairlead_abi":
                pin.unlink()
        made.service.launch()
        await until_clean(made, within_s=30)
        assert _map_ids(made) == before


def _map_ids(made: Node) -> dict[str, int | None]:
    names = [f"fairlead_{name}" for name in abi.map_specs(1, 1)]
    names += ["cilium_policy_00001", "cilium_policy_00002", "fairlead_ranges_00001"]
    return {name: pins.pinned_map(made.pins / name) for name in names}


@pytest.mark.parametrize("what", ["pod route missing", "pod gateway unknown"])
async def test_a_start_repairs_what_was_changed_within_a_namespace(what: str) -> None:
    async with whole(3600) as made:
        made.service.kill()
        DAMAGES[what].do(made)
        made.service.launch()
        await until_clean(made, within_s=30)
        assert (await verify(made)).compared["endpoints"] == 2
