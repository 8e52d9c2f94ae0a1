"""One budget of memory: who holds too much gives way, and nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent

from rtunnel.upkeep import memory
from rtunnel.upkeep.memory import LITTLE, Memory, cgroup_limits, default_memory

KIB, MIB = 1 << 10, 1 << 20
TOTAL = 16 * MIB


class Party:
    """Holds things of given sizes."""

    def __init__(self, payer: str, *sizes: int) -> None:
        self.payer = payer
        self.sizes = dict(enumerate(sizes))
        self.freed: list[Any] = []
        self.state = (False, False)
        self.grown = 0

    @property
    def held(self) -> int:
        return sum(self.sizes.values())

    def holdings(self) -> Iterator[tuple[int, Any]]:
        yield 0, self
        for number, size in self.sizes.items():
            yield size, number

    def free(self, holding: Any) -> None:
        self.freed.append(holding)
        self.sizes.pop(holding, None)

    def set_short(self, is_short: bool, is_full: bool) -> None:
        self.state = is_short, is_full

    def measure_growth(self) -> int:
        return self.grown


class Rig:
    """A budget of 16 MiB, and what it logs."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        log = Logger("test", observer=self.events.append)  # type: ignore[arg-type]
        self.memory = Memory(TOTAL, self.clock, log)

    def join(self, payer: str, *sizes: int) -> Party:
        party = Party(payer, *sizes)
        self.memory.join(party)
        return party

    def come(self, size: int) -> None:
        """Let bytes come in, and the reactor have its next turn."""
        self.memory.add(size)
        self.clock.advance(0)

    @property
    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_nobody_is_bothered_while_there_is_enough(rig: Rig) -> None:
    parties = [rig.join("one", 5 * MIB), rig.join("two", 5 * MIB)]
    rig.memory.look()
    assert [party.state for party in parties] == [(False, False)] * 2
    assert not rig.events


def test_one_alone_may_have_three_quarters(rig: Rig) -> None:
    party = rig.join("one", 12 * MIB)
    rig.memory.look()
    assert party.state == (False, False)
    party.sizes[1] = MIB
    rig.memory.look()
    assert party.state == (True, False)
    (line,) = rig.lines
    assert line == (
        "memory is short: one holds 13 MiB of 16M (--memory), and 3 MiB is free: its streams get smaller windows"
    )
    del party.sizes[1]
    rig.memory.tick()
    assert party.state == (False, False)


def test_who_holds_little_is_not_short_beside_one_who_holds_much(rig: Rig) -> None:
    hog, honest = rig.join("hog", *[MIB] * 14), rig.join("honest", MIB)
    rig.memory.look()
    assert hog.state == (True, False)
    assert honest.state == (False, False)


def test_the_heaviest_streams_of_the_heaviest_payer_go(rig: Rig) -> None:
    hog = rig.join("hog", *[MIB] * 6, *[2 * MIB] * 4, 64 * KIB)
    honest = rig.join("honest", 3 * MIB)
    rig.memory.look()
    # 17 MiB and 64 KiB were held, and 14 are left.
    assert hog.freed == [6, 7]
    assert not honest.freed
    assert rig.lines[0].endswith("with the most bytes are reset (2)")


def test_many_links_of_one_payer_are_one(rig: Rig) -> None:
    many = [rig.join("many", MIB) for _ in range(12)]
    one = rig.join("one", *[MIB] * 5)
    rig.memory.look()
    assert sum(len(party.freed) for party in many) == 3
    assert not one.freed


def test_streams_that_hold_little_stay_and_new_ones_are_refused(rig: Rig) -> None:
    crowd = rig.join("crowd", *[LITTLE] * 900)
    rig.memory.look()
    assert not crowd.freed
    assert crowd.state == (True, True)
    assert rig.lines == [
        "memory is short: crowd holds 14 MiB of 16M (--memory), and 2 MiB is free: it gets no more streams"
    ]
    # Once they hold more, they are like any others.
    crowd.sizes |= dict.fromkeys(range(500), 2 * LITTLE)
    rig.memory.look()
    assert crowd.held <= TOTAL
    assert set(crowd.freed) < set(range(500))


def test_the_link_itself_goes_last(rig: Rig) -> None:
    class Link(Party):
        def holdings(self) -> Iterator[tuple[int, Any]]:
            yield 18 * MIB, self
            yield from list(super().holdings())[1:]

    link = Link("one", MIB)
    rig.memory.join(link)
    rig.memory.look()
    assert link.freed == [0, link]


