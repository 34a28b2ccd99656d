"""Compose files from disk: which ones, whose project, variables, several files, and compose's own answer beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.cli import compose_files
from clients.cli.compose_files import Files
from clients.cli.compose_services import Habits, stack_of
from clients.cli.compose_variables import filled, read_env
from fairlead.errors import InvalidInput
from tests.unit.cli.stacks import SHOP, TOOLS, Folder, tool_or_skip

ENVIRON = {"WHO": "db", "EMPTY": ""}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> str:
    """Every way must see the same stack."""
    return tool_or_skip(request.param)


def read(*files: str, project: str = "", tool: str = "none", **environ: str) -> Files:
    path = {"PATH": "/usr/bin:/bin"}
    return compose_files.read(files, project, tool, {**path, **environ})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$WHO-1", "db-1"),
        ("${WHO}", "db"),
        ("a$$b $${WHO}", "a$b ${WHO}"),
        ("${NONE:-5432}", "5432"),
        ("${EMPTY:-x}${EMPTY-y}", "x"),
        ("${NONE-y}", "y"),
        ("${WHO:+there}${NONE:+there}${EMPTY+set}${EMPTY:+set}", "thereset"),
        ("${NONE:-a:b/c}", "a:b/c"),
        ("${WHO:?needed}", "db"),
        ("no dollar", "no dollar"),
    ],
)
def test_variables_are_those_of_compose(text: str, value: str) -> None:
    assert filled({"a": [text, 7]}, ENVIRON, "f") == {"a": [value, 7]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$NONE", "f: `a[0]`: NONE is not set: set it, or write ${NONE:-default}"),
        ("${NONE:?the port}", "NONE is not set: the port: set it"),
        ("${EMPTY:?the port}", "EMPTY is not set: the port"),
        ("${WHO", "'$' is no variable"),
        ("${}", "'${}' is no variable"),
        ("${WHO!}", "'${WHO!}' is no variable"),
        ("100%$", "'$' is no variable: write ${NAME}, or $$ for a dollar"),
    ],
)
def test_variables_that_cannot_be_are_named(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as error:
        filled({"a": [text]}, ENVIRON, "f")
    assert told in error.value.message


def test_env_files_are_read_as_compose_does() -> None:
    text = "# no\nA=1\nexport B = 'two words' \nC=x # why\nD=\nnonsense\nE=\"q\"\n"
    assert read_env(text) == {"A": "1", "B": "two words", "C": "x", "D": "", "E": "q"}


def test_the_file_here_or_above_is_found_with_its_override(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(SHOP)
    folder.write("services: {more: {image: more}}", "compose.override.yaml")
    inner = folder.path / "src" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    found = read()
    assert (found.project, sorted(found.resolved["services"])) == ("shop", ["api", "db", "more", "web"])
    other = folder.path / "other.yaml"
    other.write_text("services: {one: {image: one}}")
    assert sorted(read(COMPOSE_FILE=str(other)).resolved["services"]) == ["one"]


@pytest.mark.parametrize(
    ("given", "environ", "written", "project"),
    [
        ("given", {"COMPOSE_PROJECT_NAME": "env"}, "name: written", "given"),
        ("", {"COMPOSE_PROJECT_NAME": "env"}, "name: written", "env"),
        ("", {}, "name: written", "written"),
        ("", {"WHO": "me"}, "name: by-${WHO}", "by-me"),
        ("", {}, "", "shop"),
    ],
)
def test_the_project_is_called_as_compose_calls_it(
    folder: Folder, given: str, environ: dict[str, str], written: str, project: str
) -> None:
    folder.write(f"{written}\nservices: {{web: {{image: web}}}}\n")
    assert read(project=given, **environ).project == project


def test_variables_of_the_env_file_count_and_the_environment_goes_before(folder: Folder, tool: str) -> None:
    folder.write("WHO=file\nCOMPOSE_PROJECT_NAME=from_file\n", ".env")
    folder.write("services: {web: {image: web, labels: {role: '$WHO', price: '5$$'}}}")
    found = read(tool=tool)
    assert found.project == "from_file"
    assert stack_of("p", found.resolved, Habits()).services["web"].labels["role"] == "file"
    labels = stack_of("p", read(tool=tool, WHO="env").resolved, Habits()).services["web"].labels
    assert (labels["role"], labels["price"]) == ("env", "5$")


def test_both_ways_see_the_same_of_several_files(folder: Folder, tool: str) -> None:
    folder.write(
        """
        version: "3.9"
        services:
          web: {image: "web:1", labels: {role: front, tier: "1"}, networks: [default, back], ports: ["8080:80"]}
          job: {image: job, profiles: [batch], labels: [role=job, flag]}
        networks:
          default: {driver: fairlead, ipam: {driver: fairlead}}
          back: {driver: fairlead, name: backend, driver_opts: {fairlead.isolation: "on"}}
        """
    )
    folder.write(
        """
        version: "3.9"
        services:
          web: {image: "web:2", labels: ["tier=2"], networks: {back: {aliases: [w]}, out: {}}}
        networks: {out: {external: true, name: shared}}
        """,
        "more.yaml",
    )
    found = read("compose.yaml", "more.yaml", tool=tool)
    stack = stack_of(found.project, found.resolved, Habits(image=True))
    web, job = stack.services["web"], stack.services["job"]
    assert (web.labels["role"], web.labels["tier"], web.image) == ("front", "2", "web:2")
    assert {(one.name, one.isolated) for one in web.networks} == {
        ("shop_default", False),
        ("backend", True),
        ("shared", False),
    }
    assert (job.labels["role"], job.labels["flag"]) == ("job", "")
    assert "container:image=web" in next(iter(stack.parties("web")))


@pytest.mark.parametrize("name", TOOLS)
def test_an_image_that_is_built_without_a_name_has_the_one_that_compose_gives_it(folder: Folder, name: str) -> None:
    folder.write("version: '3.9'\nservices: {web: {build: .}}\nnetworks: {default: {driver: fairlead}}")
    found = read(tool=tool_or_skip(name))
    assert stack_of(found.project, found.resolved, Habits(image=True)).services["web"].image == (
        "shop_web" if name == TOOLS[1] else "shop-web"
    )


def test_later_files_replace_policies_of_the_same_name_and_add_tests(folder: Folder) -> None:
    folder.write(SHOP)
    folder.write(
        """
        x-fairlead:
          policies: [{name: db, spec: {endpointSelector: {service: db}, ingress: [{}]}}]
          tests: {deny: ["api -> db:1"]}
        """,
        "closed.yaml",
    )
    found = read("compose.yaml", "closed.yaml")
    from clients.cli import compose_rules, compose_tests  # noqa: PLC0415

    stack = stack_of("shop", found.resolved, Habits())
    stated = {one.document.metadata["name"]: one for one in compose_rules.documents(found.extensions, stack)}
    assert stated["db"].origin == "closed.yaml: x-fairlead.policies[0]"
    assert (stated["db"].document.spec or {})["ingress"] == [{}]
    (tests,) = compose_tests.documents(found.extensions, stack)
    assert len(tests.document.tests or ()) == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n", "compose.yaml: a compose file is one mapping with `services:`"),
        ("services: [web]\n", "compose.yaml: `services`: a mapping is needed here, not list"),
        ("services: {web: {extends: {service: base}}}\n", "services.web: `extends`: needs compose itself"),
        ("include: [other.yaml]\n", "compose.yaml: `include`: needs compose itself"),
        ("services: {web: {image: '$NONE'}}\n", "compose.yaml: services.web: `image`: NONE is not set"),
        ("services: {a: {image: b}, a: {image: c}}\n", "`a` stands twice"),
        ("a: [\n", "compose.yaml: "),
    ],
)
def test_files_that_cannot_be_are_named(folder: Folder, text: str, told: str) -> None:
    folder.write(text)
    with pytest.raises(InvalidInput) as error:
        read()
    assert told in error.value.message


def test_no_file_is_told_with_the_mend(folder: Folder) -> None:
    with pytest.raises(InvalidInput, match="name the compose file with -f"):
        read()
    with pytest.raises(InvalidInput, match=r"gone.yaml: cannot be read"):
        read("gone.yaml")
    with pytest.raises(InvalidInput, match="standard input can be read once only"):
        read("-")


def test_what_compose_takes_is_taken(folder: Folder) -> None:
    """Ports that YAML 1.1 would call a number to the base 60, dates, and tags of newer versions."""
    folder.write("services: {web: {image: web, ports: [22:22], labels: {at: 2026-01-01}, volumes: !reset [a]}}")
    found = read()
    assert found.resolved["services"]["web"]["labels"] == {"at": "2026-01-01"}


def test_what_included_files_say_for_fairlead_is_read_with_their_own_variables(folder: Folder, tmp_path: Path) -> None:
    for part in ("db", "db/deep"):
        (folder.path / part).mkdir()
    folder.write("include: [db/compose.yaml, {path: [web.yaml], env_file: web.env}]\nx-fairlead: {tests: [top]}\n")
    folder.write("PORT=80\nWHO=nobody\n", "web.env")
    folder.write("services: {web: {image: web, x-fairlead: {ingress: ['$WHO:$PORT']}}}", "web.yaml")
    folder.write(
        "include: [deep/one.yaml]\nservices: {db: {image: db, x-fairlead: {ingress: ['web:$PORT']}}}", "db/compose.yaml"
    )
    folder.write("PORT=5432\n", "db/.env")
    folder.write("x-fairlead: {tests: ['$PORT']}", "db/deep/one.yaml")
    compose = tmp_path / "compose"  # newer than what is installed here: says what such a one resolves
    compose.write_text("#!/bin/sh\necho 'services: {web: {image: web}, db: {image: db}}'\n")
    compose.chmod(0o755)
    found = read(tool=str(compose), WHO="world")
    assert [(one.stack, one.services) for one in found.extensions] == [
        ({"tests": ["5432"]}, {}),
        (None, {"db": {"ingress": ["web:5432"]}}),
        (None, {"web": {"ingress": ["world:80"]}}),
        ({"tests": ["top"]}, {}),
    ]
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("include", "told"),
    [
        ("db.yaml", "compose.yaml: `include`: a list is needed here, not str"),
        ("[gone.yaml]", "gone.yaml: cannot be read"),
        ("[compose.yaml]", "`include`: files include one another more than 20 times: one includes itself"),
        ("[{env_file: a}]", "compose.yaml: `include`: `path`: say which file is included"),
        ("[{path: [7]}]", "compose.yaml: `include`: `path`: a file is needed here"),
        ("[7]", "compose.yaml: `include`: a mapping is needed here, not int"),
        ("['https://example.com/x.yaml']", "https://example.com/x.yaml is not on this machine"),
        ("[{path: other.yaml, env_file: gone.env}]", "`env_file`: .*gone.env cannot be read"),
    ],
)
def test_includes_that_cannot_be_are_named(folder: Folder, include: str, told: str) -> None:
    folder.write("services: {}", "other.yaml")
    folder.write(f"include: {include}\n")
    with pytest.raises(InvalidInput, match=told.replace("[", r"\[")):
        read(tool="true")


@pytest.mark.parametrize("generation", TOOLS[1:])
def test_compose_itself_is_asked_where_it_is_installed(folder: Folder, generation: str) -> None:
    tool = tool_or_skip(generation)
    folder.write(
        "version: '3.9'\nservices: {base: {image: web, labels: {role: x}, x-fairlead: {ingress: []}}}", "base.yaml"
    )
    child = "{extends: {file: base.yaml, service: base}%s}"
    folder.write(f"version: '3.9'\nservices: {{web: {child % ''}}}")
    with pytest.raises(
        InvalidInput, match=r"services.web: `extends`: the x-fairlead of base in base.yaml is not inherited"
    ):
        read(tool=tool)
    folder.write(f"version: '3.9'\nservices: {{web: {child % ', x-fairlead: {ingress: [world]}'}}}")
    found = read(tool=tool)
    assert stack_of("shop", found.resolved, Habits()).services["web"].labels["role"] == "x"
    folder.write("services: {web: {imag: web}}")
    with pytest.raises(InvalidInput, match=rf"{tool} config: .*imag"):
        read(tool=tool)
    with pytest.raises(InvalidInput, match="`--compose`: no-such-command does not answer"):
        read(tool="no-such-command")
