"""`fairlead compose` without a bus: what stands in compose files, what it comes to, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients.cli.__main__ import main
from tests.unit.cli.stacks import SHOP, TOOLS, Folder, tool_or_skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def check(folder: Folder, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Return exit status and JSON answer."""
    status = main(["-o", "json", "compose", "check", *words])
    told = capsys.readouterr()
    return status, json.loads(told.out) if told.out else told.err


def refused(folder: Folder, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compose", "check", *words]) == 2
    return capsys.readouterr().err


def test_tests_are_answered_by_the_policies_of_the_file(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write(SHOP)
    status, told = check(folder, capsys)
    assert status == 0
    assert told["project"] == "shop"
    assert [one["document"] for one in told["documents"]] == [
        "CiliumNetworkPolicy shop/db",
        "CiliumNetworkPolicy shop/service-web",
        "PolicyTests shop/compose",
    ]
    assert [(one["expected"], one["passed"]) for one in told["tests"]] == [("allow", True)] * 3 + [("deny", True)] * 4


def test_a_test_that_fails_says_where_it_stands_and_who_decides(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(SHOP.replace("      - web -> db:5432\n", "      - api -> db:5432/tcp\n"))
    assert main(["compose", "check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failing = next(line for line in lines if "FAILS" in line)
    assert failing.startswith("compose.yaml: x-fairlead.tests.deny[0]: api -> db:5432/tcp")
    assert failing.endswith("deny and gets allow: every end that is asked allows it")
    assert lines[-1] == "7 tests: 6 passed, 1 failed"


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("stack", ["shop", "desk"])
def test_the_examples_keep_what_they_promise(capsys: pytest.CaptureFixture[str], stack: str, tool: str) -> None:
    file = Path(__file__).parents[3] / "deploy" / "examples" / f"{stack}.yaml"
    assert main(["compose", "check", "-p", stack, "-f", str(file), "--compose", tool_or_skip(tool)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "9 tests: 9 passed, 0 failed"


def test_one_connection_is_explained(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write(SHOP)
    for source, status, why in (
        ("api", 0, "allowed by CiliumNetworkPolicy shop/db ingress[0]"),
        ("web", 1, "default deny was turned on by CiliumNetworkPolicy shop/db ingress[0]"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compose", "check", "--from", source, "--to", "db", "--port", "5432"])
        assert ended.value.code == status
        assert why in capsys.readouterr().out


def test_shorthand_labels_and_isolated_networks_count_as_the_plugin_will_state_them(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(
        """
        x-fairlead: {tests: {allow: ["web -> db:5432"], deny: ["api -> db:5432", "blog/web -> web:80"]}}
        services:
          web: {image: web}
          api: {image: api}
          db: {image: db, labels: ["fairlead.ingress.from=web:5432"]}
        networks: {default: {driver: fairlead, driver_opts: {fairlead.isolation: "on"}}}
        """
    )
    status, told = check(folder, capsys)
    assert (status, [one["passed"] for one in told["tests"]]) == (0, [True] * 3)
    assert [one["from"] for one in told["documents"][1:]] == ["isolation of network shop_default", "services.db.labels"]


def test_the_hosts_switch_and_chosen_labels_count(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(
        """
        x-fairlead:
          policies: [{name: reds, spec: {endpointSelector: {matchLabels: {team: red}}, ingress: [{}]}}]
          tests: {deny: ["blog/web -> web:80", "open -> red:80"], allow: ["web -> open:80"]}
        services:
          web: {image: web}
          red: {image: web, labels: {team: red}}
          open: {image: web, networks: [default, free]}
        networks:
          default: {driver: fairlead}
          free: {driver: fairlead, driver_opts: {fairlead.isolation: "off"}}
        """
    )
    assert check(folder, capsys)[0] == 1
    monkeypatch.setenv("FAIRLEAD_DOCKER_ISOLATION", "on")
    monkeypatch.setenv("FAIRLEAD_DOCKER_LABELS", "com.docker.compose.project,com.docker.compose.service,team")
    status, told = check(folder, capsys)
    assert (status, [one["passed"] for one in told["tests"]]) == (0, [True] * 3)


def test_audits_may_name_services_and_the_driver_may_have_another_name(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRLEAD_DOCKER_PLUGIN", "/run/docker/plugins/fl.sock")
    folder.write(
        """
        x-fairlead:
          policies:
          - name: db
            spec: {endpointSelector: {service: db}, ingress: [{}]}
          - apiVersion: fairlead.dev/v1
            kind: WorkloadAudit
            metadata: {name: db}
            spec: {endpointSelector: {service: db}, until: "2100-01-01T00:00:00Z"}
          tests: {deny: ["web -> db:1"]}
        services: {web: {image: web}, db: {image: db}}
        networks: {default: {driver: fl}}
        """
    )
    assert check(folder, capsys)[0] == 0
    with pytest.raises(SystemExit) as ended:
        main(["compose", "check", "--from", "web", "--to", "db", "--port", "1"])
    assert ended.value.code == 0
    assert "allowed because the workload is audited" in capsys.readouterr().out


def test_options_of_the_plugin_that_cannot_be_are_named(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(SHOP)
    monkeypatch.setenv("FAIRLEAD_DOCKER_ISOLATION", "maybe")
    assert "FAIRLEAD_DOCKER_ISOLATION='maybe'" in refused(folder, capsys)


def test_what_is_on_no_network_of_ours_is_said(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write(
        "services: {web: {image: web}, here: {image: web, network_mode: host}, near: {network_mode: 'service:web'}}"
    )
    assert main(["compose", "check"]) == 0
    told = capsys.readouterr().err
    assert "web is on no network of Fairlead's (`networks.default` has the driver bridge)" in told
    assert "here is on no network of Fairlead's (`network_mode: host`)" in told
    folder.write("x-fairlead: {tests: {deny: ['world -> web:80']}}\nservices: {web: {image: web}}")
    assert "tests.deny[0]: 'world -> web:80': web is on no network of Fairlead's" in refused(folder, capsys)


def test_who_borrows_a_network_has_it(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write(
        """
        x-fairlead: {tests: {allow: ["web -> near:80"]}}
        services: {web: {image: web}, near: {image: web, network_mode: "service:web"}}
        networks: {default: {driver: fairlead}}
        """
    )
    assert check(folder, capsys)[0] == 0


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("policies: [{spec: {}}]", "`x-fairlead.policies[0]`: Object missing required field `name`"),
        ("policies: [{name: a, sepc: {}}]", "`x-fairlead.policies[0]`: Object contains unknown field `sepc`"),
        ("policy: []", "`x-fairlead`: Object contains unknown field `policy`"),
        (
            "policies: [{name: a, spec: {endpointSelector: {service: dbb}, ingress: [{}]}}]",
            "`x-fairlead.policies[0].spec.endpointSelector.service`: there is no service 'dbb' in shop: there are api, db, web",
        ),
        (
            "policies: [{name: a, specs: [{endpointSelector: {}, egress: [{toEndpoints: [{services: [x]}]}]}]}]",
            "`x-fairlead.policies[0].specs[0].egress[0].toEndpoints[0].services[0]`: there is no service 'x'",
        ),
        (
            "policies: [{name: a, spec: {endpointSelector: {service: blog/web}, ingress: [{}]}}]",
            "'blog/web' is another project's",
        ),
        (
            "policies: [{name: a, spec: {endpointSelector: {service: db}, ingress: [{toPorts: [{ports: [{port: '70000'}]}]}]}}]",
            "compose.yaml: x-fairlead.policies[0]: CiliumNetworkPolicy a: `spec.ingress[0].toPorts[0].ports[0].port`",
        ),
        (
            "policies: [{name: a, spec: {endpointSelector: {service: db}, ingres: []}}]",
            "compose.yaml: x-fairlead.policies[0]: CiliumNetworkPolicy a: `spec`: Object contains unknown field `ingres`",
        ),
        (
            "policies: [{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: blog}, spec: {}}]",
            "`x-fairlead.policies[0].metadata.namespace`: 'blog' is not this project, shop: leave it out",
        ),
        (
            "policies: [{name: a, spec: {ingress: []}}, {name: a, spec: {ingress: []}}]",
            "x-fairlead.policies[1]: CiliumNetworkPolicy a stands at compose.yaml: x-fairlead.policies[0] too",
        ),
        (
            "tests: {allow: ['web to db']}",
            "x-fairlead.tests.allow[0]: 'web to db' is no test: write SOURCE -> DESTINATION",
        ),
        ("tests: {deny: ['web -> dbb:1']}", "there is no service 'dbb' in shop: there are api, db, web; else write"),
        ("tests: {deny: ['web -> db:1/GRE']}", "'GRE' is none of TCP, UDP, SCTP, ICMP, ICMPv6"),
        ("tests: {deny: ['web -> db:70000']}", "PolicyTests compose: `tests[0].port`: '70000/TCP' is no port"),
        ("tests: {maybe: []}", "`x-fairlead.tests`: Object contains unknown field `maybe`"),
        (
            "policies: [{name: '${WHO}', spec: {}}]",
            "compose.yaml: x-fairlead: `policies[0].name`: WHO is not set: set it, or write ${WHO:-default}",
        ),
    ],
)
def test_mistakes_name_file_path_and_mend(
    folder: Folder, capsys: pytest.CaptureFixture[str], part: str, told: str
) -> None:
    services = "{web: {image: web}, api: {image: api}, db: {image: db}}"
    folder.write(f"x-fairlead:\n  {part}\nservices: {services}\nnetworks: {{default: {{driver: fairlead}}}}\n")
    assert told in refused(folder, capsys)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("{ingress: [api:x]}", "`services.web.x-fairlead.ingress[0]`: 'api:x' is no PEER, PEER:PORT"),
        ("{egress: [db, appi]}", "`services.web.x-fairlead.egress[1]`: there is no service 'appi' in shop"),
        ("{}", "`services.web.x-fairlead`: it says nothing"),
        ("{from: [api]}", "`services.web.x-fairlead`: Object contains unknown field `from`"),
    ],
)
def test_mistakes_at_a_service_are_named_too(
    folder: Folder, capsys: pytest.CaptureFixture[str], part: str, told: str
) -> None:
    folder.write(f"services: {{web: {{image: web, x-fairlead: {part}}}, api: {{image: api}}, db: {{image: db}}}}")
    assert told in refused(folder, capsys)


def test_an_empty_list_is_nobody_and_another_projects_service_is_a_peer(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(
        """
        x-fairlead:
          policies:
          - {name: all, kind: CiliumClusterwideNetworkPolicy, spec: {endpointSelector: {service: web}, egress: [{toEndpoints: [{service: db}]}]}}
          tests:
            allow: ["blog/web -> db:1", "web -> db:9/udp", "other/db -> web:1"]
            deny: ["blog/cron -> db:1", "web -> shut:80", "web -> 192.0.2.7:80", "world -> shut:80"]
        services:
          web: {image: web}
          db: {image: db, x-fairlead: {ingress: ["blog/web:1", "web:9/udp"]}}
          shut: {image: db, x-fairlead: {ingress: []}}
        networks: {default: {driver: fairlead}}
        """
    )
    status, told = check(folder, capsys)
    assert (status, [one["passed"] for one in told["tests"]]) == (0, [True] * 7)