def test_there_is_no_look_before_enough_has_come(rig: Rig) -> None:
    party = rig.join("one", 13 * MIB)
    rig.come(TOTAL // 4 - 1)
    assert party.state == (False, False)
    rig.come(1)
    assert party.state == (True, False)
    # Little is free; a sixteenth of all may come unseen.
    party.sizes = {0: MIB}
    rig.come(TOTAL // 16 - 1)
    assert party.state == (True, False)
    rig.come(1)
    assert party.state == (False, False)


@given(st.lists(st.integers(1, 256 * KIB), max_size=200))
def test_what_comes_never_exceeds_the_budget_by_much(sizes: list[int]) -> None:
    rig = Rig()
    hog, honest = rig.join("hog"), rig.join("honest", MIB)
    for number, size in enumerate(sizes):
        hog.sizes[number] = size
        rig.come(size)
        assert hog.held + honest.held <= TOTAL + max(int(TOTAL * memory.STEP), 256 * KIB) + 256 * KIB
    assert not honest.freed


def test_a_stream_that_is_freed_may_bring_more(rig: Rig) -> None:
    class Talkative(Party):
        def free(self, holding: Any) -> None:
            super().free(holding)
            rig.memory.add(TOTAL)

    party = Talkative("one", *[MIB] * 20)
    rig.memory.join(party)
    rig.memory.look()
    assert party.held == TOTAL * memory.AFTERWARDS


def test_nobody_loses_a_stream_that_he_is_working_on(rig: Rig) -> None:
    party = rig.join("one", *[MIB] * 20)
    rig.memory.add(TOTAL)
    assert not party.freed
    rig.clock.advance(0)
    assert party.freed


def test_a_stream_that_cannot_be_freed_costs_nobody_else(rig: Rig) -> None:
    class Broken(Party):
        def free(self, holding: Any) -> None:
            raise RuntimeError("oh")

    rig.memory.join(Broken("one", *[MIB] * 20))
    other = rig.join("two", *[MIB] * 20)
    rig.come(TOTAL)
    assert other.held <= TOTAL // 2
    assert any("give up memory" in line for line in rig.lines)


def test_looks_take_a_bounded_part_of_the_time(rig: Rig) -> None:
    """With thousands of streams a look is slow, and bytes may come fast."""

    class Slow(Party):
        looks = 0

        def holdings(self) -> Iterator[tuple[int, Any]]:
            self.looks += 1
            rig.clock.rightNow += 0.02
            yield from super().holdings()

    party = Slow("one")
    rig.memory.join(party)
    for _ in range(1000):
        # All that is free comes in with a hundred of these.
        rig.memory.add(TOTAL // 100)
        rig.clock.advance(0.0001)
    looks = party.looks
    assert 1 < looks <= 1000 / 100 + 1
    # What may use up the budget is looked at at once.
    rig.memory.add(TOTAL)
    rig.clock.advance(0)
    rig.memory.add(TOTAL)
    rig.clock.advance(0)
    assert party.looks == looks + 2


def test_windows_may_grow_into_half_of_the_budget(rig: Rig) -> None:
    assert rig.memory.growth.left == TOTAL // 2
    one, two = rig.join("one"), rig.join("two")
    one.grown, two.grown = 3 * MIB, 4 * MIB
    rig.memory.look()
    assert rig.memory.growth.left == MIB
    two.grown = 0
    rig.memory.tick()
    assert rig.memory.growth.left == 5 * MIB


def test_lines_are_few(rig: Rig) -> None:
    party = rig.join("one", 13 * MIB)
    for _ in range(100):
        rig.memory.look()
        rig.clock.advance(1)
    assert len(rig.events) == 2
    rig.memory.leave(party)
    rig.memory.leave(party)


# How much there is


def test_a_quarter_of_the_smallest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limits", lambda: iter([8 * MIB, 4 * MIB, 1 << 63]))
    assert default_memory() == MIB
    monkeypatch.setattr(memory, "_limits", lambda: iter([]))
    assert default_memory() == memory.FALLBACK


def test_this_machine() -> None:
    assert MIB < default_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "4096\n", "a/memory.max": "max\n", "memory.max": "8192\n"}, [4096, 8192]),
        ("0::/\n", {"memory.max": "4096\n"}, [4096]),
        ("0::/../../host\n", {"memory.max": "4096\n"}, [4096]),
        ("0::/gone\n", {}, []),
        (
            "5:cpu,memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": "4096\n", "memory/memory.limit_in_bytes": "9223372036854771712"},
            [4096, 9223372036854771712],
        ),
        ("nonsense\n", {}, []),
    ],
)
def test_limits_of_cgroups(tmp_path: Path, membership: str, files: dict[str, str], expected: list[int]) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert list(cgroup_limits(tmp_path / "membership", root)) == expected


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    assert list(cgroup_limits(tmp_path / "none", tmp_path)) == []
