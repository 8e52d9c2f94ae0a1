"""Sealed messages: what goes over one channel of a sealed peer connection (docs/wire.rst).

    reliable    kind sealed             ; sealed as a record, by its place in the channel
    unreliable  id number sealed        ; sealed as a packet of a UDP path, with the kind in front of the message
    kind      = %x00 / %x01             ; binary / text

All are binary messages of SCTP.
"""

from __future__ import annotations

from rtunnel.wire.data.seal import TAG, Cipher, Seal
from rtunnel.wire.datagrams.packets import OVERHEAD, Opener, Sealer
from rtunnel.wire.webrtc.sealed_keys import ChannelKeys, Side

#: How many bytes longer a message can get when it is sealed.
LONGER = max(1 + TAG, OVERHEAD + 1)

_KINDS = (b"\0", b"\1")


def _kind(byte: bytes) -> bool:
    """Return whether a message is text.

    :raises ValueError: the kind is neither binary nor text.
    """
    if byte not in _KINDS:
        raise ValueError("a message that is neither binary nor text")
    return byte == _KINDS[True]


class ReliableSeals:
    """Both directions of a reliable channel.

    :param keys: of the channel.
    :param cipher: of the peer connection.
    :param side: which end this is.
    """

    __slots__ = ("_in", "_out")

    def __init__(self, keys: ChannelKeys, cipher: Cipher, side: Side) -> None:
        client, host = Seal(keys.client, cipher), Seal(keys.host, cipher)
        self._out, self._in = (client, host) if side is Side.CLIENT else (host, client)

    def seal(self, message: bytes, *, text: bool) -> bytes:
        """Return what to send for *message*."""
        kind = _KINDS[text]
        return kind + self._out.sealed(kind, message)

    def open(self, sealed: bytes, now: float) -> tuple[bytes, bool]:
        """Return the message in what has come, and whether it is text.

        :param now: the time, in seconds; for datagrams only.
        :raises ValueError: this is not the next message that the other end has sent. The channel is over then.
        """
        if len(sealed) < 1 + TAG:
            raise ValueError("a message that is too short to be sealed")
        kind = sealed[:1]
        is_text = _kind(kind)
        return self._in.unsealed(kind, memoryview(sealed)[1:]), is_text

    def tick(self, now: float) -> None:
        """Do nothing: a key that is done with is forgotten at once."""


class DatagramSeals:
    """Both directions of an unreliable channel. The parameters are those of :class:`ReliableSeals`.

    :param ordinal: of the channel.
    """

    __slots__ = ("_in", "_out")

    def __init__(self, keys: ChannelKeys, cipher: Cipher, side: Side, ordinal: int) -> None:
        secrets = {Side.CLIENT: keys.client, Side.HOST: keys.host}
        id = ordinal & 0xFFFFFFFF
        self._out = Sealer(id, secrets[side], cipher)
        self._in = Opener(id, secrets[side.other], cipher)

    def seal(self, message: bytes, *, text: bool) -> bytes:
        """Return what to send for *message*."""
        return self._out.seal(_KINDS[text] + message)

    def open(self, sealed: bytes, now: float) -> tuple[bytes, bool]:
        """Return the message in what has come, and whether it is text.

        :param now: the time, in seconds.
        :raises ValueError: the other end has not sent it, it has come before, or it is too old. It changes nothing.
        """
        message = self._in.open(sealed, now)
        return message[1:], _kind(message[:1])

    def tick(self, now: float) -> None:
        """Forget an earlier key that has had its time. Call this once a second."""
        self._in.tick(now)


Seals = ReliableSeals | DatagramSeals
"""What seals the messages of a channel."""


def channel_seals(keys: ChannelKeys, cipher: Cipher, side: Side, ordinal: int, *, reliable: bool) -> Seals:
    """Return what seals the messages of a channel.

    :param side: which end this is.
    """
    return ReliableSeals(keys, cipher, side) if reliable else DatagramSeals(keys, cipher, side, ordinal)
