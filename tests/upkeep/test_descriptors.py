"""The budget of descriptors: who gives way, when, and at what cost."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rtunnel.upkeep import descriptors
from rtunnel.upkeep.descriptors import FEW, LEAST_RESERVE, LOOK_EVERY, Descriptors, Place, open_descriptors, quick_count
from tests.leftovers import TestLog

LIMIT = 116
ROOM = LIMIT - LEAST_RESERVE
"""How many the holders may have while nothing else is open."""
HEAVY, LIGHT = "198.51.100.1", "192.0.2.1"


class Holder:
    """Has a place until it is told to give way."""

    touched = False

    def __init__(
        self, budget: Budget, address: str = HEAVY, owner: str = "web", count: int = 1, *, lingers: bool = False
    ) -> None:
        self.budget = budget
        self.lingers = lingers
        self.was_cut = False
        self.count = count
        budget.open += count
        self.place: Place = budget.descriptors.add(self, address, owner, count)

    def cut(self) -> None:
        assert not self.was_cut
        self.was_cut = True
        if not self.lingers:
            self.leave()

    def leave(self) -> None:
        self.budget.open -= self.count
        self.budget.descriptors.remove(self.place)


class Budget:
    """A process with so many descriptors.

    :ivar open: how many it has open.
    :ivar asked: how often that was asked.
    :ivar slowness: seconds that pass while it is asked, in which others have the processor.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.open = 0
        self.asked = 0
        self.slowness = 0.0
        self.clock = Clock()
        self.descriptors = Descriptors(self.clock, lambda: self.limit, self._count, lambda: 0.0)

    def _count(self) -> int:
        self.asked += 1
        self.clock.advance(self.slowness)
        return self.open

    def fill(self, count: int = ROOM, address: str = HEAVY, owner: str = "web") -> list[Holder]:
        return [Holder(self, address, owner) for _ in range(count)]

    def look(self) -> None:
        self.clock.advance(LOOK_EVERY)
        self.descriptors.tick()


@pytest.fixture
def budget() -> Budget:
    return Budget()


def cut(holders: list[Holder]) -> int:
    return sum(holder.was_cut for holder in holders)


def test_whoever_is_alone_may_use_everything(budget: Budget) -> None:
    alone = budget.fill()
    budget.look()
    assert not cut(alone)
    more = budget.fill(3)
    assert [holder.was_cut for holder in alone] == [True] * 3 + [False] * (ROOM - 3)
    assert not cut(more)
    assert budget.open == budget.descriptors.held == ROOM


def test_heaviest_address_gives_way_whoever_comes(budget: Budget) -> None:
    light = budget.fill(FEW, address=LIGHT)
    heavy = budget.fill(ROOM - FEW)
    newcomers = [Holder(budget, address) for address in (LIGHT, HEAVY, "203.0.113.1") for _ in range(3)]
    assert cut(heavy) == 9
    assert not cut(light + newcomers)


def test_count_is_that_of_one_address_and_one_owner(budget: Budget) -> None:
    holders = [Holder(budget, HEAVY, owner) for owner in ("web", "web", "mail")]
    Holder(budget, LIGHT)

    def count(address: str, owner: str) -> int:
        return budget.descriptors.count(address, owner)

    assert (count(HEAVY, "web"), count(HEAVY, "mail"), count(LIGHT, "web")) == (2, 1, 1)
    assert count(LIGHT, "mail") == count("203.0.113.1", "web") == count(HEAVY, "dns") == 0
    for holder in holders:
        holder.leave()
    assert count(HEAVY, "web") == count(HEAVY, "mail") == 0


def test_two_of_a_kind_share(budget: Budget) -> None:
    one, other = budget.fill(), budget.fill(address=LIGHT)
    assert ROOM - cut(one) == pytest.approx(ROOM - cut(other), abs=1)


def test_longest_idle_goes_first(budget: Budget) -> None:
    holders = budget.fill()
    first, second = holders[:2]
    first.touched = True
    budget.look()
    assert not first.touched
    budget.fill(ROOM - 1)
    assert second.was_cut
    assert not first.was_cut
    budget.fill(1)
    assert first.was_cut


