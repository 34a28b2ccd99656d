"""Every command against a small world on the bus in memory: what it prints, and what its exit status says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.cli.output import Exit, Stop, as_json
from fairlead.errors import InvalidInput, NotFound, Unavailable
from fairlead.schema.flow import Verdict
from tests.unit.cli.world import EMPLOYEE, INTERN, N2, RULE, World, end, flow

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: clustermesh-ingress-l4-policy
spec:
  endpointSelector: {matchLabels: {app: protected-db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: employee}}]
    toPorts: [{ports: [{port: "6379", protocol: TCP}]}]
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


async def test_status_names_what_does_not_answer(world: World) -> None:
    assert (await world.run("status")).status == Exit.OK
    del world.hub.routes["fairlead.get.fairlead.health.show.v1"][-1]
    found = await world.run("status")
    assert found.status == Exit.NO
    assert "datapath  n2    no answer" in found.text


async def test_nodes_show_their_claims(world: World) -> None:
    assert "n2    -          10.0.2.0/24" in (await world.run("node", "list")).text


async def test_endpoints_are_found_by_name_address_and_number(world: World) -> None:
    for wanted in ("protected-db", "10.0.2.2", "1"):
        assert "protected-db" in (await world.run("endpoint", "get", wanted)).text
    with pytest.raises(NotFound, match="endpoint list"):
        await world.run("endpoint", "get", "nobody")


async def test_a_name_on_two_nodes_has_to_be_told_apart(world: World) -> None:
    await world.run("workload", "add", "protected-db", "--node", "n1", "--netns", "/x")
    with pytest.raises(InvalidInput, match="--node"):
        await world.run("endpoint", "get", "protected-db")
    assert "10.0.1.2" in (await world.run("endpoint", "get", "protected-db", "--node", "n1")).text


async def test_a_node_that_does_not_answer_makes_a_list_late_and_is_named(world: World) -> None:
    del world.hub.routes["fairlead.get.datapath.endpoint.list.v1.n1"]
    found = await world.run("endpoint", "list")
    assert found.status == Exit.LATE
    assert "protected-db" in found.text
    assert any(warning.startswith("n1:") for warning in found.warnings)


async def test_without_the_hub_the_question_says_what_still_works(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_spec: object) -> object:
        raise Unavailable("bucket: the hub does not answer")

    monkeypatch.setattr(world.bus, "bucket", away)
    with pytest.raises(Stop, match="--node") as stop:
        await world.run("identity", "list")
    assert stop.value.status == Exit.NO_BUS
    found = await world.run("endpoint", "list")  # falls back to the nodes that answer
    assert "protected-db" in found.text
    assert "hub" in found.warnings[0]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("1001", [1001]),
        ("app=employee", [1001]),
        ("container:app=employee", [1001]),
        ("app", [1001, 1002, 1003]),
        ("reserved:world", [2]),
        ("cidr:10.0.0.0/8", [1 << 24]),
    ],
)
async def test_identities_are_found_by_number_and_label(world: World, wanted: str, numbers: list[int]) -> None:
    found = json.loads(as_json((await world.run("identity", "get", wanted)).value))
    assert [row["identity"] for row in found] == numbers


async def test_an_unknown_identity_is_said_to_be_unknown(world: World) -> None:
    with pytest.raises(NotFound):
        await world.run("identity", "get", "app=nobody")


@pytest.mark.parametrize(("address", "number"), [("10.0.1.2", 1001), ("10.9.9.9", 1 << 24)])
async def test_ipcache_lets_the_longest_prefix_win(world: World, address: str, number: int) -> None:
    assert str(number) in (await world.run("ipcache", "get", address)).text


async def test_ipcache_of_an_address_nobody_knows_is_world(world: World) -> None:
    with pytest.raises(NotFound, match="world"):
        await world.run("ipcache", "get", "fd00::1")


async def test_ipcache_of_one_node_is_what_its_kernel_holds(world: World) -> None:
    assert "n1    192.0.2.9" in (await world.run("ipcache", "get", "192.0.2.9", "--node", "n1")).text


async def test_policy_apply_waits_and_names_the_stragglers(world: World, policy_file: str) -> None:
    found = await world.run("policy", "apply", "-f", policy_file, "--wait")
    assert (found.status, found.text.splitlines()[-1]) == (Exit.OK, "realised on 2 nodes")
    world.policies.late = (N2,)
    found = await world.run("policy", "apply", "-f", policy_file, "--wait", "--timeout", "1")
    assert found.status == Exit.LATE
    assert found.text.splitlines()[-1] == "realised on 1 of 2 nodes; not in time: n2 (revision 6)"


async def test_policy_get_writes_what_apply_reads(world: World, policy_file: str, tmp_path: Path) -> None:
    await world.run("policy", "apply", "-f", policy_file)
    again = tmp_path / "again.yaml"
    again.write_text((await world.run("policy", "get", "clustermesh-ingress-l4-policy")).text)
    before = world.policies.stored["clustermesh-ingress-l4-policy"].document
    await world.run("policy", "apply", "-f", str(again))
    assert world.policies.stored["clustermesh-ingress-l4-policy"].document == before
    assert "clustermesh-ingress-l4-policy" in (await world.run("policy", "get")).text


async def test_one_bad_document_keeps_the_good_ones_from_being_stored(world: World, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(POLICY + "---\nkind: CiliumNetworkPolicy\n")
    with pytest.raises(InvalidInput, match=r"document 2.*apiVersion"):
        await world.run("policy", "apply", "-f", str(path))
    assert world.policies.stored == {}


async def test_policy_delete_by_name_and_by_file(world: World, policy_file: str) -> None:
    for how in (("clustermesh-ingress-l4-policy",), ("-f", policy_file)):
        await world.run("policy", "apply", "-f", policy_file)
        await world.run("policy", "delete", *how, "--wait")
        assert world.policies.stored == {}
    with pytest.raises(NotFound):
        await world.run("policy", "delete", "nobody")


async def test_policy_history_and_the_way_back(world: World, policy_file: str, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(POLICY.replace("6379", "6380"))
    for path in (policy_file, str(changed)):
        await world.run("policy", "apply", "-f", path)
    shown = (await world.run("policy", "history", "clustermesh-ingress-l4-policy")).text
    assert [line.split()[0] for line in shown.splitlines()] == ["VERSION", "1", "2"]
    done = await world.run("policy", "rollback", "clustermesh-ingress-l4-policy", "--to", "1", "--wait")
    assert "rolled back at revision 7" in done.text
    assert "realised on 2 nodes" in done.text
    assert "6379" in (await world.run("policy", "get", "clustermesh-ingress-l4-policy")).text
    assert "rolled back to 1" in (await world.run("policy", "history", "clustermesh-ingress-l4-policy")).text


async def test_policy_get_keeps_the_tests_of_a_document(world: World, policy_file: str, tmp_path: Path) -> None:
    promised = tmp_path / "promised.yaml"
    promise = "tests:\n- {from: {app: employee}, to: {app: protected-db}, port: 6379/TCP, expect: allow}\n"
    promised.write_text(POLICY.rstrip() + "\n" + promise)
    await world.run("policy", "apply", "-f", str(promised))
    assert "expect: allow" in (await world.run("policy", "get", "clustermesh-ingress-l4-policy")).text


async def test_the_policy_map_comes_back_from_the_kernel(world: World) -> None:
    text = (await world.run("bpf", "policy", "get", "protected-db")).text
    assert "Allow   Ingress    1001      app=employee  6379/TCP" in text


async def test_a_nodes_own_policy_map_needs_the_nodes_name(world: World) -> None:
    assert "host (endpoint 65535), /pins/n2" in (await world.run("bpf", "policy", "get", "host", "--node", "n2")).text
    with pytest.raises(InvalidInput, match="--node"):
        await world.run("bpf", "policy", "get", "host")


async def test_masqueraded_flows_come_back_from_the_kernel(world: World) -> None:
    text = (await world.run("bpf", "nat", "list")).text
    assert "n1    TCP    10.0.1.2:1000  192.0.2.1:61000  198.51.100.7:443  2 s" in text
    assert (await world.run("bpf", "nat", "list", "--node", "n2")).text == "no flow is masqueraded"


async def test_ipam_lists_leases_and_what_is_free(world: World) -> None:
    text = (await world.run("ipam", "list")).text
    assert "n2    10.0.2.2  protected-db  leased  5m" in text
    assert "n1: 10.0.1.0/24, 250 free" in text


async def test_bgp_says_by_its_status_that_a_session_is_down(world: World) -> None:
    assert (await world.run("bgp", "peers", "--node", "n1")).status == Exit.OK
    found = await world.run("bgp", "peers")
    assert found.status == Exit.NO
    assert "Active" in found.text
    assert "10.0.2.0/24" in (await world.run("bgp", "routes")).text


@pytest.fixture
async def flows(world: World) -> World:
    world.nodes[N2].flows = [
        flow("1" * 32, Verdict.FORWARDED, 30, end("10.0.1.2", EMPLOYEE, "employee-1")),
        flow("2" * 32, Verdict.DROPPED, 20, end("10.0.1.3", INTERN, "intern-1")),
        flow("3" * 32, Verdict.DROPPED, 10, end("10.0.1.2", EMPLOYEE, "employee-1"), port=22),
    ]
    return world


async def test_flows_are_the_newest_of_all_nodes_oldest_first(flows: World) -> None:
    found = json.loads(as_json((await flows.run("flows", "--last", "2")).value))
    assert [row["uuid"][0] for row in found] == ["2", "3"]
    assert "10.0.1.3:41000 (intern-1)" in (await flows.run("flows", "--verdict", "DROPPED")).text


@pytest.mark.parametrize(
    "asked",
    [("2" * 32,), ("intern-1", "protected-db"), ("10.0.1.3", "10.0.2.4:6379"), ("app=intern", "app=protected-db:6379")],
)
async def test_why_names_the_policy_and_the_age_of_the_identity(flows: World, asked: tuple[str, ...]) -> None:
    text = (await flows.run("why", *asked)).text
    assert text.startswith("DROPPED 20s ago on n2, TCP, by the ingress rules of protected-db")
    assert f"policy  {RULE}" in text
    assert "identity 1002 known for 33s: app=intern" in text


async def test_why_tells_ports_apart(flows: World) -> None:
    assert (await flows.run("why", "employee-1", "protected-db:22")).text.startswith("DROPPED 10s")
    assert (await flows.run("why", "employee-1", "protected-db:6379")).text.startswith("FORWARDED 30s")


async def test_why_of_a_flow_nobody_saw_says_what_to_do(flows: World) -> None:
    with pytest.raises(NotFound, match="send a packet"):
        await flows.run("why", "intern-1", "protected-db:80")
    with pytest.raises(NotFound, match="newest"):
        await flows.run("why", "4" * 32)
    with pytest.raises(InvalidInput, match="uuid"):
        await flows.run("why", "intern-1")


async def test_metrics_are_shown_node_by_node(world: World) -> None:
    text = (await world.run("metrics", "--node", "n1")).text
    assert "n1    policy denied  INGRESS    7        420" in text
    assert (
        "n1: 5 of 100 flows, 3 collected in 2 runs, 2 masqueraded (1 ports given back); lost reports: ration 4" in text
    )


async def test_status_sums_up_what_was_dropped(world: World) -> None:
    found = await world.run("status")
    assert "dropped on n1: 7 policy denied" in found.text
    assert json.loads(as_json(found.value))["dropped"]["n1"] == {"policy denied": 7}
