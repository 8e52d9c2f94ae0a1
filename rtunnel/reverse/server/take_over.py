"""What a client holds, a port or a host name, is taken over by another one only once its holder is gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.task import deferLater

from rtunnel.errors import Code, Refused
from rtunnel.reverse.server.interfaces import Backend, ISession

#: Seconds that the holder is given to show that it lives, when somebody else asks for what it has.
TAKE_OVER_AFTER = 3.0
#: How often that is looked at.
TAKE_OVER_POLL = 0.1


async def make_way(reactor: Any, what: object, holders: Iterable[Backend], claimant: ISession, code: Code) -> None:
    """Take *what* from its *holders* if they do not answer a PING.

    :param code: for the refusal.
    :raises Refused: one of them lives.
    """
    for backend in list(holders):
        holder = backend.session
        if holder is claimant:
            raise Refused(code, f"this client serves {what} already")
        if not await _is_gone(reactor, holder):
            raise Refused(code, f"{what} is served by another client", f"client {holder.peer_name}")
        holder.lose(f"it does not answer, and another client asks for {what}", f"client {claimant.peer_name}")


async def _is_gone(reactor: Any, holder: ISession) -> bool:
    """Return whether *holder* does not answer a PING. A reference client cannot be asked: it lives."""
    if not holder.link.is_extended:
        return not holder.is_live
    asked = reactor.seconds()
    holder.link.ping(asked)
    holder.flush()
    while holder.is_live and holder.link.liveness.last_heard <= asked:
        if reactor.seconds() - asked >= TAKE_OVER_AFTER:
            return True
        await deferLater(reactor, TAKE_OVER_POLL)
    return not holder.is_live
