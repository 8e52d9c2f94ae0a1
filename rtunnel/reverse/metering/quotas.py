"""How many bytes tunnels and clients have used in this month, in a file that outlives the process.

A month is a calendar month in UTC. The file is JSON, for people too::

    {"month": "2026-11", "used": [{"client": "laptop", "place": "port 8080", "bytes": 123456789}, ...]}

It is written under another name and then renamed, but not flushed to the disk: that could hold up all visitors. So what
the last minute has used may be lost when the power fails, and nothing when the process ends in whatever way.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from twisted.logger import Logger

from rtunnel.access.amounts import amount_text
from rtunnel.errors import ConfigError
from rtunnel.trusted_files import read_trusted

#: The file's name in the state directory.
NAME = "quotas.json"
#: The file is written this many seconds after something has changed, or as soon as this part of a quota was used.
WRITE_AFTER, WRITE_PART = 60.0, 0.01
#: The part of a quota after which the operator of the client is warned.
WARN_AT = 0.8
#: Quotas that are kept; beyond that, the client that has most loses the least used one of its places.
MOST = 4096
#: The largest file that is read, in bytes.
MOST_BYTES = 4 << 20


class Key(NamedTuple):
    """Whose bytes are counted.

    :ivar kind: ``client`` or ``group``.
    :ivar name: of the client or the group.
    :ivar place: the public place of the tunnel; empty: all tunnels of the client together.
    """

    kind: str
    name: str
    place: str

    def __str__(self) -> str:
        whose = f"the {self.kind} '{self.name}'" if self.name else "a client without a name"
        return f"{self.place} of {whose}" if self.place else whose


class Count:
    """What one of them has used.

    :param on_mark: called with this object whenever the next mark is reached: :data:`WARN_AT`, and the whole quota.
    :ivar used: bytes of this month.
    :ivar limit: bytes a month; infinite: nobody has a quota for it now.
    :ivar is_used_up: the whole quota is used.
    :ivar meters: those who use it; each is ended by its ``abort``.
    """

    __slots__ = ("_mark", "_on_mark", "is_used_up", "key", "limit", "meters", "used", "written")

    def __init__(self, key: Key, on_mark: Callable[[Count], None], used: int = 0) -> None:
        self.key = key
        self.used = self.written = used
        self.limit = math.inf
        self.meters: dict[Any, None] = {}
        self._on_mark = on_mark
        self._settle()

    def add(self, count: int) -> None:
        """Count bytes that have passed."""
        self.used += count
        if self.used >= self._mark:
            self._settle()
            self._on_mark(self)

    def set_limit(self, limit: float) -> None:
        """Let *limit* bytes a month pass."""
        self.limit = limit
        self._settle()

    def begin_anew(self) -> None:
        """Count from zero: a month begins."""
        self.used = 0
        self._settle()

    def _settle(self) -> None:
        self.is_used_up = self.used >= self.limit
        self._mark = math.inf if self.is_used_up else self.limit if self.is_nearly_used_up else WARN_AT * self.limit

    @property
    def is_nearly_used_up(self) -> bool:
        """Whether the operator of the client should know how much of the quota is used."""
        return self.used >= WARN_AT * self.limit


def month_of(seconds: float) -> str:
    """Return the month in which a time is, in UTC: ``2026-11``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m")


