"""One TCP stream over one data channel."""

from __future__ import annotations

from typing import Protocol

from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.rtc.interfaces import IChannel, IChannelUser
from rtunnel.rtc.receiving import ReceiveBuffer
from rtunnel.rtc.sending import Turns
from rtunnel.upkeep.memory import STREAM, Memory
from rtunnel.wire.halves import HIGH_WATER, LOW_WATER
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.channel_messages import decode_control, encode_fin, encode_reset
from rtunnel.wire.webrtc.channel_stream import ChannelStream

# Not an attribute of the class: a log event would keep its stream alive.
_log = Logger()


class Streams(Protocol):
    """The part of :class:`rtunnel.rtc.streams.ChannelStreams` that a stream uses."""

    turns: Turns
    buffer: ReceiveBuffer
    memory: Memory

    def close_soon(self, stream: DataChannelStream) -> None:
        """Call :meth:`DataChannelStream.close` in the next turn, unless the connection is lost in this one."""

    def has_broken(self, stream: DataChannelStream) -> None:
        """Reset *stream* if its queue stands still for too long."""

    def forget(self, stream: DataChannelStream) -> None:
        """Stop counting *stream*."""


@implementer(IStream, IChannelUser)
class DataChannelStream:
    """One stream, between its channel and its user.

    :ivar reserved: see :class:`rtunnel.rtc.receiving.Receiver`.
    :ivar delivered_at: see :class:`rtunnel.rtc.receiving.Receiver`.
    """

    __slots__ = ("_buffer", "_streams", "_turns", "_user", "channel", "delivered_at", "machine", "reserved")

    def __init__(self, streams: Streams, channel: IChannel, user: IStreamUser, machine: ChannelStream) -> None:
        self._streams = streams
        self._turns = streams.turns
        self._buffer = streams.buffer
        self._user = user
        self.channel = channel
        self.machine = machine
        self.reserved = 0
        self.delivered_at = 0.0

    @property
    def held(self) -> int:
        """How many bytes of memory it takes, with what its user has delivered and not sent yet."""
        return STREAM + self.machine.queued + self.machine.receive_window.waiting + self._user.buffered()

    # From the user

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        machine = self.machine
        if not machine.put(data):
            return
        self._streams.memory.add(len(data))
        if machine.can_send and not machine.scheduled:
            self._send()
        if machine.queued >= HIGH_WATER and not machine.paused:
            machine.paused = True
            self._user.pause()

    def finish(self) -> None:
        """See :class:`IStream`."""
        if self.machine.broken is None:
            self.machine.ending = True
            self._send_ends()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`."""
        machine = self.machine
        if machine.open and behind and (machine.queued or (machine.ending and not machine.sent_end)):
            machine.broken = code, message
            self._streams.has_broken(self)
            self.delivered(machine.receive_window.waiting)
            return
        if machine.open:
            self._send_reset(code, message)
        # What was received and not delivered is lost with the user.
        self._buffer.remove(self)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self._buffer.delivered(self, count)

    # From the channel

    def channel_opened(self) -> None:
        """Send what was written before the channel was open."""
        machine = self.machine
        if not machine.open:
            return
        machine.opened = True
        if machine.extended and not machine.received_end:
            self._buffer.grant(self)
        if machine.can_send:
            self._send()
        else:
            self._send_ends()

    def message_received(self, data: bytes) -> None:
        """Pass bytes of the stream to the user."""
        machine = self.machine
        if not data or not machine.open:
            return
        fault = machine.receive(len(data))
        if fault is not None:
            self.fail(*fault)
            return
        if machine.broken is not None:
            self.delivered(len(data))
            return
        self._streams.memory.add(len(data))
        self._user.data_received(data)
        if not machine.extended and machine.open:
            self._buffer.received(self)

    def text_received(self, text: bytes) -> None:
        """Handle a control message. A reference peer knows none: its text messages are bytes of the stream."""
        machine = self.machine
        if not machine.extended:
            self.message_received(text)
            return
        if not machine.open:
            return
        try:
            control = decode_control(text)
        except ValueError as error:
            self.fail(Code.PROTOCOL, str(error))
            return
        if control.reset is not None:
            self._break()
            self._tell_reset(control.reset, control.message or "reset by the peer")
            return
        if control.credit is not None and machine.send_window.raise_limit(control.credit, 0) and machine.can_send:
            self._send()
        if control.fin is not None and machine.open:
            self._receive_fin(control.fin)

    def channel_closed(self) -> None:
        """End the stream. With a reference peer this ends both directions; an rtunnel peer announces its end first."""
        machine = self.machine
        if not machine.open:
            self._streams.forget(self)
        elif machine.extended:
            self._break()
            self._tell_reset(Code.CONNECTION_LOST, "the channel was closed before the end of the stream")
        else:
            self._streams.close_soon(self)

    def close(self) -> None:
        """End the stream properly: a reference peer closed the channel, and the connection was not lost."""
        if self.machine.open:
            self._end()
            self._streams.forget(self)
            if self.machine.broken is None:
                self._user.closed()

    def fail(self, code: str, message: str) -> None:
        """Reset the stream, and tell the user. A stream that has ended can only lose bytes that wait for a reader."""
        if self.machine.open:
            self._send_reset(code, message)
            self._tell_reset(code, message)
        elif not self.machine.extended and self.reserved:
            self._tell_reset(code, message)

    def give_up(self, code: str, message: str) -> None:
        """Reset the stream at once. What was received is not delivered any more."""
        if self.machine.open:
            self._send_reset(code, message)
        self._tell_reset(code, message)
        self._buffer.remove(self)

    # Sending, when it is this stream's turn

    def send_message(self, most: int) -> None:
        """See :class:`rtunnel.rtc.sending.Sender`."""
        machine = self.machine
        self.channel.send(machine.next_message(most))
        if machine.ending or machine.broken is not None:
            self._send_ends()
        elif machine.paused and machine.queued <= LOW_WATER:
            machine.paused = False
            self._user.resume()

    def _send(self) -> None:
        self._turns.add(self)
        self._turns.run()

    # Ends

    def _send_ends(self) -> None:
        """Send our end, and the reset behind it, when they are due."""
        machine = self.machine
        if machine.end_is_due:
            self._send_end()
        if machine.broken is not None and machine.open and machine.opened and not machine.queued:
            self._send_reset(*machine.broken)

    def _send_reset(self, code: str, message: str) -> None:
        if self.machine.extended and self.machine.opened:
            self.channel.send_text(encode_reset(code, message))
        self._break()

    def _send_end(self) -> None:
        machine = self.machine
        machine.sent_end = True
        if not machine.extended:
            # The peer's last bytes may still come until the channel is closed.
            self.channel.close()
            return
        self.channel.send_text(encode_fin(machine.send_window.sent))
        if machine.received_end:
            self._end()
            self.channel.close()

    def _receive_fin(self, total: int) -> None:
        machine = self.machine
        fault = machine.receive_fin(total)
        if fault is not None:
            self.fail(*fault)
            return
        self._buffer.end(self)
        if machine.sent_end:
            self._end()
            self.channel.close()
        if machine.broken is None:
            self._user.finished()

    def _end(self) -> None:
        """Send no more, neither bytes nor credit."""
        self.machine.end()
        self._turns.remove(self)
        self._buffer.grant_no_more(self)

    def _break(self) -> None:
        """End the stream at once. What was received may still be delivered."""
        self._end()
        self._streams.forget(self)
        self._buffer.end(self)
        self.channel.close()

    def _tell_reset(self, code: str, message: str) -> None:
        _log.debug(
            "stream {label} was reset: {code}: {text}", label=clean_text(self.channel.label), code=code, text=message
        )
        if self.machine.broken is None:
            self._user.was_reset(code, message)
