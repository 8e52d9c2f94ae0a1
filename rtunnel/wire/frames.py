"""The frame: nine bytes of header and a payload (docs/wire.rst, "Frames").

    frame   = type conn_id length payload
    type    = u8
    conn_id = u32            ; big-endian
    length  = u32            ; big-endian, bytes of payload
    payload = *OCTET

DATA is most of what travels, so its payload is handed on piece by piece as it arrives, without waiting for the end of
the frame and without a copy where a piece fills the chunk that was read. Every other frame is handed on whole.
"""

from __future__ import annotations

from struct import Struct

from rtunnel.errors import FrameTooLarge

HEADER = Struct("!BII")
HEADER_SIZE = HEADER.size

#: The largest payload that we send: fair turns between streams need frames that are soon over.
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
}

#: ``(type, conn_id, payload)``; of a DATA frame, one piece of its payload.
Frame = tuple[int, int, bytes]


def encode_frame(frame_type: int, conn_id: int, payload: bytes = b"") -> bytes:
    """One whole frame.

    :param frame_type: 0 to 255.
    :param conn_id: 0 to 2**32 - 1.
    """
    return HEADER.pack(frame_type, conn_id, len(payload)) + payload


def frame_name(frame_type: int) -> str:
    """What a frame type is called in a log line."""
    return NAMES.get(frame_type, f"type 0x{frame_type:02x}")


class FrameDecoder:
    """Cuts a stream of bytes, however it is chopped up, into frames.

    What it holds back is at most one header and one payload of a frame that is not DATA.

    :param max_payload: the longest payload that is accepted, in bytes.
    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._held = bytearray()
        self._needed = HEADER_SIZE
        self._data_left = 0
        self._data_id = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames, and pieces of DATA frames, that end in *data*.

        :raises FrameTooLarge: a length above the limit was announced; nothing after it can be understood, so frames
            before it in the same chunk are given up too.
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
