"""Finds the maps and programs that are in use through the filters that run them, and gives them back the names that somebody took away.

A pin is only a name. While a program is attached, the kernel keeps it and its maps; a start that made new maps under the missing names
would write rows that no program reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from services.datapath.kernel import abi, devices, links, objects, overlay, syscalls
from services.datapath.kernel.netlink import Netlink

N = TypeVar("N")
_NAME_BYTES = 15
"""So much of a map's name the kernel keeps (BPF_OBJ_NAME_LEN); no two of our maps begin alike for so long."""
_AGAIN = "_again"
"""Suffix of a pin that is about to take the place of another one."""


def places(wire: Netlink, uplinks: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield the ifindex of each device that there is, the hook, and the program that belongs on it."""
    shared = dict.fromkeys(uplinks, (links.INGRESS, "from_network"))
    shared[links.HOST_DEVICE] = (links.EGRESS, "from_host")
    shared |= dict.fromkeys(overlay.standing(wire), (links.INGRESS, "from_overlay"))
    for device in devices.all_devices(wire):
        if links.endpoint_of_interface(device.name) is not None:
            yield device.ifindex, links.INGRESS, "from_pod"
        elif device.name in shared:
            yield device.ifindex, *shared[device.name]


def attached_programs(wire: Netlink, uplinks: Sequence[str]) -> dict[str, int]:
    """Return the programs that run on this node, by name: of all devices of a kind the first that has one speaks for the others."""
    found: dict[str, int] = {}
    for ifindex, hook, program in places(wire, uplinks):
        if program not in found:
            standing = links.attached(wire, ifindex, hook)
            if standing is not None:
                found[program] = standing.program_id
    return found


def used_maps(directory: Path, programs: Sequence[int]) -> dict[str, set[int]]:
    """Return the maps of these programs by the beginning of their names; those that a move to another shape has put aside are left out."""
    aside = {int(pin.name.rpartition("_")[2]) for pin in directory.glob(f"{abi.PIN_PREFIX}*_old_*")}
    aside |= {pinned_map(directory / f"{abi.PIN_PREFIX}{name}_new") or 0 for name in abi.map_specs(1, 1)}
    found: dict[str, set[int]] = {}
    for program in programs:
        for name, ids in maps_of(program).items():
            if left := ids - aside:
                found.setdefault(name, set()).update(left)
    return found


def maps_of(program: int) -> dict[str, set[int]]:
    """Return the numbers of the maps that a program uses, by the beginning of their names."""
    found: dict[str, set[int]] = {}
    with _opened(objects.program_by_id, program) as fd:
        ids = objects.program_maps(fd) if fd is not None else ()
    for map_id in ids:
        with _opened(objects.map_by_id, map_id) as fd:
            if fd is not None:
                found.setdefault(objects.map_name(fd), set()).add(map_id)
    return found


def settle(wire: Netlink, directory: Path, uplinks: Sequence[str]) -> None:
    """Give a recorded table its name back where a former version put it aside and was killed before any program had the new one."""
    kinds = {name: spec.kind for name, spec in abi.map_specs(1, 1).items()}
    put_aside = [name for name in kinds if any(directory.glob(f"{abi.PIN_PREFIX}{name}_old_*"))]
    recorded = [name for name in put_aside if kinds[name] == "lru_hash"]
    if not recorded:
        return
    uses = [maps_of(program) for program in all_attached(wire, uplinks)]
    for name in recorded:
        pin, tables = (
            directory / f"{abi.PIN_PREFIX}{name}",
            [ids for use in uses if (ids := use.get(name[:_NAME_BYTES]))],
        )
        shared = set[int].intersection(*tables) if tables else set()
        if shared and pinned_map(pin) not in shared:
            _pin_again(pin, max(shared))


def all_attached(wire: Netlink, uplinks: Sequence[str]) -> set[int]:
    """Return the numbers of every program that runs on any of this node's places."""
    ways_out = [(links.find_uplink(wire, name).ifindex, links.EGRESS) for name in uplinks]
    wanted = [*((ifindex, hook) for ifindex, hook, _ in places(wire, uplinks)), *ways_out]
    found = [links.attached(wire, ifindex, hook) for ifindex, hook in wanted]
    return {standing.program_id for standing in found if standing is not None}


def foreign_pins(wire: Netlink, directory: Path, uplinks: Sequence[str]) -> Iterator[Path]:
    """Yield the pins that stand for another map than the one that programs use."""
    used = used_maps(directory, list(attached_programs(wire, uplinks).values()))
    for name in abi.map_specs(1, 1):
        pin = directory / f"{abi.PIN_PREFIX}{name}"
        pinned = pinned_map(pin)
        if pinned is not None and pinned not in used.get(name[:_NAME_BYTES], {pinned}):
            yield pin


def restore(wire: Netlink, directory: Path, uplinks: Sequence[str]) -> tuple[str, ...]:
    """Pin again, by their own names, the programs and maps in use that have lost theirs; return which. A kill leaves nothing half done."""
    for unfinished in directory.glob(f"{abi.PIN_PREFIX}*{_AGAIN}"):
        unfinished.unlink(missing_ok=True)
    programs = attached_programs(wire, uplinks)
    restored = []
    for name, number in programs.items():
        pin = directory / f"{abi.PIN_PREFIX}{name}"
        with _opened(objects.program_by_id, number) as fd:
            # whoever attached another one under this name is put right by attaching, not by pinning
            if fd is not None and not pin.exists() and objects.program_name(fd) == name:
                syscalls.object_pin(fd, str(pin))
                restored.append(pin.name)
    used = used_maps(directory, list(programs.values()))
    for name in abi.map_specs(1, 1):
        pin, ids = directory / f"{abi.PIN_PREFIX}{name}", used.get(name[:_NAME_BYTES])
        if ids and pinned_map(pin) not in ids:
            _pin_again(pin, max(ids))
            restored.append(pin.name)
    return tuple(restored)


def _pin_again(pin: Path, map_id: int) -> None:
    again = pin.with_name(pin.name + _AGAIN)
    with _opened(objects.map_by_id, map_id) as fd:
        if fd is not None:
            syscalls.object_pin(fd, str(again))
            again.rename(pin)


def pinned_map(pin: Path) -> int | None:
    """Return the number of the map that is pinned there, or None."""
    with _opened(syscalls.object_get, str(pin)) as fd:
        return None if fd is None else syscalls.map_info(fd).map_id


@contextmanager
def _opened(open_object: Callable[[N], int], name: N) -> Iterator[int | None]:
    """Open something for a moment; None if it is not there any more."""
    fd = None
    with suppress(OSError):
        fd = open_object(name)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
