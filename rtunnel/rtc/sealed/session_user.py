"""Whom the control channel of a sealed peer connection tells what has become of it."""

from __future__ import annotations

from typing import Protocol

from rtunnel.wire.data.keys import Root


class SessionUser(Protocol):
    """Is told how a session fares."""

    def sealed(self, root: Root) -> None:
        """Take note that the other end is accepted, and channels can be used."""

    def bound(self) -> None:
        """Take note that the other end has accepted this one. A host is told before :meth:`sealed`."""

    def control_closed(self) -> None:
        """Call :meth:`~rtunnel.rtc.sealed.session.SealedSession.control_is_closed` in the next turn, unless the
        connection is lost in this one."""

    def session_over(self, reason: str, *, linger: bool) -> None:
        """Take note that the connection has to end.

        :param linger: the other end is told why, which takes a moment.
        """
