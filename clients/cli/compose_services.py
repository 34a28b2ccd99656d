"""Services of a compose file as workloads: the labels that the network plugin will give their containers, on each of their networks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clients.cli.compose_merge import mapping, pairs
from fairlead import containers
from fairlead.containers import CHOSEN, ISOLATION, PROJECT, SERVICE, SWITCH
from fairlead.errors import InvalidInput
from fairlead.schema.policy import PolicyObject

_DRIVER = "fairlead"
_BORROWS = "service:"


@dataclass(frozen=True)
class Habits:
    """What the plugin is told on the hosts where the stack will run."""

    labels: tuple[str, ...] = CHOSEN
    image: bool = False
    isolation: bool = False
    driver: str = _DRIVER


@dataclass(frozen=True)
class Network:
    """A network of Fairlead's."""

    name: str
    isolated: bool


@dataclass(frozen=True)
class Service:
    """A service with what its containers will carry."""

    name: str
    labels: Mapping[str, str]
    image: str = ""
    networks: tuple[Network, ...] = ()
    elsewhere: str = ""
    """Why none of the networks is Fairlead's: whose they are instead."""


@dataclass(frozen=True)
class Stack:
    """One project."""

    project: str
    services: Mapping[str, Service]
    habits: Habits = field(default_factory=Habits)

    def parties(self, service: str) -> dict[tuple[str, ...], list[str]]:
        """Return each set of identity labels that containers of a service have, with the names of the networks where they have it."""
        one = self.services[service]
        found: dict[tuple[str, ...], list[str]] = {}
        for network in one.networks:
            found.setdefault(self._labels(one, network), []).append(network.name)
        return found

    def _labels(self, service: Service, network: Network) -> tuple[str, ...]:
        return containers.identity_labels(
            service.labels,
            self.habits.labels,
            image=service.image if self.habits.image else "",
            network=network.name if network.isolated else "",
        )

    def without(self, name: object) -> str:
        """Return what to say of a service that is not there."""
        return f"there is no service {name!r} in {self.project}: there are {', '.join(sorted(self.services)) or 'none'}"

    def stated_by_the_plugin(self) -> Iterator[tuple[str, PolicyObject]]:
        """Yield the policies that the plugin will state when containers start, each with where it comes from. Raises InvalidInput."""
        isolated = {network.name for one in self.services.values() for network in one.networks if network.isolated}
        yield from ((f"isolation of network {name}", containers.isolation_policy(name)) for name in sorted(isolated))
        for one in self.services.values():
            try:
                policy = containers.shorthand_policy(one.labels)
            except InvalidInput as error:
                raise InvalidInput(f"services.{one.name}.labels: {error.message}") from error
            if policy is not None:
                yield f"services.{one.name}.labels", policy


def stack_of(project: str, resolved: Mapping[str, Any], habits: Habits) -> Stack:
    """Return the stack in what compose has resolved. Raises InvalidInput naming path and mend."""
    plain = mapping(resolved.get("services"), "`services`")
    networks = mapping(resolved.get("networks"), "`networks`")
    # what is built without a name is called so: docker-compose 1.29 tells no project, and joins otherwise than compose v2
    glue = "-" if "name" in resolved else "_"
    services = {}
    for name, given in plain.items():
        where = f"services.{name}"
        one = mapping(given, f"`{where}`")
        labels = {**_labels(one.get("labels"), f"`{where}.labels`"), PROJECT: project, SERVICE: name}
        image = str(one.get("image") or f"{project}{glue}{name}")
        found, elsewhere = _networks(_lender(one, plain), networks, project, habits)
        services[name] = Service(name, labels, image, found, elsewhere)
    return Stack(project, services, habits)


def _labels(given: Any, where: str) -> dict[str, str]:
    return {key: _text(value) for key, value in pairs(given, where).items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _lender(service: dict[str, Any], services: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose network the service is on: its own, or that of the service from which it borrows it."""
    mode = str(service.get("network_mode") or "")
    lender = services.get(mode.removeprefix(_BORROWS)) if mode.startswith(_BORROWS) else None
    return lender if isinstance(lender, dict) else service


def _networks(
    service: dict[str, Any], known: Mapping[str, Any], project: str, habits: Habits
) -> tuple[tuple[Network, ...], str]:
    """Return the networks of Fairlead's that a service is on, and whose they are if there are none."""
    if mode := service.get("network_mode"):
        return (), f"`network_mode: {mode}`"
    names = list(pairs(service.get("networks"), "`networks`")) or ["default"]
    found, others = [], []
    for name in names:
        given = mapping(known.get(name), f"`networks.{name}`")
        external = given.get("external")
        driver = habits.driver if external else str(given.get("driver") or "bridge")
        if driver == habits.driver:
            found.append(Network(_name(name, given, project), _isolated(given, name, habits)))
        else:
            others.append(f"`networks.{name}` has the driver {driver}")
    return tuple(found), ", ".join(others)


def _name(key: str, given: dict[str, Any], project: str) -> str:
    """Return the network's name as the engine knows it."""
    external = given.get("external")
    own = external.get("name") if isinstance(external, dict) else given.get("name")
    return str(own or (key if external else f"{project}_{key}"))


def _isolated(given: dict[str, Any], key: str, habits: Habits) -> bool:
    options = mapping(given.get("driver_opts"), f"`networks.{key}.driver_opts`")
    if ISOLATION not in options:
        return habits.isolation
    said = _text(options[ISOLATION]).lower()
    if said not in SWITCH:
        raise InvalidInput(f"`networks.{key}.driver_opts.{ISOLATION}`: {said!r} is neither on nor off")
    return SWITCH[said]
