"""One budget of file descriptors for the process, and who gives way when it is used up.

Every connection that a stranger can cause holds a place here: visitors of public ports, the connections that are
dialled for them, local connections, and so on. Everything else that is open (links, listening sockets, files, ICE,
pipes) is counted by asking the system, so nobody has to report it. A part of the limit is kept free for all that, so a
crowd of visitors keeps no client out.

There is no idle time after which a connection has to go: an SSH session may be idle for hours. Only when the budget is
used up does somebody give way to the newcomer: the longest-idle connection of the heaviest *address*; within that
address, of the heaviest *owner* (the tunnel or service that the connection belongs to). If no address has more than a
:data:`FEW`, the crowd comes from everywhere, and then the heaviest owner gives way. So an address that is alone may use
everything, and one that floods replaces its own connections.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from time import thread_time
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.relay.sockets import descriptor_limit
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService

#: The part of the limit that strangers leave to links, signaling, ICE and files, and its bounds, in descriptors.
RESERVE = 1 / 8
LEAST_RESERVE, MOST_RESERVE = 16, 1024
#: What is opened in advance, to wait for whoever comes, leaves this part of the limit free, ...
SPARE = 1 / 8
#: ... and some of it is closed again when less than this part is.
SHORT = 1 / 16
#: Seconds between two looks at how much is free for that.
SPARE_EVERY = 0.05
#: Descriptors of one address that are no sign of a flood: a browser opens six connections, each of which may take two.
FEW = 16
#: Asking the system how many descriptors are open may take this part of our time. Old systems have to list them.
ASKING = 1 / 100
#: Seconds between two looks at whom bytes have passed for. The order of idle times is as exact as that.
LOOK_EVERY = 10.0

_FOLDERS = Path("/proc/self/fd"), Path("/dev/fd")


class IHolder(Protocol):
    """What holds descriptors, and can give way.

    :ivar touched: set whenever a byte passes; cleared here.
    """

    touched: bool

    def cut(self) -> None:
        """Reset the connection, and close its descriptors now if possible. The place is given back as always."""


def open_descriptors() -> int:
    """Return how many descriptors this process has open; 0 if that is unknown, or none is left to find out."""
    for folder in _FOLDERS:
        with suppress(OSError):
            return sum(1 for _ in folder.iterdir())
    return 0


def quick_count() -> Callable[[], int]:
    """Return :func:`open_descriptors`, or what tells the same at once, where the system can (Linux since 6.2)."""

    def size_of_folder() -> int:
        with suppress(OSError):  # in a chroot, say
            return _FOLDERS[0].stat().st_size
        return 0

    with suppress(OSError):
        # The list has one more: the folder itself.
        if 0 <= open_descriptors() - size_of_folder() <= 1:
            return size_of_folder
    return open_descriptors


# Where visitors come one by one, these are made for each of them. So they have no __init__, which would cost a call.


class Part(OrderedDict["Place", None]):
    """The places of one address with one owner, the longest idle first."""

    __slots__ = ("address", "owner")

    address: _Share
    owner: _Share


class _Share(OrderedDict["_Share", Part]):
    """What one address has of each owner, or one owner of each address; there, what was used longest ago is first.

    :ivar held: how many descriptors that is.
    """

    __slots__ = ("held", "key")

    key: Hashable
    held: int

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class _Shares(dict[Hashable, _Share]):
    """The shares of all addresses or of all owners. The heaviest is found without a look at the others.

    :ivar most: what the heaviest holds.
    :ivar by_weight: the shares that hold so much, those that have held so much for longest first.
    """

    def __init__(self) -> None:
        self.most = 0
        self.by_weight: dict[int, dict[_Share, None]] = {}

    def heaviest(self) -> _Share:
        """Return the share that holds most; of several, the one that has held so much for longest."""
        return next(iter(self.by_weight[self.most]))


class Place:
    """The descriptors that one holder has.

    :ivar is_active: it is new, or a byte has passed, since the last search for idle connections, which clears it.
    :ivar part: where it is counted; None once it was told to give way.
    """

    __slots__ = ("count", "holder", "is_active", "part")

    count: int
    holder: IHolder
    is_active: bool
    part: Part | None


class Descriptors:
    """The budget of descriptors, and all places.

    :param clock: provides the time.
    :param limit: returns how many descriptors the process may open.
    :param count_open: returns how many it has open.
    :param cpu_seconds: returns how long the processor has worked for this thread.
    :ivar held: how many the holders have, including those that were told to give way and have not gone yet.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        limit: Callable[[], int] = descriptor_limit,
        count_open: Callable[[], int] | None = None,
        cpu_seconds: Callable[[], float] = thread_time,
    ) -> None:
        self.held = 0
        self._leaving = 0
        self._clock = clock
        self._seconds = clock.seconds
        self._limit = limit
        self._count_open = count_open or quick_count()
        self._cpu_seconds = cpu_seconds
        self._log_limiter = LogLimiter(self.log, clock, most=1)
        self._addresses = _Shares()
        self._owners = _Shares()
        # How many the holders may have, and up to how many nothing need be asked.
        self._room = self._unasked = 0
        # How many are open that have no place here, when that was last known.
        self._others = 0
        self._ask_at = self._spare_at = 0.0
        # How many of what the holders may have is not for what is opened in advance.
        self._needed = 0
        self._look_at = self._seconds() + LOOK_EVERY

    # Places

    def add(self, holder: IHolder, address: str, owner: Hashable, count: int = 1) -> Place:
        """Give *holder* a place, if need be in place of another one.

        :param address: whose it is: an :func:`~rtunnel.relay.sockets.address_prefix`, or the name of a peer.
        :param owner: what it is for: a tunnel, a service.
        :param count: how many descriptors it has, or is about to open.
        """
        share, owned = self._addresses.get(address), self._owners.get(owner)
        if share is None:
            share = self._addresses[address] = _Share()
            share.key, share.held = address, 0
        if owned is None:
            owned = self._owners[owner] = _Share()
            owned.key, owned.held = owner, 0
        part = share.get(owned)
        if part is None:
            part = share[owned] = owned[share] = Part()
            part.address, part.owner = share, owned
        else:
            owned.move_to_end(share)
        place = Place()
        place.holder, place.count, place.is_active, place.part = holder, count, True, part
        holder.touched = False
        part[place] = None
        self.held += count
        self._count(part, count)
        if self.held - self._leaving > self._unasked:
            self._ask()
            self._shrink(place)
        return place

    def remove(self, place: Place) -> None:
        """Take back the place of a holder that has closed its descriptors."""
        self.held -= place.count
        if place.part is None:
            self._leaving -= place.count
        else:
            self._leave(place.part, place)

    def count(self, address: str, owner: Hashable) -> int:
        """Return how many places *address* has for *owner*; see :meth:`add`."""
        share, owned = self._addresses.get(address), self._owners.get(owner)
        return len(share.get(owned, ())) if share is not None and owned is not None else 0

    def count_if(self, address: str, is_one: Callable[[Hashable], bool]) -> int:
        """Return how many places *address* has for owners of this kind. It takes the longer the more owners it has."""
        share = self._addresses.get(address)
        return sum(len(part) for owned, part in share.items() if is_one(owned.key)) if share is not None else 0

    def held_for(self, owner: Hashable) -> int:
        """Return how many descriptors holders have for *owner*; see :meth:`add`."""
        owned = self._owners.get(owner)
        return owned.held if owned is not None else 0

    @property
    def limit(self) -> int:
        """How many descriptors the process may open."""
        return self._limit()

    def _leave(self, part: Part, place: Place) -> None:
        place.part = None
        del part[place]
        if not part:
            del part.address[part.owner], part.owner[part.address]
        self._count(part, -place.count)

    def _count(self, part: Part, count: int) -> None:
        """Let *part* hold *count* descriptors more."""
        for shares, share in ((self._addresses, part.address), (self._owners, part.owner)):
            by_weight = shares.by_weight
            before = share.held
            share.held = now = before + count
            if before:
                alike = by_weight[before]
                del alike[share]
                if not alike:
                    del by_weight[before]
            if now in by_weight:
                by_weight[now][share] = None
            elif now:
                by_weight[now] = {share: None}
            else:
                del shares[share.key]
            if now > shares.most:
                shares.most = now
            # As it grows by what one place holds, this goes down no more steps than it has gone up.
            while shares.most and shares.most not in by_weight:
                shares.most -= 1

    # Who gives way

    def service(self) -> PeriodicService:
        """Return the service that calls :meth:`tick` once a second."""
        return PeriodicService(self._clock, "descriptors", 1.0, self.tick)

    def tick(self) -> None:
        """Give others what they need of the descriptors, and look who is idle. Call this once a second."""
        self._ask()
        self._shrink()
        self._log_limiter.tick()
        if self._seconds() >= self._look_at:
            self.look()

    def look(self) -> None:
        """Look for whom bytes have passed."""
        self._look_at = self._seconds() + LOOK_EVERY
        for place in self._touched():
            self._was_active(place)

    def _touched(self) -> list[Place]:
        return [
            place
            for share in self._owners.values()
            for part in share.values()
            for place in part
            if place.holder.touched
        ]

    def _was_active(self, place: Place) -> None:
        place.holder.touched = False
        place.is_active = True
        self._go_last(place)

    def _go_last(self, place: Place) -> None:
        part = place.part
        assert part is not None
        part.move_to_end(place)
        part.owner.move_to_end(part.address)

    def make_room(self) -> None:
        """Take note that a stranger has opened something that has no place here, and may need one of ours."""
        # More of them can come before the system is asked again than a small limit keeps free.
        self._others += 1
        self._room -= 1
        if 2 * self.held > self._room:
            self._ask()
            self._shrink()

    @property
    def spare(self) -> int:
        """How many may be opened in advance. Below 0: none, as those who come need the rest."""
        if self._seconds() >= self._spare_at:
            self._ask()
            self._spare_at = self._seconds() + SPARE_EVERY
            self._needed = int(self._limit() * SPARE)
        return self._room - self.held - self._needed

    @property
    def are_short(self) -> bool:
        """Whether what was opened in advance should be closed."""
        return self._room - self.held < self._limit() * SHORT

    def _ask(self) -> None:
        """Find out how many descriptors the holders may have."""
        now = self._seconds()
        if now >= self._ask_at:
            began = self._cpu_seconds()
            limit = self._limit()
            reserve = min(max(int(limit * RESERVE), LEAST_RESERVE), MOST_RESERVE)
            if count := self._count_open():
                self._others = max(0, count - self.held)
            self._room = limit - reserve - self._others
            # A moment in which others had the processor has cost nothing, and must not keep us from asking again.
            self._ask_at = now + (self._cpu_seconds() - began) / ASKING
            # Others may open as many as these do.
            self._unasked = min(self._room, self.held - self._leaving + LEAST_RESERVE)

    def _shrink(self, newcomer: Place | None = None) -> None:
        """Let holders other than *newcomer* give way until they have no more than they may have."""
        while self.held - self._leaving > self._room and (place := self._next(newcomer)) not in (None, newcomer):
            self._give_way(place)

    def _next(self, newcomer: Place | None) -> Place | None:
        """Return who gives way next: *newcomer* only if there is nobody else."""
        while True:
            if self._addresses.most > FEW:
                part = max(self._addresses.heaviest().values(), key=len)
            elif self._owners.most:
                part = next(iter(self._owners.heaviest().values()))
            else:
                return None
            place = next(iter(part))
            if place.holder.touched:  # since the last look
                self._was_active(place)
            elif place is newcomer:
                newcomer = None
                self._go_last(place)
            else:
                return place

    def _give_way(self, place: Place) -> None:
        part = place.part
        assert part is not None
        self._log_limiter.warn(
            "there are too few file descriptors for all: a connection of {address} is closed, the one that was idle "
            "for longest of {count} descriptors there; allow more with LimitNOFILE= or ulimit -n",
            address=part.address.key or "unknown",
            count=part.address.held,
        )
        self._leave(part, place)
        self._leaving += place.count
        try:
            place.holder.cut()
        except Exception:  # no fault of the newcomer
            self.log.failure("when a connection was to give way")
