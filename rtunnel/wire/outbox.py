"""What goes out next: control frames first, then the streams that can send, in turn.

One turn is one frame, so a bulk stream delays a small one by one frame for each bulk stream at most.
"""

from __future__ import annotations

from collections import deque

from rtunnel.errors import TooMuchWaiting
from rtunnel.wire import frames
from rtunnel.wire.stream import Stream

#: Control frames that may wait for a peer that does not read, in bytes ...
MAX_CONTROL_WAITING = 1024 * 1024
#: ... and for each stream that the link may have: all may open and break while the connection is stuck for a moment.
MAX_CONTROL_PER_STREAM = 512


class Outbox:
    """Everything of one link that waits for its connection.

    :param max_streams: that the link may have.
    :ivar control_waiting: bytes of control frames.
    :ivar max_control: the most that they may become.
    """

    def __init__(self, max_streams: int) -> None:
        self.max_control = MAX_CONTROL_WAITING + max_streams * MAX_CONTROL_PER_STREAM
        self.control_waiting = 0
        self._control: list[bytes] = []
        self._pong: bytes | None = None
        self._turns: deque[Stream] = deque()

    def __bool__(self) -> bool:
        return self.has_control or bool(self._turns)

    @property
    def has_control(self) -> bool:
        """There is a control frame."""
        return bool(self._control) or self._pong is not None

    def add_control(self, frame_type: int, conn_id: int, payload: bytes = b"") -> None:
        """Queue a control frame.

        :raises TooMuchWaiting: the peer makes us answer, and does not read.
        """
        frame = frames.encode_frame(frame_type, conn_id, payload)
        self.control_waiting += len(frame)
        if self.control_waiting > self.max_control:
            raise TooMuchWaiting("our answers are not read")
        self._control.append(frame)

    def set_pong(self, payload: bytes) -> None:
        """Answer a PING; an answer that still waits is replaced."""
        self._pong = payload

    def schedule(self, stream: Stream) -> None:
        """Give *stream* turns for as long as it can send."""
        if not stream.scheduled and stream.can_send:
            stream.scheduled = True
            self._turns.append(stream)

    def take_control(self) -> list[bytes]:
        """Every control frame."""
        out, self._control = self._control, []
        self.control_waiting = 0
        if self._pong is not None:
            out.append(frames.encode_frame(frames.PONG, 0, self._pong))
            self._pong = None
        return out

    def take_turns(self, budget: int, out: list[bytes]) -> list[Stream]:
        """Append DATA frames of about *budget* bytes of payload to *out*; the streams that had a turn."""
        turns = self._turns
        served = []
        while turns and budget > 0:
            stream = turns.popleft()
            if not stream.open:
                continue
            window = stream.send_window
            count = min(stream.queued, window.limit - window.sent, frames.MAX_SENT_PAYLOAD)
            if count > 0:
                out.append(frames.HEADER.pack(frames.DATA, stream.conn_id, count))
                out += stream.take(count)
                window.sent += count
                budget -= count
            if stream.queued and window.limit > window.sent:
                turns.append(stream)
            else:
                stream.scheduled = False
            served.append(stream)
        return served
