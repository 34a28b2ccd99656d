"""What the datapath service relies on when it says which node has which prefix; of the real kernel and of the one in dicts."""

from __future__ import annotations

from fairlead.address import Address, Prefix
from services.datapath.operations import Kernel
from tests.support.kernels import Bench


def test_tunnels_are_rows_that_stay(bench: Bench, kernel: Kernel) -> None:
    near, far = Address("192.0.2.7"), Address("2001:db8::7")
    rows = {Prefix("10.8.0.0/24"): near, Prefix("fd08::/64"): near, far.prefix: far}
    kernel.apply_tunnels(rows, ())
    kernel.apply_tunnels(rows, ())
    assert kernel.tunnels() == rows
    again = bench.again()
    again.start()
    assert again.tunnels() == rows
    again.apply_tunnels({Prefix("10.8.0.0/24"): far}, [Prefix("fd08::/64"), Prefix("10.8.0.0/24"), Prefix("fd09::/64")])
    assert again.tunnels() == {Prefix("10.8.0.0/24"): far, far.prefix: far}
