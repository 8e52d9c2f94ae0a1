"""What a client holds, a port or a host name, is taken over by another one only once its holder is gone."""

from __future__ import annotations

from collections.abc import Iterable
from hmac import compare_digest
from typing import Any

from twisted.internet.task import deferLater

from rtunnel.access.rules import Rules
from rtunnel.errors import Refused
from rtunnel.reverse.server.interfaces import Backend, ISession

#: Seconds that the holder is given to show that it lives, when somebody else asks for what it has.
TAKE_OVER_AFTER = 3.0
#: How often that is looked at.
TAKE_OVER_POLL = 0.1


async def make_way(
    reactor: Any, what: object, holders: Iterable[Backend], claimant: ISession, refused: Refused
) -> None:
    """Take *what* from its *holders* if they do not answer a PING.

    :param refused: why the claimant cannot have it beside them.
    :raises Refused: one of them lives, or is the claimant itself.
    """
    for backend in list(holders):
        holder = backend.session
        if holder is claimant:
            raise refused
        if not await is_gone(reactor, holder):
            raise Refused(refused.code, refused.message, f"client {holder.peer_name}")
        holder.lose(f"it does not answer, and another client asks for {what}", f"client {claimant.peer_name}")


async def is_gone(reactor: Any, holder: ISession) -> bool:
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


def are_one_group(own: Rules, others: Rules) -> bool:
    """Return whether tunnels with these rules are of the same group: they name it, and know its key."""
    if not own.group or own.group != others.group:
        return False
    return compare_digest(own.group_key.encode(), others.group_key.encode())


def why_apart(what: object, own: Rules, others: Rules) -> str:
    """Return why a tunnel may not serve *what* beside those with the rules *others*; empty: they are of one group.

    Nothing is said of a group that the operator of the first one need not know.
    """
    if are_one_group(own, others):
        return ""
    if own.group and not others.group:
        return f"{what} is served by another client, outside the group '{own.group}'; write the group and key there too"
    if own.group:
        return f"{what} is served by another group, or one with another key; write the 'group' and 'group-key' of all"
    if others.group:
        return f"{what} is served by a group of clients; to join it, write its 'group' and 'group-key'"
    return f"{what} is served by another client"
