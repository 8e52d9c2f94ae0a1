"""After an upgrade, what visitors of the old process use: it reports that to the new one, which counts for both.

A report is a packet of a UNIX socket, with the JSON of the quotas' file::

    old -> new    what was used since the last report
    new -> old    what has been used of these quotas altogether

A process that leaves its place leaves its ends of such sockets, too, so that the newest one hears all.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from rtunnel.reverse.metering.quotas import Quotas, decode, encode

#: Quotas in one packet; with names of any length it is not larger than what is read.
AT_ONCE, MOST_BYTES = 20, 1 << 17


class Reporter:
    """The old process's side.

    :ivar theirs: the end that the new process gets.
    :raises OSError: this system has no such sockets.
    """

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.begin()

    def begin(self) -> None:
        """What was used until now is in the file, which the new process reads."""
        self._month, self._reported = self._quotas.month, self._quotas.used

    def report(self, patience: float = 0.0) -> None:
        """Report what was used, and learn what others have used.

        :param patience: how many seconds that may take.
        """
        self._quotas.look_at_month()
        if self._quotas.month != self._month:
            self._month = self._quotas.month
            self._reported.clear()
        self._learn()
        used = self._quotas.used
        new = [key for key, count in used.items() if count > self._reported.get(key, 0)]
        with suppress(OSError):  # it is busy, or gone
            self._ours.settimeout(patience)
            for start in range(0, len(new), AT_ONCE):
                part = new[start : start + AT_ONCE]
                self._ours.send(encode(self._month, {key: used[key] - self._reported.get(key, 0) for key in part}))
                self._reported.update((key, used[key]) for key in part)

    def _learn(self) -> None:
        with suppress(OSError, ValueError):
            self._ours.settimeout(0.0)
            while answer := self._ours.recv(MOST_BYTES):
                month, totals = decode(answer)
                for key, total in totals.items() if month == self._month else ():
                    of_others = total - self._reported.get(key, 0)
                    if of_others > 0:
                        self._quotas.add(key, of_others)
                        self._reported[key] = total

    def close(self) -> None:
        """Report nothing more."""
        self._ours.close()
        self.theirs.close()


@implementer(IReadDescriptor)
class Hearer:
    """The new process's side of one socket.

    :param on_end: called when the old process has ended.
    """

    def __init__(self, reactor: Any, sock: socket.socket, quotas: Quotas, on_end: Callable[[Hearer], None]) -> None:
        self._reactor = reactor
        self._socket = sock
        self._quotas = quotas
        self._on_end = on_end

    def fileno(self) -> int:
        """See :class:`IReadDescriptor`."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """See :class:`IReadDescriptor`."""
        return "quotas"

    def go_on(self) -> None:
        """Hear reports from now on."""
        self._reactor.addReader(self)

    def pause(self) -> None:
        """Hear nothing for a while; what is said waits."""
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Take a report."""
        try:
            report = self._socket.recv(MOST_BYTES)
            month, used = decode(report) if report else ("", {})
        except BlockingIOError:
            return
        except (OSError, ValueError):
            report = b""
        if not report:
            self.close()
            self._on_end(self)
        elif month == self._quotas.month:
            totals = {key: self._quotas.add(key, count) for key, count in used.items()}
            with suppress(OSError):
                self._socket.send(encode(month, totals))

    def connectionLost(self, reason: object) -> None:
        """See :class:`IReadDescriptor`."""
        self.close()
        self._on_end(self)

    def close(self) -> None:
        """Hear nothing more here."""
        if self._socket.fileno() >= 0:
            self.pause()
            self._socket.close()
