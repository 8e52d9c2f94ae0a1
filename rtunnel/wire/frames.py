"""The frame: a header of nine bytes, and a payload (docs/wire.rst, "Frames").

    frame   = type conn_id length payload
    type    = u8
    conn_id = u32            ; big-endian
    length  = u32            ; big-endian, bytes of payload
    payload = *OCTET

Most frames are DATA. The payload of DATA is passed on in pieces as they arrive, without waiting for the end of the
frame, and without a copy if a piece is all that was read. Every other frame is passed on whole.
"""

from __future__ import annotations

from struct import Struct

from rtunnel.errors import FrameTooLarge

HEADER = Struct("!BII")
HEADER_SIZE = HEADER.size

#: The largest payload that this program sends, in bytes: short frames make for fair turns between streams.
MAX_SENT_PAYLOAD = 65536

NEW_CONN = 0x01
DATA = 0x02
CLOSE_CONN = 0x03
INIT = 0x04
HELLO = 0x10
CREDIT = 0x11
FIN = 0x12
PING = 0x13
PONG = 0x14
READY = 0x15
ERROR = 0x16
ATTACH = 0x17
TICKETS = 0x18
KEYS = 0x19
MOVE = 0x1A
PATH = 0x1B
STATE = 0x1C
NOTICE = 0x1D

NAMES = {
    NEW_CONN: "NEW_CONN",
    DATA: "DATA",
    CLOSE_CONN: "CLOSE_CONN",
    INIT: "INIT",
    HELLO: "HELLO",
    CREDIT: "CREDIT",
    FIN: "FIN",
    PING: "PING",
    PONG: "PONG",
    READY: "READY",
    ERROR: "ERROR",
    ATTACH: "ATTACH",
    TICKETS: "TICKETS",
    KEYS: "KEYS",
    MOVE: "MOVE",
    PATH: "PATH",
    STATE: "STATE",
    NOTICE: "NOTICE",
}

#: ``(type, conn_id, payload)``. With DATA the payload is one piece of the frame's.
Frame = tuple[int, int, bytes]


def encode_frame(frame_type: int, conn_id: int, payload: bytes = b"") -> bytes:
    """Return one whole frame.

    :param frame_type: 0 to 255.
    :param conn_id: 0 to 2**32 - 1.
    """
    return HEADER.pack(frame_type, conn_id, len(payload)) + payload


def frame_name(frame_type: int) -> str:
    """Return the name of a frame type for log lines."""
    return NAMES.get(frame_type, f"type 0x{frame_type:02x}")


class FrameDecoder:
    """Cut a stream of bytes into frames. The bytes may come in any pieces.

    It holds back at most one header and one payload of a frame that is not DATA.

    :param max_payload: the longest payload that is accepted, in bytes.
    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._held = bytearray()
        self._needed = HEADER_SIZE
        self._data_left = 0
        self._data_id = 0

    @property
    def held(self) -> int:
        """How many bytes are held back."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes. Return the frames, and the pieces of DATA frames, that end in them.

        :raises FrameTooLarge: a frame is longer than the limit. Nothing after it can be understood, so the frames
            before it in *data* are dropped too.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return []
            data = bytes(self._held)
            self._held.clear()
        frames: list[Frame] = []
        size = len(data)
        offset = 0
        if self._data_left:
            offset = self._take_data(data, 0, size, frames)
        while offset < size:
            if size - offset < HEADER_SIZE:
                self._hold(data, offset, HEADER_SIZE)
                break
            frame_type, conn_id, length = HEADER.unpack_from(data, offset)
            if length > self._max_payload:
                raise FrameTooLarge(f"{frame_name(frame_type)} of {length} bytes; the limit is {self._max_payload}")
            if frame_type == DATA:
                self._data_id = conn_id
                self._data_left = length
                offset = self._take_data(data, offset + HEADER_SIZE, size, frames)
                continue
            end = offset + HEADER_SIZE + length
            if end > size:
                self._hold(data, offset, HEADER_SIZE + length)
                break
            frames.append((frame_type, conn_id, data[offset + HEADER_SIZE : end]))
            offset = end
        return frames

    def _take_data(self, data: bytes, offset: int, size: int, frames: list[Frame]) -> int:
        end = min(size, offset + self._data_left)
        if end > offset:
            self._data_left -= end - offset
            piece = data if offset == 0 and end == size else data[offset:end]
            frames.append((DATA, self._data_id, piece))
        return end

    def _hold(self, data: bytes, offset: int, needed: int) -> None:
        self._held += data[offset:] if offset else data
        self._needed = needed
