from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.containers import identity_labels, image_name, isolation_policy, shorthand_policy
from fairlead.errors import InvalidInput

CHOSEN = ("app", "com.example.*")
PROJECT = {"com.docker.compose.project": "shop"}


def test_only_chosen_labels_count() -> None:
    given_labels = {
        "app": "web",
        "build": "4711",
        "com.example.team": "red",
        "fairlead.label.role": "x",
        "fairlead.port.http": "80",
    }
    assert identity_labels(given_labels, CHOSEN) == (
        "container:app=web",
        "container:com.example.team=red",
        "container:fairlead.port.http=80",
        "container:role=x",
    )


def test_what_cannot_stand_in_a_label_is_replaced() -> None:
    assert identity_labels({"app": "a,b;c\n"}, CHOSEN) == ("container:app=a_b_c_",)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx:1.27", "nginx"),
        ("h:5000/a/b:1@sha256:00", "h:5000/a/b"),
        ("h:5000/a/b", "h:5000/a/b"),
        ("busybox", "busybox"),
    ],
)
def test_an_images_name_has_no_tag(image: str, name: str) -> None:
    assert image_name(image) == name
    assert identity_labels({}, (), image=image) == (f"container:image={name}",)


def test_shorthand_says_peers_ports_and_prefixes() -> None:
    policy = shorthand_policy(
        {
            **PROJECT,
            "fairlead.ingress.from": "web:5432, other/api, world:80/udp",
            "fairlead.egress.allow": "dns,10.0.0.0/8:443,[fd00::]/8,fd01::1",
        }
    )
    assert policy is not None
    assert policy.spec is not None
    name = policy.metadata["name"]
    assert policy.spec["endpointSelector"] == {"matchLabels": {"container:fairlead.policy": name}}
    service = "container:com.docker.compose.service"
    project = "container:com.docker.compose.project"
    assert policy.spec["ingress"] == [
        {
            "fromEndpoints": [{"matchLabels": {project: "shop", service: "web"}}],
            "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}],
        },
        {"fromEndpoints": [{"matchLabels": {project: "other", service: "api"}}]},
        {"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "80", "protocol": "UDP"}]}]},
    ]
    assert [rule.get("toCIDR") for rule in policy.spec["egress"][1:]] == [["10.0.0.0/8"], ["fd00::/8"], ["fd01::1/128"]]
    labels = identity_labels({**PROJECT, "fairlead.ingress.from": "web"}, ())
    assert labels[0].startswith("container:fairlead.policy=docker-")


def test_the_same_shorthand_is_the_same_policy_and_another_project_another() -> None:
    written = {"fairlead.ingress.from": "web:80"}
    first, second = (shorthand_policy({**PROJECT, **written, "build": number}) for number in "12")
    assert first == second
    assert shorthand_policy({"com.docker.compose.project": "x", **written}) != first
    assert shorthand_policy(PROJECT) is None


def test_empty_shorthand_lets_nobody() -> None:
    policy = shorthand_policy({"fairlead.ingress.from": "  "})
    assert policy is not None
    assert policy.spec is not None
    assert policy.spec["ingress"] == [{}]


@pytest.mark.parametrize(
    "item",
    ["web", "a b", "web:99999", "web:0", "10.0.0.0/33", "[nonsense]", "shop/a*", ":80", "web:80/sctp", "x/y/z w"],
)
def test_wrong_shorthand_names_label_and_item(item: str) -> None:
    with pytest.raises(InvalidInput, match=r"`fairlead\.egress\.allow`"):
        shorthand_policy({"fairlead.egress.allow": item})


@given(st.text(max_size=40))
def test_any_text_is_a_policy_or_a_named_error(text: str) -> None:
    message = ""
    try:
        shorthand_policy({**PROJECT, "fairlead.ingress.from": text})
    except InvalidInput as error:
        message = error.message
    assert not message or "`fairlead.ingress.from`" in message


def test_isolation_is_by_the_networks_name() -> None:
    assert isolation_policy("net") == isolation_policy("net")
    assert isolation_policy("net").metadata != isolation_policy("other").metadata
