"""A channel of a fake connection (:mod:`tests.rtc.fakes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.rtc.fakes import FakeConnection

from typing import Any

from zope.interface import implementer

from rtunnel.rtc.interfaces import IChannel, IChannelUser


@implementer(IChannel)
class FakeChannel:
    """One end of a channel.

    :ivar sent: what was sent on it, bytes and texts, for tests to look at; only with *keep*.
    """

    keep = False

    def __init__(self, connection: FakeConnection, key: object, label: str, protocol: str, reliable: bool) -> None:
        self.label = label
        self.protocol = protocol
        self.reliable = reliable
        self.is_open = False
        self.closing = False
        self.sent: list[bytes | str] = []
        self.user: IChannelUser | None = None
        self.key = key
        self._connection = connection

    @property
    def can_send(self) -> bool:
        return self.is_open or (self.reliable and not self.closing)

    def use(self, user: Any) -> None:
        self.user = user

    def send(self, data: bytes) -> None:
        assert type(data) is bytes
        self._send("data", data, len(data))

    def send_text(self, text: str) -> None:
        assert type(text) is str
        data = text.encode()
        self._send("text", data, len(data))

    def _send(self, kind: str, data: bytes, size: int) -> None:
        if not self.can_send:
            return
        if self.keep:
            self.sent.append(data if kind == "data" else data.decode())
        self._connection.put(kind, self, data, size)

    def close(self) -> None:
        if not self.closing:
            self.is_open = False
            self.closing = True
            self._connection.put("close", self)

    def gone(self) -> None:
        """The connection forgets it."""
        self.is_open = False
        self.closing = True
        if self.user is not None:
            user, self.user = self.user, None
            user.channel_closed()