def next_month(month: str) -> datetime:
    """Return when the month after *month* begins."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


class Quotas:
    """All counts of this month.

    :param directory: where the file is kept; it is made when something is written.
    :param now: returns the time, in seconds since 1970.
    :param clock: provides a time that nobody sets, in seconds.
    :param on_mark: see :class:`Count`.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        now: Callable[[], float],
        clock: Callable[[], float],
        on_mark: Callable[[Count], None],
    ) -> None:
        self.path = directory / NAME
        self._now = now
        self._clock = clock
        self._on_mark = on_mark
        self.month = month_of(now())
        self._counts: dict[Key, Count] = {}
        self._written_at = clock()
        self._problem = ""
        self._has_read = False

    def count(self, key: Key, limit: float) -> Count:
        """Return the count of *key*, which may use *limit* bytes a month. The first time, read the file."""
        found = self._find(key)
        found.set_limit(limit)
        return found

    def _find(self, key: Key) -> Count:
        if not self._has_read:
            self._has_read = True
            self._read()
        found = self._counts.get(key)
        if found is None:
            if len(self._counts) >= MOST:
                self._make_room()
            found = self._counts[key] = Count(key, self._on_mark)
        return found

    def add(self, key: Key, count: int) -> int:
        """Count bytes that have passed elsewhere. Return how many all have used."""
        found = self._find(key)
        found.add(count)
        return found.used

    @property
    def used(self) -> dict[Key, int]:
        """What all have used in this month."""
        return {key: count.used for key, count in self._counts.items() if count.used}

    def _make_room(self) -> None:
        names = Counter(key[:2] for key in self._counts if key.place)
        whose = names.most_common(1)[0][0] if names else None
        places = [count for key, count in self._counts.items() if key.place and key[:2] == whose]
        if places:
            del self._counts[min(places, key=lambda count: (bool(count.meters), count.used)).key]

    @property
    def begins_anew(self) -> str:
        """The date on which all quotas begin anew, as texts show it."""
        return f"{next_month(self.month):%Y-%m-%d}, 00:00 UTC"

    @property
    def seconds_left(self) -> int:
        """For how many seconds this month lasts."""
        return max(1, math.ceil(next_month(self.month).timestamp() - self._now()))

    def warning(self, count: Count) -> str:
        """Return what the operator should know about a quota that is nearly or wholly used up."""
        if count.is_used_up:
            share = "all"
        else:
            share = f"{100 * count.used / count.limit:.0f} % ({amount_text(count.used)})"
        text = f"{share} of the quota of {amount_text(int(count.limit))} of this month is used; it begins anew on "
        return text + self.begins_anew + ("; visitors are refused until then" if count.is_used_up else "")

    def tick(self) -> None:
        """See whether a month begins, and write what has changed. Call this about once a second."""
        self.look_at_month()
        counts = [count for count in self._counts.values() if count.used != count.written]
        is_due = self._clock() - self._written_at >= WRITE_AFTER
        if counts and (is_due or any(each.used - each.written >= WRITE_PART * each.limit for each in counts)):
            self.write()

    def look_at_month(self) -> None:
        """See whether a month begins."""
        month = month_of(self._now())
        if month != self.month:
            is_later, self.month = month > self.month, month
            # A clock that was set back has not given anybody another quota.
            if is_later:
                self._begin_anew()

    def _begin_anew(self) -> None:
        for key, count in list(self._counts.items()):
            if count.is_used_up:
                self.log.info("the quota of {whose} begins anew", whose=str(key))
            count.begin_anew()
            if math.isinf(count.limit):
                del self._counts[key]  # of the last month, and nobody has asked for it since

    # The file

    def write(self) -> None:
        """Write the file, if anything has changed. If that fails, one line in the log says so."""
        if all(count.used == count.written for count in self._counts.values()):
            return
        self._written_at = self._clock()
        try:
            self._replace(encode(self.month, self.used, indent=1))
        except OSError as error:
            why = f"{error.strerror or error}"
            if why != self._problem:
                what = "quotas cannot be written to {path}: {why}; a restart would begin them anew"
                self.log.warn(what, path=str(self.path), why=why)
            self._problem = why
            return
        if self._problem:
            self._problem = ""
            self.log.info("quotas are written to {path} again", path=str(self.path))
        for count in self._counts.values():
            count.written = count.used

    def _replace(self, content: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with suppress(FileNotFoundError):
            temporary.unlink()
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(content)
            temporary.replace(self.path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _read(self) -> None:
        try:
            month, counts = decode(read_trusted(self.path, MOST_BYTES))
        except FileNotFoundError:
            return
        except (OSError, ConfigError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.log.warn("quotas begin anew, as {path} cannot be read: {why}", path=str(self.path), why=why)
            return
        except (ValueError, RecursionError) as error:
            aside = self.path.with_name(NAME + ".bad")
            with suppress(OSError):
                self.path.replace(aside)
            what = "quotas begin anew, as {path} is damaged ({why}); it is {aside} now"
            self.log.warn(what, path=str(self.path), why=str(error)[:200], aside=aside.name)
            return
        if month >= self.month:
            self._counts = {key: Count(key, self._on_mark, used) for key, used in counts.items()}


def encode(month: str, used: Mapping[Key, int], indent: int | None = None) -> bytes:
    """Write what was used in a month."""
    entries = [{key.kind: key.name, "place": key.place, "bytes": count} for key, count in used.items()]
    return json.dumps({"month": month, "used": entries}, indent=indent).encode()


def decode(content: bytes) -> tuple[str, dict[Key, int]]:
    """Return the month, and what was used in it.

    :raises ValueError: the content is not that of a file of ours.
    """
    found = json.loads(content)
    counts: dict[Key, int] = {}
    try:
        month = found["month"]
        if not re.fullmatch("[0-9]{4}-(0[1-9]|1[0-2])", month):
            raise ValueError("it names no month")
        for each in found["used"]:
            kind = "group" if "group" in each else "client"
            name, place, used = each[kind], each["place"], each["bytes"]
            if not isinstance(name, str) or not isinstance(place, str) or type(used) is not int or used < 0:
                raise ValueError("an entry is not like ours")
            counts[Key(kind, name, place)] = used
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an entry is not like ours: {error}") from error
    if len(counts) > MOST:
        raise ValueError("it has too many entries")
    return month, counts
