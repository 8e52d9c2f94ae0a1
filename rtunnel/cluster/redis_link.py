"""The two connections to Redis: one for commands, and one that hears messages. They live and die together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtunnel.cluster.interface import Away
from rtunnel.cluster.redis_commands import REPLY_TIMEOUT, SILENT, Commands, Hearing, dial
from rtunnel.cluster.redis_scripts import ALL, digest
from rtunnel.cluster.redis_sentinels import find_master
from rtunnel.cluster.settings import ClusterUrl, shown_address


class RedisLink:
    """The two connections to one Redis; see :func:`connect`.

    :ivar place: where it is.
    """

    def __init__(self, commands: Commands, hearing: Hearing, place: str) -> None:
        self._commands = commands
        self._hearing = hearing
        self.place = place

    def start(self, heard: Callable[[bytes, bytes], None], lost: Callable[[str], None]) -> None:
        """Say where messages go, and the reason when the link is lost."""

        def both(why: str) -> None:
            self._commands.lost = self._hearing.lost = lambda why: None
            self.drop(why)
            lost(why)

        self._hearing.heard = heard
        self._commands.lost = self._hearing.lost = both

    @property
    def is_there(self) -> bool:
        """Whether both connections are there."""
        return bool(self._commands._ready and self._hearing._ready)

    async def run(self, script: str, *arguments: str | int) -> bytes:
        """Return what a script returns.

        :raises Away: it is not known what it has done, or it could not do it.
        """
        reply = await self._commands.ask("EVALSHA", digest(script), 0, *arguments)
        if not isinstance(reply, bytes):
            raise Away("a script returned something odd")
        return reply

    async def publish(self, channel: str, message: bytes) -> int:
        """Return how many have heard *message*.

        :raises Away: it is not known whether anybody has.
        """
        count = await self._commands.ask("PUBLISH", channel, message)
        return count if isinstance(count, int) else 0

    async def hear(self, channel: str) -> None:
        """Listen to a channel.

        :raises Away: it cannot be.
        """
        await self._hearing.ask("SUBSCRIBE", channel)

    async def check_hearing(self) -> None:
        """See whether messages could arrive; if not, the link is dropped.

        :raises Away: they could not.
        """
        await self._hearing.ask("PING")

    def drop(self, why: str) -> None:
        """End both connections now."""
        for each in (self._commands, self._hearing):
            if not each.is_lost:
                each.drop(why)


async def _first_reply(commands: Commands, url: ClusterUrl) -> Any:
    """Return what Redis says about its role.

    :raises Away: it says nothing.
    """
    try:
        return await commands.ask("ROLE")
    except Away as away:
        # A Redis without TLS waits for the end of what it takes for a line.
        if url.is_secured and str(away) == SILENT:
            raise Away(f"{away}; does it speak TLS at that port?") from None
        raise


async def connect(reactor: Any, url: ClusterUrl, timeout: float = REPLY_TIMEOUT) -> RedisLink:
    """Connect to the first Redis that is a master.

    :param timeout: seconds in which each connection must be made, and each reply be there.
    :raises Away: there is none; the text has the reasons, by address.
    """
    options = {"username": url.user or None, "password": url.password or None, "dbid": url.database or None}
    places: Sequence[tuple[str, int] | None] = url.addresses or (None,)
    if url.is_named_by_sentinels:
        places = [await find_master(reactor, url, timeout)]
    reasons = []
    for address in places:
        place = url.path if address is None else shown_address(*address)
        dialled: list[Commands] = []
        try:
            commands = await dial(reactor, url, address, lambda: Commands(reactor, timeout, **options), timeout)
            dialled.append(commands)
            role = await _first_reply(commands, url)
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise Away("it is a replica")
            hearing = await dial(reactor, url, address, lambda: Hearing(reactor, timeout, **options), timeout)
            dialled.append(hearing)
            for script in ALL:
                await commands.ask("SCRIPT", "LOAD", script)
        except BaseException as error:
            for each in dialled:
                each.drop("it is of no use")
            if not isinstance(error, Away):
                raise
            reasons.append(f"{place}: {error}")
        else:
            return RedisLink(commands, hearing, place)
    raise Away("; ".join(reasons))