def test_who_is_active_between_two_looks_does_not_go(budget: Budget) -> None:
    """Neither in a flood from its own address nor in a crowd from everywhere."""
    shell, *_ = budget.fill(ROOM - 1)
    crowd = Holder(budget, LIGHT)
    for number in range(3 * ROOM):
        shell.touched = crowd.touched = True
        Holder(budget, f"198.51.100.{number}" if number > 2 * ROOM else HEAVY)
    assert not cut([shell, crowd])


def test_where_all_are_active_the_oldest_goes(budget: Budget) -> None:
    holders = budget.fill()
    for number in range(1, 4):
        for holder in holders:
            holder.touched = True
        holders.append(Holder(budget))
        assert cut(holders[:number]) == cut(holders) == number
        assert budget.open == ROOM


def test_connection_that_cannot_be_cut_costs_nobody_else(budget: Budget, logged: TestLog) -> None:
    class Broken(Holder):
        def cut(self) -> None:
            super().cut()
            raise RuntimeError("oh")

    broken = Broken(budget)
    budget.fill(ROOM - 1)
    newcomer = Holder(budget)
    assert broken.was_cut
    newcomer.leave()
    assert budget.descriptors.held == ROOM - 1
    assert len(logged.flush_errors(RuntimeError)) == 1


def test_heaviest_tunnel_of_an_address_gives_way(budget: Budget) -> None:
    """All come from a proxy in front: whose tunnel is flooded loses, not whose visitors have been idle for hours."""
    shell = budget.fill(5, owner="ssh")
    web = budget.fill(ROOM - 5)
    newcomers = budget.fill(ROOM - 10)
    assert not cut(shell)
    assert cut(web) == ROOM - 10
    assert not cut(newcomers)


def test_crowd_from_everywhere_takes_nothing_from_another_tunnel(budget: Budget) -> None:
    """Those of the other tunnel have more connections than any of the crowd."""
    shell = budget.fill(FEW, address=LIGHT, owner="ssh")
    crowd = [Holder(budget, f"198.51.100.{number}") for number in range(3 * ROOM)]
    assert not cut(shell)
    # The oldest went first.
    assert [holder.was_cut for holder in crowd] == [True] * (len(crowd) - ROOM + FEW) + [False] * (ROOM - FEW)


def test_idle_ones_of_a_crowd_go_first(budget: Budget) -> None:
    crowd = [Holder(budget, f"198.51.100.{number}") for number in range(ROOM)]
    crowd[0].touched = True
    budget.look()
    budget.fill(2, address=LIGHT)
    assert [holder.was_cut for holder in crowd[:4]] == [False, True, True, False]


