"""The queues of a link: control frames go out first, then the streams that can send take turns.

One turn is one frame, so a small stream waits for at most one frame of each bulk stream.
"""

from __future__ import annotations

from collections import deque

from rtunnel.errors import TooMuchWaiting
from rtunnel.wire import frames
from rtunnel.wire.stream import Stream

#: How many bytes of control frames may wait while the peer does not read: this many ...
MAX_CONTROL_WAITING = 1024 * 1024
#: ... and this many for each stream that the link may have, since all may open and break while the connection is stuck.
MAX_CONTROL_PER_STREAM = 512


class Outbox:
    """What waits to be sent on one link.

    :param max_streams: how many streams the link may have.
    :ivar control_waiting: how many bytes of control frames wait.
    :ivar max_control: how many bytes of control frames may wait.
    :ivar answers_waiting: how many of them are answers that the peer has asked for, one by one.
    """

    def __init__(self, max_streams: int) -> None:
        self.max_control = MAX_CONTROL_WAITING + max_streams * MAX_CONTROL_PER_STREAM
        self.control_waiting = self.answers_waiting = 0
        self._control: list[bytes] = []
        self._pong: bytes | None = None
        self._turns: deque[Stream] = deque()

    def __bool__(self) -> bool:
        return bool(self._control or self._turns) or self._pong is not None

    @property
    def has_control(self) -> bool:
        """Whether a control frame waits."""
        return bool(self._control) or self._pong is not None

    def add_control(self, frame_type: int, conn_id: int, payload: bytes = b"", *, is_answer: bool = False) -> None:
        """Queue a control frame.

        :param is_answer: the peer can cause as many as it likes.
        :raises TooMuchWaiting: too many bytes of control frames wait, because the peer does not read.
        """
        frame = frames.encode_frame(frame_type, conn_id, payload)
        self.control_waiting += len(frame)
        self.answers_waiting += len(frame) * is_answer
        if self.control_waiting > self.max_control:
            raise TooMuchWaiting("our answers are not read")
        self._control.append(frame)

    def set_pong(self, payload: bytes) -> None:
        """Queue the answer to a PING, replacing one that still waits."""
        self._pong = payload

    def schedule(self, stream: Stream) -> None:
        """Let *stream* take turns for as long as it can send."""
        if not stream.scheduled and stream.can_send:
            stream.scheduled = True
            self._turns.append(stream)

    def take_control(self) -> list[bytes]:
        """Return all control frames, and empty their queue."""
        out, self._control = self._control, []
        self.control_waiting = self.answers_waiting = 0
        if self._pong is not None:
            out.append(frames.encode_frame(frames.PONG, 0, self._pong))
            self._pong = None
        return out

    def take_turns(self, budget: int, out: list[bytes]) -> list[Stream]:
        """Append DATA frames to *out*. Return the streams that had a turn.

        :param budget: about how many bytes of payload.
        """
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
