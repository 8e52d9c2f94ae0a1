"""Poll the sockets of relays at a lower cost than the reactor does.

For each event a reactor sets a log context and checks the descriptor, which costs as much as the ``recv`` that follows.
Where the system has epoll, the sockets of relays therefore have their own epoll. The reactor watches only the
descriptor of that epoll, so it makes one such call for all sockets that are ready.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor, IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: How many events are handled before the reactor gets its turn.
MAX_EVENTS = 64
#: Events, from ``select``; 0 where there is no epoll.
_READ, _WRITE, _LAST, _RESET = (getattr(select, name, 0) for name in ("EPOLLIN", "EPOLLOUT", "EPOLLRDHUP", "EPOLLERR"))


def poller_for(reactor: Any) -> Any:
    """Return what watches the sockets of relays: a :class:`Poller`, or a :class:`ReactorPoller` without epoll."""
    return Poller(reactor) if hasattr(select, "epoll") else ReactorPoller(reactor)


class ReactorPoller:
    """The methods of :class:`Poller`, passed on to the reactor, for systems without epoll.

    :ivar reactor: the reactor.
    """

    short_turns = 0

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.addReader = self.add_stream = reactor.addReader
        self.addWriter = reactor.addWriter
        self.removeReader = reactor.removeReader
        self.removeWriter = reactor.removeWriter

    def soon(self, call: Callable[[], None]) -> None:
        """See :meth:`Poller.soon`."""
        call()

    def watch_end(self, descriptor: Any) -> None:
        """See :meth:`Poller.watch_end`. Without epoll nothing tells that but a read."""

    def watch_reset(self, descriptor: Any) -> None:
        """See :meth:`Poller.watch_reset`. Without epoll nothing tells that but a write."""
        self.reactor.removeReader(descriptor)

    def forget(self, descriptor: IReadWriteDescriptor) -> None:
        """See :meth:`Poller.forget`."""
        self.reactor.removeReader(descriptor)
        self.reactor.removeWriter(descriptor)


@implementer(IReadDescriptor)
class Poller:
    """An epoll with the four methods that tell a reactor what to watch, and two that save system calls.

    A descriptor may be called although nothing is ready. The poller is in the reactor only while it watches something.

    :ivar fileno: returns the descriptor of the epoll.
    :ivar reactor: the reactor.
    :ivar short_turns: how many more times bulk is moved in small pieces, because others have little to say.
    """

    log = Logger()
    short_turns = 0

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self._watched: dict[int, tuple[Any, int]] = {}
        self._later: list[Callable[[], None]] | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def addReader(self, descriptor: IReadWriteDescriptor) -> None:
        """Call ``doRead`` of *descriptor* when it can be read."""
        self._change(descriptor, _READ, True)

    def add_stream(self, descriptor: Any) -> None:
        """Like :meth:`addReader`, but call ``doLastRead`` in place of ``doRead`` once the end of a stream is there."""
        self._change(descriptor, _READ | _LAST, True)

    def watch_end(self, descriptor: Any) -> None:
        """Call ``doLastRead`` of *descriptor* once the end of a stream is there; bytes alone cause no call."""
        self._change(descriptor, _LAST, True)

    def watch_reset(self, descriptor: Any) -> None:
        """Stop calling ``doRead`` of *descriptor*, whose end has come; call ``doReset`` if it is reset behind that."""
        self._change(descriptor, _READ | _LAST, False, _RESET)

    def addWriter(self, descriptor: IReadWriteDescriptor) -> None:
        """Call ``doWrite`` of *descriptor* when it can be written."""
        self._change(descriptor, _WRITE, True)

    def removeReader(self, descriptor: IReadWriteDescriptor) -> None:
        """Stop calling ``doRead`` of *descriptor*, which must still be open."""
        self._change(descriptor, _READ | _LAST | _RESET, False)

    def removeWriter(self, descriptor: IReadWriteDescriptor) -> None:
        """Stop calling ``doWrite`` of *descriptor*, which must still be open."""
        self._change(descriptor, _WRITE, False)

    def soon(self, call: Callable[[], None]) -> None:
        """Call *call* when all that is ready in this turn has been read; now, if there is no turn.

        Other ends that sleep are then woken for several pieces at a time.
        """
        if self._later is None:
            call()
        else:
            self._later.append(call)

    def forget(self, descriptor: IReadWriteDescriptor) -> None:
        """Forget *descriptor*, watched or not, which is about to be closed: closing takes it out of the epoll."""
        if self._watched.pop(descriptor.fileno(), None) is not None and not self._watched:
            self.reactor.removeReader(self)

    def _change(self, descriptor: IReadWriteDescriptor, event: int, wanted: bool, instead: int = 0) -> None:
        number = descriptor.fileno()
        _, before = self._watched.get(number, (None, 0))
        events = before | event if wanted else before & ~event | instead
        if events == before:
            return
        if not events:
            self._epoll.unregister(number)
            del self._watched[number]
            if not self._watched:
                self.reactor.removeReader(self)
            return
        if before:
            self._epoll.modify(number, events)
        else:
            self._epoll.register(number, events)
            if not self._watched:
                self.reactor.addReader(self)
        self._watched[number] = (descriptor, events)

    # Called by the reactor

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "relays"

    def doRead(self) -> None:
        """Call the descriptors that are ready, and then what they want called."""
        later: list[Callable[[], None]] = []
        self._later = later
        self._call_ready()
        self._later = None
        for call in later:
            try:
                call()
            except Exception:
                self.log.failure("a relay broke")

    def _call_ready(self) -> None:
        watched = self._watched
        for number, events in self._epoll.poll(0, MAX_EVENTS):
            entry = watched.get(number)
            if entry is None:
                continue  # an earlier call of this loop has closed it
            descriptor, wanted = entry
            try:
                if wanted & _RESET and self._is_reset(descriptor, events):
                    continue
                # On an error or hang-up, make the calls that are wanted; they find out what happened.
                events = events & wanted or wanted
                if events & _LAST:
                    descriptor.doLastRead()
                elif events & _READ:
                    descriptor.doRead()
                if events & _WRITE:
                    descriptor.doWrite()
            except Exception:
                self.log.failure("a relay broke")
                descriptor.connectionLost(Failure())

    def _is_reset(self, descriptor: Any, events: int) -> bool:
        """Call ``doReset`` if that is what came."""
        if events & _RESET:
            descriptor.doReset()
            return True
        if not events & _WRITE:
            # A UNIX socket whose peer has closed both directions, which says no more than the end did.
            self._change(descriptor, _RESET, False)
            return True
        return False

    def connectionLost(self, reason: Failure) -> None:
        """Tell every watched descriptor that the reactor is stopping."""
        for descriptor, _ in list(self._watched.values()):
            descriptor.connectionLost(reason)
