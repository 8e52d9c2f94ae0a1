"""A connection to Redis or to a Sentinel, by txredisapi's protocols.

It connects again never: that is for whoever has it. Every reply has a time-out. When one does not come in time, the
connection is dropped, as later replies would be of no use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import txredisapi
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.cluster.interface import Away
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.endpoint_strings import join_description
from rtunnel.errors import ConfigError
from rtunnel.tls.web_client import ServerCheck

#: Seconds in which a connection must be made, and each reply be there.
REPLY_TIMEOUT = 2.0
#: Requests that may wait for their replies at once.
MOST_WAITING = 4096
#: The longest text of Redis in a reason, in characters.
_MAX_TEXT = 200
SILENT = "it does not answer"
#: What these errors of Redis mean, by their first words.
MEANING = {
    "NOAUTH": "it asks for a password; write redis://PASSWORD@HOST in --cluster",
    "WRONGPASS": "it refuses the user or the password of --cluster",
    "NOPERM": "the user of --cluster may not do what is needed; see docs/cluster.rst, 'Secure Redis'",
    "OOM": "its memory is used up (maxmemory), so it takes no new claims; give it more",
    "READONLY": "it is a replica now",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write asks for, so it takes no claims",
    "MISCONF": "it cannot write to its disk, so it takes no claims",
    "LOADING": "it is still reading its data",
}
NO_PASSWORD = "it has no password, and --cluster has one"
#: After these errors the connection is of no use.
_FATAL = ("READONLY", "NOSCRIPT", "LOADING", "NOAUTH", "MASTERDOWN")

_P = TypeVar("_P", bound="Commands")


def explain(error: Exception) -> str:
    """Return in one line what an error of Redis or of txredisapi means. It names no password."""
    text = " ".join(str(error).split())[:_MAX_TEXT]
    if isinstance(error, txredisapi.TimeoutError) or "Not received Redis response" in text:
        return SILENT
    for word, meaning in MEANING.items():
        # Redis 7 has its own line in front if a script fails.
        if word in text:
            return meaning
    if "no password is set" in text or "without any password configured" in text:
        return NO_PASSWORD
    return text or type(error).__name__


class CommandsFactory(Factory):
    """What txredisapi's protocols want of a factory."""

    noisy = False
    isLazy = False

    def __init__(self, build: Callable[[], Commands]) -> None:
        self._build = build
        self.why = ""

    def buildProtocol(self, addr: object) -> Commands:
        """Return the protocol of a connection."""
        protocol = self._build()
        protocol.factory = self
        return protocol

    def stopTrying(self) -> None:
        """The connection is of no use: the user or the database was refused."""

    def connectionError(self, why: str) -> None:
        """Note why."""
        self.why = explain(Exception(why))


class ReplyTimer:
    """A time-out for a reply. When it is over, it lets the reactor read once more: if this process was busy, the reply
    may have come long ago.

    :param late: called if it has not.
    """

    def __init__(self, reactor: Any, seconds: float, late: Callable[[], object]) -> None:
        self._call = reactor.callLater(seconds, self._read_once_more)
        self._reactor = reactor
        self._late = late

    def _read_once_more(self) -> None:
        self._call = self._reactor.callLater(0, self._late)

    def active(self) -> bool:
        """See :class:`twisted.internet.interfaces.IDelayedCall`."""
        return bool(self._call.active())

    def cancel(self) -> None:
        """See :class:`twisted.internet.interfaces.IDelayedCall`."""
        self._call.cancel()


class Commands(txredisapi.RedisProtocol):  # type: ignore[misc]
    """A connection.

    :ivar lost: called with the reason when it is lost.
    """

    factory: CommandsFactory

    def __init__(self, reactor: Any, timeout: float, **options: Any) -> None:
        super().__init__(charset=None, replyTimeout=timeout, convertNumbers=False, **options)
        # By default that of the process, which need not be the one that connects.
        self.callLater = partial(ReplyTimer, reactor)
        self.lost: Callable[[str], None] = lambda why: None
        self.check: ServerCheck | None = None
        self.why = ""
        self.is_lost = False
        self._rest = b""

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Take bytes of Redis, or of something that is none."""
        try:
            while data:
                self._rest = b""
                super().dataReceived(data, unpause)
                data = self._rest
        except Exception as error:
            self.drop(f"it does not speak Redis's protocol: {explain(error)}")

    def setLineMode(self, extra: bytes = b"") -> None:
        """Go on with what is behind a reply. txredisapi would pause, and take each reply in a turn of the reactor of
        its own: too late, if turns are long."""
        self.line_mode = 1
        self._rest = extra

    def drop(self, why: str) -> None:
        """End the connection now."""
        self.why = self.why or why
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Say why."""
        why = self.why or self.factory.why
        if not why and self.check is not None and isinstance(reason.value, SSL.Error):
            why = self.check.explain(reason.value)
        self.why = why or "it has closed the connection"
        self.is_lost = True
        super().connectionLost(reason)
        self.lost(self.why)

    async def ask(self, *command: str | bytes | int) -> Any:
        """Return the reply to a command.

        :raises Away: there is none, or it is an error.
        """
        if not self._ready:
            raise Away(self.why or "it has closed the connection")
        if len(self.replyQueue.waiting) >= MOST_WAITING:
            raise Away("too many requests wait for it")
        try:
            return await self.execute_command(*command)
        except txredisapi.TimeoutError as error:
            self.why = self.why or explain(error)
            raise Away(self.why) from None
        except txredisapi.ConnectionError:
            raise Away(self.why or "it has closed the connection") from None
        except txredisapi.RedisError as error:
            why = explain(error)
            if str(error).startswith(_FATAL):
                self.drop(why)
            raise Away(why) from None


class Hearing(Commands, txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """A connection that hears messages.

    :ivar heard: called with a channel and what was published there.
    """

    def __init__(self, reactor: Any, timeout: float, **options: Any) -> None:
        super().__init__(reactor, timeout, **options)
        self.heard: Callable[[bytes, bytes], None] = lambda channel, message: None

    def messageReceived(self, pattern: object, channel: bytes, message: bytes) -> None:
        """Pass on a message."""
        self.heard(channel, message)


async def dial(
    reactor: Any, url: ClusterUrl, address: tuple[str, int] | None, build: Callable[[], _P], timeout: float
) -> _P:
    """Return a connection that is ready.

    :param address: None: the socket of *url*.
    :raises Away: there is none.
    """
    parts = ["unix", url.path] if address is None else ["tcp", address[0], str(address[1])]
    host, port = address or (None, None)
    endpoint = DialAddress("", join_description(parts, {}), host, port).endpoint(reactor, timeout)
    factory = CommandsFactory(build)
    try:
        if url.is_secured and host is not None:
            check = ServerCheck(host, url.ca, "?ca=", "redis://")
            protocol = await check.connect(endpoint, factory)
            protocol.check = check
        else:
            protocol = await endpoint.connect(factory)
    except ConfigError as error:
        raise Away(str(error)) from None
    except (ConnectError, DNSLookupError, OSError) as error:
        raise Away(_why_not_connected(error)) from None
    ready: Deferred[None] = Deferred()
    protocol.lost = lambda why: None if ready.called else ready.errback(Away(why))
    protocol.whenConnected().addCallback(lambda _: None if ready.called else ready.callback(None))
    if protocol.is_lost:
        raise Away(protocol.why)
    found: _P = protocol
    try:
        await ready
    except BaseException:
        found.drop("nobody waits for it")
        raise
    return found


def _why_not_connected(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_TEXT] or type(error).__name__
