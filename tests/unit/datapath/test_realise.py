from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fairlead.address import Address
from services.datapath.kernel.fake import FakeKernel
from services.datapath.kernel.fake_world import FakeWorld
from services.datapath.model import EndpointWant, PolicyMap
from services.datapath.operations import KernelError, Link, PolicyKey, PolicyValue
from services.datapath.realise import Realiser
from services.datapath.store import Store

LINK = Link(1, "/run/netns/web", "eth0", (Address("fd00::2"), Address("10.0.0.2")), 0)
ANY_IN, ANY_OUT = PolicyKey(0, 0, 0, 0), PolicyKey(0, 0, 0, 1)
PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Bench:
    """A realiser that can die and come back."""

    def __init__(self, folder: Path, world: FakeWorld | None = None) -> None:
        self.folder = folder
        self.world = world or FakeWorld()
        self.foreign: list[tuple[int, dict[PolicyKey, PolicyValue]]] = []
        self.restart()

    def restart(self) -> None:
        self.kernel = FakeKernel(self.world)
        self.realiser = Realiser(self.kernel, Store(self.folder), self._hear)
        self.realiser.start([LINK])

    def _hear(self, endpoint: int, entries: Mapping[PolicyKey, PolicyValue]) -> None:
        self.foreign.append((endpoint, dict(entries)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _policy(revision: int, *keys: PolicyKey, identity: int = 300, trace: str = "") -> PolicyMap:
    return PolicyMap(identity, revision, dict.fromkeys(keys, PolicyValue()), trace=trace)


def _want(policy: PolicyMap | None) -> EndpointWant:
    return EndpointWant(LINK, policy)


def test_the_policy_stands_before_the_endpoint_passes(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    assert bench.world.log == ["plug 1", "apply_policy 1 +1 -0", "put_endpoint 1 300"]
    bench.world.log.clear()
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    assert bench.world.log == []
    bench.realiser.realise(_want(_policy(2, ANY_IN, ANY_OUT)))
    assert bench.world.log == ["apply_policy 1 +1 -0"]


def test_a_new_revision_of_the_same_entries_costs_no_write(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.world.log.clear()
    stands = bench.realiser.realise(_want(_policy(2, ANY_IN)))
    assert bench.world.log == []
    assert stands.policy is not None
    assert stands.policy.revision == 2


def test_a_dead_link_does_not_keep_the_policy_from_its_map(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.realiser.forget(1)
    bench.world.faults["plug", 1] = "gone"
    with pytest.raises(KernelError, match="gone"):
        bench.realiser.realise(_want(_policy(2, ANY_OUT)))
    assert bench.world.policies[1].keys() == {ANY_OUT}


def test_a_restart_plugs_again_only_what_does_not_stand_as_it_was_plugged(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.restart()
    bench.world.log.clear()
    bench.world.faults["plug", 1] = "is not asked for"
    assert bench.realiser.realise(_want(_policy(1, ANY_IN))).passes
    assert bench.world.log == []
    del bench.world.links[1], bench.world.faults["plug", 1]
    bench.restart()
    assert bench.realiser.realise(_want(_policy(1, ANY_IN))).passes
    assert bench.world.log == ["plug 1", "put_endpoint 1 300"]


def test_another_namespace_gets_a_new_link(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.world.log.clear()
    bench.realiser.realise(EndpointWant(replace(LINK, netns="/run/netns/other"), _policy(1, ANY_IN)))
    assert bench.world.log == ["unplug 1", "plug 1", "apply_policy 1 +1 -0", "put_endpoint 1 300"]
    assert bench.foreign == []


def test_entries_of_an_order_that_was_cut_short_are_not_foreign(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.world.faults["apply_policy", 1] = "killed"
    with pytest.raises(KernelError):
        bench.realiser.realise(_want(_policy(2, ANY_OUT)))
    bench.world.policies[1][ANY_OUT] = PolicyValue()  # the kernel got half of the order before the process died
    bench.world.faults.clear()
    bench.restart()
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    assert bench.foreign == []
    assert bench.world.policies[1].keys() == {ANY_IN}


def test_foreign_entries_are_reported_before_they_go(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_OUT)))
    bench.world.policies[1][ANY_IN] = PolicyValue()
    assert bench.realiser.inspect_policy(1)
    assert not bench.realiser.inspect_policy(1)
    bench.world.faults["apply_policy", 1] = "not now"
    with pytest.raises(KernelError):
        bench.realiser.realise(_want(_policy(1, ANY_OUT)))
    assert bench.foreign == [(1, {ANY_IN: PolicyValue()})]
    bench.world.faults.clear()
    bench.realiser.realise(_want(_policy(1, ANY_OUT)))
    assert bench.world.policies[1].keys() == {ANY_OUT}


def test_an_entry_once_ordered_is_foreign_after_it_was_removed(bench: Bench) -> None:
    bench.realiser.realise(_want(_policy(1, ANY_IN)))
    bench.realiser.realise(_want(_policy(2, ANY_OUT)))
    bench.restart()
    bench.world.policies[1][ANY_IN] = PolicyValue()
    bench.realiser.realise(_want(_policy(2, ANY_OUT)))
    assert bench.foreign == [(1, {ANY_IN: PolicyValue()})]


def test_what_nothing_explains_is_named_and_left_alone(bench: Bench) -> None:
    bench.kernel.plug(replace(LINK, endpoint=9))
    assert bench.realiser.inspect() == (set(), {9})
    assert 9 in bench.world.links


@given(
    steps=st.lists(
        st.one_of(
            st.builds(lambda keys: ("want", keys), st.sets(st.integers(0, 4), max_size=4)),
            st.just(("restart", set())),
            st.builds(lambda keys: ("insert", keys), st.sets(st.integers(0, 6), min_size=1, max_size=2)),
            st.just(("fault", set())),
        ),
        max_size=10,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_whatever_happened_the_last_wish_stands_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[int]]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("realise"))
    wanted = _want(None)
    for revision, (step, numbers) in enumerate(steps):
        if step == "want":
            wanted = _want(_policy(revision, *(PolicyKey(number, 0, 0, 0) for number in numbers)))
            _try(bench, wanted)
        elif step == "restart":
            bench.restart()
        elif step == "insert":
            bench.world.policies.setdefault(1, {}).update({PolicyKey(n, 0, 0, 0): PolicyValue() for n in numbers})
        else:
            bench.world.faults["apply_policy", 1] = "not now"
    bench.world.faults.clear()
    bench.restart()
    bench.realiser.realise(wanted)
    if wanted.policy is not None:
        assert bench.world.policies[1] == wanted.policy.entries
    assert bench.world.entries[1].held == (wanted.policy is None)
    assert bench.realiser.inspect() == (set(), set())


def _try(bench: Bench, wanted: EndpointWant) -> None:
    with contextlib.suppress(KernelError):
        bench.realiser.realise(wanted)
    bench.world.faults.clear()


def test_a_map_write_is_a_span_under_the_event_that_caused_it(bench: Bench) -> None:
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bench.realiser.realise(_want(_policy(7, ANY_IN, ANY_OUT, trace=PARENT)))
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "datapath.policy.write"]
    assert span.attributes == {"endpoint": 1, "identity": 300, "revision": 7, "entries": 2}
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == ("a" * 32, "b" * 16)
