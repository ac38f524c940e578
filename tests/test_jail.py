"""The filter of a locked process, by an interpreter of its own and the kernel's numbers."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from synthray import jail

KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050001
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(machine: str, architecture: int, number: int) -> int:
    """Run the classic BPF program as the kernel does."""
    steps = list(struct.iter_unpack("HBBI", jail.filter_program(machine)))
    data = struct.pack("<II", number, architecture)
    place = accumulator = 0
    while True:
        code, true, false, operand = steps[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x15:
            place += true if accumulator == operand else false
        else:
            assert code == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", MACHINES)
def test_only_what_is_listed_is_allowed_and_starting_anything_is_deadly(machine: str) -> None:
    allowed, deadly = jail.ALLOWED[machine].values(), jail.DEADLY[machine].values()
    for number in [*range(600), *(0x40000000 | n for n in range(600))]:
        wanted = ALLOW if number in allowed else KILL if number in deadly else REFUSE
        assert verdict(machine, MACHINES[machine], number) == wanted


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_of_another_machine_are_deadly(machine: str) -> None:
    assert {verdict(machine, 0x40000003, number) for number in range(600)} == {KILL}


@pytest.mark.parametrize("machine", [machine for machine in MACHINES if HEADERS[machine].is_file()])
def test_the_numbers_are_the_kernels(machine: str) -> None:
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    for name, number in {**jail.ALLOWED[machine], **jail.DEADLY[machine]}.items():
        assert known[name] == number, name


@pytest.mark.parametrize(
    ("found", "wanted", "ordered", "same"),
    [
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], False, True),
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True, False),
        ([(0.1 + 0.2,)], [(0.3,)], True, True),
        ([(1,), (1,)], [(1,), (2,)], False, False),
        ([(1,), (1,)], [(1,)], False, False),
        ([(None,)], [(0,)], False, False),
        ([("1",)], [(1,)], False, False),
        ([(True,)], [(1,)], False, True),
        ([(float("nan"),)], [(float("nan"),)], False, True),
        ([], [], True, True),
    ],
)
def test_results_are_compared_as_bags_or_lists(found: list, wanted: list, ordered: bool, same: bool) -> None:  # type: ignore[type-arg]
    assert (jail.difference(found, wanted, ordered) == "") is same
