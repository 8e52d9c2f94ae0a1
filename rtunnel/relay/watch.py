"""Watching many sockets for the reactor at a lower price.

A reactor calls a descriptor by way of its log context and its checks, which costs as much as the ``recv`` behind it.
Where the system has epoll, the sockets of relays are in an epoll of their own, of which the reactor sees one
descriptor: one such call for all that are ready, whichever reactor it is.
"""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.interfaces import IReadDescriptor, IReadWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Sockets that have their turn before the rest of the program has.
AT_ONCE = 64


def relay_reactor(reactor: Any) -> Any:
    """What is to watch the sockets of relays: a :class:`Watch`, or a :class:`PlainWatch`."""
    return Watch(reactor) if hasattr(select, "epoll") else PlainWatch(reactor)


class PlainWatch:
    """What :class:`Watch` does, by means of the reactor alone: for systems without epoll."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.addReader = reactor.addReader
        self.addWriter = reactor.addWriter
        self.removeReader = reactor.removeReader
        self.removeWriter = reactor.removeWriter

    def replace(self, reader: IReadDescriptor, other: IReadDescriptor) -> None:
        """See :meth:`Watch.replace`."""
        self._reactor.removeReader(reader)
        self._reactor.addReader(other)

    def forget(self, descriptor: IReadWriteDescriptor) -> None:
        """See :meth:`Watch.forget`."""
        self._reactor.removeReader(descriptor)
        self._reactor.removeWriter(descriptor)


@implementer(IReadDescriptor)
class Watch:
    """The four methods by which a reactor is told what to watch, for descriptors that bear to be called in vain, and
    two that save calls of the system.

    The reactor has this only while there is something to watch.
    """

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Any, int]] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def addReader(self, descriptor: IReadWriteDescriptor) -> None:
        """Call its ``doRead`` when it can be read."""
        self._change(descriptor, select.EPOLLIN, True)

    def addWriter(self, descriptor: IReadWriteDescriptor) -> None:
        """Call its ``doWrite`` when it can be written."""
        self._change(descriptor, select.EPOLLOUT, True)

    def removeReader(self, descriptor: IReadWriteDescriptor) -> None:
        """Call its ``doRead`` no more. It must be open still."""
        self._change(descriptor, select.EPOLLIN, False)

    def removeWriter(self, descriptor: IReadWriteDescriptor) -> None:
        """Call its ``doWrite`` no more. It must be open still."""
        self._change(descriptor, select.EPOLLOUT, False)

    def replace(self, reader: IReadDescriptor, other: IReadDescriptor) -> None:
        """Call *other*, which has the same descriptor, in place of *reader*, of which no more than that is asked."""
        number = other.fileno()
        self._watched[number] = (other, self._watched[number][1])

    def forget(self, descriptor: IReadWriteDescriptor) -> None:
        """*descriptor*, which may be watched or not, is about to be closed: then the system watches it no more."""
        if self._watched.pop(descriptor.fileno(), None) is not None and not self._watched:
            self._reactor.removeReader(self)

    def _change(self, descriptor: IReadWriteDescriptor, event: int, wanted: bool) -> None:
        number = descriptor.fileno()
        _, before = self._watched.get(number, (None, 0))
        events = before | event if wanted else before & ~event
        if events == before:
            return
        if not events:
            self._epoll.unregister(number)
            del self._watched[number]
            if not self._watched:
                self._reactor.removeReader(self)
            return
        if before:
            self._epoll.modify(number, events)
        else:
            self._epoll.register(number, events)
            if not self._watched:
                self._reactor.addReader(self)
        self._watched[number] = (descriptor, events)

    # What the reactor asks

    def fileno(self) -> int:
        """The descriptor of the epoll."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """What the log says of an error here."""
        return "relays"

    def doRead(self) -> None:
        """Something is ready."""
        watched = self._watched
        for number, events in self._epoll.poll(0, AT_ONCE):
            if number not in watched:
                continue  # the one before has closed it
            descriptor, wanted = watched[number]
            # An error shows in both, and either finds out which.
            events = events & wanted or wanted
            try:
                if events & select.EPOLLIN:
                    descriptor.doRead()
                if events & select.EPOLLOUT:
                    descriptor.doWrite()
            except Exception:
                self.log.failure("a relay broke")
                descriptor.connectionLost(Failure())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops: so does all that is watched."""
        for descriptor, _ in list(self._watched.values()):
            descriptor.connectionLost(reason)