def test_places_count_as_many_as_they_have(budget: Budget) -> None:
    pairs = [Holder(budget, count=2) for _ in range(ROOM // 2)]
    assert not cut(pairs)
    Holder(budget, LIGHT)
    assert cut(pairs) == 1
    Holder(budget, LIGHT)
    assert cut(pairs) == 1


def test_reserve_and_what_others_have_open_is_left_to_them(budget: Budget) -> None:
    holders = budget.fill()
    budget.open += 10
    budget.descriptors.tick()
    assert cut(holders) == 10
    budget.open -= 10
    budget.fill(10)
    budget.descriptors.tick()
    assert cut(holders) == 10


def test_others_are_not_forgotten_between_two_ticks(budget: Budget) -> None:
    """Each newcomer causes another descriptor that is nobody's here."""
    for _ in range(ROOM):
        Holder(budget)
        budget.open += 1
        assert budget.open <= LIMIT


def test_limit_that_sinks(budget: Budget) -> None:
    holders = budget.fill()
    budget.limit -= 20
    budget.descriptors.tick()
    assert cut(holders) == 20


def test_without_any_room_a_newcomer_has_its_turn(budget: Budget) -> None:
    budget.open = LIMIT
    one = Holder(budget)
    other = Holder(budget)
    assert [one.was_cut, other.was_cut] == [True, False]
    budget.descriptors.tick()
    assert [one.was_cut, other.was_cut] == [True, True]
    assert budget.descriptors.held == 0


def test_those_that_take_time_to_go_are_not_replaced_twice(budget: Budget) -> None:
    holders = [Holder(budget, lingers=True) for _ in range(ROOM)]
    for number in range(5):
        Holder(budget, LIGHT)
        assert cut(holders) == number + 1
    for holder in holders[:5]:
        holder.leave()
    assert budget.open == budget.descriptors.held == ROOM
    budget.fill(1, address=LIGHT)
    assert cut(holders) == 6


def test_the_log_is_told_once(budget: Budget, logged: TestLog) -> None:
    budget.fill(3 * ROOM)
    assert logged.text().count("the one that was idle for longest") == 1
    assert HEAVY in logged.text()
    assert "LimitNOFILE=" in logged.text()
    budget.look()
    assert f"{2 * ROOM - 1} more times" in logged.text()


def test_at_random() -> None:
    """The account is right, and nobody light loses while somebody is heavy."""
    chance = random.Random(7)
    budget = Budget(1000)
    there: dict[Holder, str] = {}
    for step in range(5000):
        address = HEAVY if chance.random() < 0.9 else f"192.0.2.{chance.randrange(200)}"
        holder = Holder(budget, address, chance.choice("abc"), chance.choice((1, 2)))
        there[holder] = address
        holder.touched = chance.random() < 0.5
        if chance.random() < 0.2:
            gone = chance.choice([each for each in there if not each.was_cut])
            del there[gone]
            gone.leave()
        for each in [each for each in there if each.was_cut]:
            assert there.pop(each) == HEAVY
        if step % 100 == 0:
            budget.look()
        assert budget.open == budget.descriptors.held == sum(each.count for each in there)
        assert budget.open <= 1000 - 1000 * descriptors.RESERVE
    for each in list(there):
        each.leave()
    assert not budget.descriptors._addresses
    assert not budget.descriptors._owners
    assert not budget.descriptors._addresses.by_weight


@pytest.mark.parametrize("size", [200, 20_000])
@pytest.mark.parametrize("addresses", [1, 1_000_000])
def test_work_for_a_newcomer_does_not_grow(size: int, addresses: int) -> None:
    """Neither with those who are there, nor with where they come from."""
    budget = Budget(size + size // 8)
    calls: Counter[str] = Counter()
    for number in range(size):
        Holder(budget, str(number % addresses))

    def count(_frame: object, event: str, _argument: object) -> None:
        calls[event] += 1

    newcomers = 100
    sys.setprofile(count)
    try:
        for number in range(newcomers):
            Holder(budget, str((size + number) % addresses))
    finally:
        sys.setprofile(None)
    assert calls.total() / newcomers < 200


def test_what_the_system_says() -> None:
    quick = quick_count()
    before, quickly = open_descriptors(), quick()
    assert before >= 3
    with Path(os.devnull).open():
        assert open_descriptors() == before + 1
        assert quick() == quickly + 1
    assert abs(quickly - before) <= 1


def test_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(descriptors, "_FOLDERS", (tmp_path / "missing",))
    assert quick_count()() == 0
    budget = Budget()
    budget.descriptors._count_open = open_descriptors
    holders = budget.fill()
    assert not cut(holders)
    budget.fill(1)
    assert cut(holders) == 1


def test_system_that_says_no_more(budget: Budget) -> None:
    """To list the descriptors takes one, and a chroot may lack the folder: what was known last is true."""
    budget.open = 10
    budget.descriptors.tick()
    budget.descriptors._count_open = lambda: 0
    holders = budget.fill(ROOM)
    assert cut(holders) == 10


def test_what_is_opened_between_two_looks_at_the_system_is_counted(budget: Budget) -> None:
    """A client brings many data connections at once; asking the system for each of them would cost too much."""
    budget.fill()
    most = budget.open
    budget.descriptors._ask_at = 1.0  # not before that
    asked = budget.asked
    for _ in range(2 * LEAST_RESERVE):
        budget.open += 1
        budget.descriptors.make_room()
        assert budget.open <= most + 1
    assert budget.asked == asked
    budget.clock.advance(1)
    budget.open -= 2 * LEAST_RESERVE
    budget.descriptors.tick()
    assert len(budget.fill(2 * LEAST_RESERVE)) + budget.descriptors.held - 2 * LEAST_RESERVE == ROOM
    assert budget.open == most


def test_others_had_the_processor_while_it_asked() -> None:
    """That is no reason to ask less often."""
    budget = Budget()
    budget.slowness = 0.03
    budget.descriptors.tick()
    budget.limit = LIMIT // 2
    budget.fill()
    assert budget.open <= LIMIT // 2 - LEAST_RESERVE
