"""What a data connection (:mod:`rtunnel.reverse.carriers.record_socket`) needs of those who use it."""

from __future__ import annotations

from typing import Any, Protocol

from rtunnel.relay.pipes import Pipe
from rtunnel.wire.data.connection import Opened


class ILocal(Protocol):
    """The local side of a stream: a :class:`~rtunnel.relay.local_socket.LocalSocket`, or a stand-in for one.

    :ivar may_splice: it may take pipes.
    """

    @property
    def may_splice(self) -> bool: ...
    def deliver(self, data: memoryview, flags: int = 0) -> None: ...
    def deliver_pipe(self, pipe: Pipe) -> None: ...
    def far_ended(self) -> None: ...
    def far_over(self) -> None: ...
    def far_reset(self, code: str, message: str) -> None: ...
    def has_room(self) -> None: ...


class IUser(Protocol):
    """Whoever gives the streams of a data connection something to do.

    :param connection: the :class:`~rtunnel.reverse.carriers.record_socket.RecordSocket`.
    """

    def proved(self, connection: Any) -> None:
        """Take note that the other end is proved: its first record has come."""

    def opened(self, connection: Any, opened: Opened) -> None:
        """At the client: take a visitor, by its ``carry`` or ``reset``."""

    def freed(self, connection: Any) -> None:
        """Take note that the stream is over, so that another one may follow."""

    def holds(self, count: int) -> None:
        """Take note that memory is taken by a record that is not complete.

        :param count: in bytes.
        """

    def lost(self, connection: Any, why: str, *, is_breach: bool) -> None:
        """Take note that the connection is lost. Not called after its ``cut``.

        :param is_breach: the other end broke the protocol.
        """
