"""One budget of bytes for all that a process holds for its peers, and the share of each (docs/architecture.rst).

Nobody counts bytes as they come and go, which would cost every read and every write something. What a process holds can
only grow by what comes in. So what comes in is added up, and when that is enough to change the picture, everybody is
asked what he holds (:meth:`Memory.look`). That happens in a turn of the reactor of its own, so nobody loses a stream
that he is just working on.

A payer is a client, an address or a peer. One that holds too much gets smaller windows. If all of them together hold
more than the budget, those that hold most lose streams, those with the most bytes first. Where that would hit streams
that hold little, because there are so many of them, new ones are refused in time.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtunnel import delayed_calls
from rtunnel.coercions import show_size
from rtunnel.wire.credit import Growth

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

#: The share of the machine's memory that is the budget unless the operator says otherwise.
DEFAULT_SHARE = 1 / 4
#: The budget if the system does not say how much memory there is.
FALLBACK = 512 * 1024 * 1024
#: What a stream costs in itself, in bytes: its objects, with those of Twisted.
STREAM = 4 * 1024
#: One payer may hold as many times what is free. So one alone gets three quarters of the budget, two get three sevenths
#: each, and there is always something left for the next one.
TIMES_FREE = 3
#: When more is held than the budget, streams are reset until it is this share.
AFTERWARDS = 7 / 8
#: Whose streams all hold no more than this, in bytes, has too many rather than too large ones.
LITTLE = 16 * 1024
#: No look before this share of the budget has come in, because a look costs more than a microsecond for each stream.
STEP = 1 / 16
#: Looks may take this part of our time while there is enough for all. A small budget with thousands of streams would
#: otherwise cost most of it.
LOOKING = 1 / 5
#: Seconds between two log lines of a kind.
SAID_EVERY = 60.0

#: Something that holds bytes and can be given up.
Holding = Any


class IParty(Protocol):
    """A link or a peer connection, with its streams. Hashed by identity."""

    @property
    def payer(self) -> str:
        """Who pays for what it holds: the client's name, or the peer's address or ID."""

    def holdings(self) -> Iterator[tuple[int, Holding]]:
        """Yield what holds memory: the bytes, and what :meth:`free` takes."""

    def free(self, holding: Holding) -> None:
        """Free what *holding* holds by resetting its stream, or by ending the connection if it is the party itself."""

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """Take note of how much the payer holds.

        :param is_short: it holds too much, so windows shrink.
        :param is_full: in addition, it has so many streams that there is no room for another one.
        """

    def measure_growth(self) -> int:
        """Return by how many bytes the windows of its streams exceed their initial size."""


class Memory:
    """The budget of a process.

    :param total: in bytes.
    :param log: for the few lines about those who hold too much.
    :ivar growth: how much windows may grow: all together by half of the budget.
    :ivar came: how many bytes have come in since the last look. Where calls cost too much, add to this; call
        :meth:`look_soon` when it has reached *look_at*.
    :ivar look_at: how many are enough for a look.
    """

    def __init__(self, total: int, clock: IReactorTime, log: Logger) -> None:
        self.total = total
        self.growth = Growth(total // 2)
        self._clock = clock
        self._log = log
        self._parties: set[IParty] = set()
        self.came = 0
        self.look_at = total // 4
        self._call: IDelayedCall | None = None
        self._not_before = 0.0
        self._is_late = False
        # How much was free at the last look.
        self._free = total
        self._anyone_is_short = False
        self._said: dict[str, float] = {}

    def resize(self, total: int) -> None:
        """Let the budget be *total* bytes from now on."""
        self.total = total
        self.look()

    @property
    def held_at_most(self) -> int:
        """How many bytes are held, or fewer: what was at the last look, and all that has come since."""
        return min(self.total, self.total - self._free + self.came)

    def join(self, party: IParty) -> None:
        """Count what *party* holds from now on."""
        self._parties.add(party)

    def leave(self, party: IParty) -> None:
        """Forget *party*. May be called twice."""
        self._parties.discard(party)

    def add(self, count: int) -> None:
        """Take note that *count* bytes have come in, and may have to be kept."""
        self.came += count
        if self.came >= self.look_at:
            self.look_soon()

    def look_soon(self) -> None:
        """Look in the next turn of the reactor; later if looks take too long, and there is still enough for all."""
        is_urgent = self.came >= self._free
        if self._call is None:
            wait = 0.0 if is_urgent else max(0.0, self._not_before - self._clock.seconds())
            self._call = self._clock.callLater(wait, self.look)
            self._is_late = wait > 0.0
        elif is_urgent and self._is_late:
            self._is_late = False
            self._call.reset(0.0)

    def tick(self) -> None:
        """Look whether memory is free again. Call this about once a second."""
        if self._anyone_is_short or self.growth.left < self.total // 4:
            self.look()

    def look(self) -> None:
        """Find out who holds how much, and do something about it."""
        call, self._call = self._call, None
        delayed_calls.cancel(call)
        started = self._clock.seconds()
        self._look()
        now = self._clock.seconds()
        self._not_before = now + (now - started) * (1 / LOOKING - 1)

    def _look(self) -> None:
        held: Counter[str] = Counter()
        most: Counter[str] = Counter()
        for party in self._parties:
            payer, together, largest = party.payer, 0, most[party.payer]
            for count, _ in party.holdings():
                together += count
                if count > largest:
                    largest = count
            held[payer] += together
            most[payer] = largest
        used = held.total()
        if used > self.total:
            used -= self._relieve(held)
        self._free = free = max(0, self.total - used)
        self.came = 0
        self.look_at = max(int(self.total * STEP), free // 4)
        self.growth.left = max(0, self.total // 2 - sum(party.measure_growth() for party in self._parties))
        short = {payer for payer, count in held.items() if count > TIMES_FREE * free}
        self._anyone_is_short = bool(short)
        full = {payer for payer in short if most[payer] <= LITTLE}
        for party in self._parties:
            party.set_short(party.payer in short, party.payer in full)
        for payer in short:
            self._say(
                "memory is short: {peer} holds {held} of {total} (--memory), and {free} is free: {so}",
                peer=payer,
                held=_shown(held[payer]),
                total=show_size(self.total),
                free=_shown(free),
                so="it gets no more streams" if payer in full else "its streams get smaller windows",
            )

    def _relieve(self, held: Counter[str]) -> int:
        """Give up streams of those who hold most. Correct *held*, and return how many bytes are free then."""
        level = _level(held.values(), int(self.total * AFTERWARDS))
        freed = 0
        for payer, parties in self._by_payer().items():
            if held[payer] <= level:
                continue
            things = [(count, party, thing) for party in parties for count, thing in party.holdings()]
            # A link itself comes last.
            things.sort(key=lambda one: (one[2] is one[1], -one[0]))
            before, given_up = held[payer], 0
            for count, party, thing in things:
                if held[payer] <= level:
                    break
                try:
                    party.free(thing)
                except Exception:  # no fault of those who come next
                    self._log.failure("when {peer} was to give up memory", peer=payer)
                held[payer] -= count
                given_up += 1
            freed += before - held[payer]
            self._say(
                "memory is used up: {peer} held {held} of {total} (--memory); its connections with the most bytes are "
                "reset ({count})",
                peer=payer,
                held=_shown(before),
                total=show_size(self.total),
                count=given_up,
            )
        return freed

    def _by_payer(self) -> dict[str, list[IParty]]:
        parties = defaultdict(list)
        for party in self._parties:
            parties[party.payer].append(party)
        return parties

    def _say(self, format: str, **fields: object) -> None:
        now = self._clock.seconds()
        if now - self._said.get(format, -SAID_EVERY) >= SAID_EVERY:
            self._said[format] = now
            self._log.warn(format, **fields)


def _shown(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"


def _level(amounts: Iterable[int], target: int) -> float:
    """Return the most that each may have if all together have no more than *target*."""
    left, ordered = target, sorted(amounts)
    for index, amount in enumerate(ordered):
        fair = left / (len(ordered) - index)
        if amount > fair:
            return fair
        left -= amount
    return float("inf")


# How much memory there is


def default_memory() -> int:
    """Return a quarter of the memory that this process may use, in bytes."""
    return int(min(_limits(), default=FALLBACK / DEFAULT_SHARE) * DEFAULT_SHARE)


def _limits() -> Iterator[int]:
    """Yield the size of the machine's memory and the limits of this process: its own, and those of its cgroups."""
    with suppress(AttributeError, OSError, ValueError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resource is not None:
        for name in ("RLIMIT_AS", "RLIMIT_DATA"):
            limit, _ = resource.getrlimit(getattr(resource, name))
            if limit != resource.RLIM_INFINITY:
                yield limit
    yield from cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cgroup_limits(membership: Path, root: Path) -> Iterator[int]:
    """Yield the limits of the memory of each cgroup from this process's up to the root (Linux).

    :param membership: ``/proc/self/cgroup``, see cgroups(7).
    :param root: where version 2 is mounted, or version 1 with a folder for each controller.
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path:
            continue
        if not controllers:
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be that of the host, which is not there; the root is then the container's.
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                yield int((folder / name).read_text())  # "max" is no number
            if folder == base:
                break
