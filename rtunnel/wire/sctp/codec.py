"""Packets of SCTP: the common header and its checksum, chunks, parameters (RFC 9260, sections 3 and 6.8).

Nothing here keeps state, but :class:`Envelope`, which knows an association's ports and tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final

from google_crc32c import extend, value

from rtunnel.wire.sctp.chunks import (
    COMMON_HEADER,
    DATA,
    FORWARD_TSN,
    HEARTBEAT,
    HEARTBEAT_ACK,
    I_DATA,
    I_FORWARD_TSN,
    INIT,
    PAD,
    RE_CONFIG,
    SACK,
    Init,
    ProtocolError,
    Sack,
)

_PREFIX = Struct("!HHI")
_CHECKSUM = Struct("<I")
_NO_CHECKSUM = bytes(4)
#: The header of a chunk, and of a parameter.
HEAD = Struct("!BBH")
PARAMETER = Struct("!HH")
#: DATA behind its header: TSN, stream, SSN, payload protocol identifier.
DATA_BODY = Struct("!IHHI")
#: I-DATA behind its header: TSN, stream, reserved, MID, payload protocol identifier or FSN.
I_DATA_BODY = Struct("!IHHII")
_DATA = Struct("!BBHIHHI")
_I_DATA = Struct("!BBHIHHII")
_INIT = Struct("!IIHHI")
_SACK = Struct("!IIHH")
_PAIR = Struct("!HH")
_NUMBER = Struct("!I")
_I_SKIPPED = Struct("!HHI")

# Parameters of INIT and INIT ACK.
_COOKIE = 7
_UNRECOGNIZED = 8
#: The last of those in RFC 9260. Those about addresses mean nothing over DTLS.
_LAST_KNOWN = 12
_ZERO_CHECKSUM = 0x8001
_EXTENSIONS = 0x8008
_FORWARD_TSN_SUPPORTED = 0xC000
#: The error detection method "SCTP over DTLS" (RFC 9653, section 6).
_OVER_DTLS = 1
#: What of a parameter of an unknown type is asked for, by its highest bits: to hear of it, and to read on.
_REPORT, _READ_ON = 0x4000, 0x8000
#: How much of unknown parameters is sent back, in bytes.
_MAX_REPORTED = 256

_MASK: Final = 0xFFFFFFFF
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

#: The extensions that this end declares.
OUR_EXTENSIONS = (RE_CONFIG, FORWARD_TSN, I_DATA, I_FORWARD_TSN)


class Envelope:
    """The common header of the packets of one association, in both directions.

    :param port: our port.
    :param peer_port: the peer's.
    :param tag: our tag, which the peer's packets carry.
    :ivar zero_checksum: whether packets may go out without a checksum (RFC 9653).
    """

    __slots__ = ("_crc", "_expected", "_expected_crc", "_expected_zero", "_ports", "_prefix", "zero_checksum")

    def __init__(self, port: int, peer_port: int, tag: int) -> None:
        self._ports = port, peer_port
        self._expected = _PREFIX.pack(peer_port, port, tag)
        self._expected_zero = _PREFIX.pack(peer_port, port, 0)
        self._expected_crc = value(self._expected + _NO_CHECKSUM)
        self.zero_checksum = False
        self.address(0)

    def address(self, tag: int) -> None:
        """From now on, mark packets with the peer's *tag*."""
        self._prefix = _PREFIX.pack(*self._ports, tag)
        self._crc = value(self._prefix + _NO_CHECKSUM)

    def seal(self, body: bytes) -> bytes:
        """Return the packet with the chunks *body*."""
        if self.zero_checksum:
            return self._prefix + _NO_CHECKSUM + body
        return self._prefix + _CHECKSUM.pack(extend(self._crc, body)) + body

    def seal_for(self, tag: int, body: bytes) -> bytes:
        """Return a packet for *tag*, whoever this association's peer is."""
        prefix = _PREFIX.pack(*self._ports, tag)
        return prefix + _CHECKSUM.pack(value(prefix + _NO_CHECKSUM + body)) + body

    def is_ours(self, packet: bytes) -> bool:
        """Whether *packet* is intact, and for this association. One without a checksum counts as intact, as DTLS has
        seen to that (and as we say that we take it)."""
        if packet[:8] != self._expected or len(packet) < 16:
            return False
        checksum = packet[8:12]
        return checksum == _NO_CHECKSUM or checksum == _CHECKSUM.pack(extend(self._expected_crc, packet[12:]))

    def initial(self, packet: bytes) -> bytes | None:
        """Return the value of the INIT in *packet*; None if it has none, is not intact, or has a tag that is not 0."""
        if packet[:8] != self._expected_zero or len(packet) < 16:
            return None
        if packet[8:12] != _CHECKSUM.pack(value(packet[:8] + _NO_CHECKSUM + packet[12:])):
            return None
        kind, _, length = HEAD.unpack_from(packet, COMMON_HEADER)
        if kind != INIT or not 4 <= length <= len(packet) - COMMON_HEADER:
            return None
        return packet[COMMON_HEADER + 4 : COMMON_HEADER + length]


def chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Return a chunk, padded."""
    return HEAD.pack(kind, flags, 4 + len(body)) + body + _PADDING[len(body) & 3]


def data_chunk(tsn: int, flags: int, stream: int, number: int, kind: int, payload: bytes | memoryview) -> bytes:
    """Return a DATA chunk, padded.

    :param number: the SSN.
    """
    size = len(payload)
    head = _DATA.pack(DATA, flags, 16 + size, tsn & _MASK, stream, number & 0xFFFF, kind)
    return head + payload + _PADDING[size & 3] if size & 3 else head + payload


def i_data_chunk(
    tsn: int, flags: int, stream: int, number: int, kind_or_fsn: int, payload: bytes | memoryview
) -> bytes:
    """Return an I-DATA chunk, padded (RFC 8260, section 2.1).

    :param number: the MID.
    :param kind_or_fsn: the payload protocol identifier in a first fragment, else the FSN.
    """
    size = len(payload)
    head = _I_DATA.pack(I_DATA, flags, 20 + size, tsn & _MASK, stream, 0, number & _MASK, kind_or_fsn & _MASK)
    return head + payload + _PADDING[size & 3] if size & 3 else head + payload


def parameter(kind: int, body: bytes = b"") -> bytes:
    """Return a parameter, padded."""
    return PARAMETER.pack(kind, 4 + len(body)) + body + _PADDING[len(body) & 3]


def parameters_of(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each parameter in *data* from *at* on.

    :raises ProtocolError: one is cut off.
    """
    end = len(data)
    while at + 4 <= end:
        kind, length = PARAMETER.unpack_from(data, at)
        if length < 4 or at + length > end:
            raise ProtocolError("a parameter that is cut off")
        yield kind, data[at + 4 : at + length]
        at += (length + 3) & ~3


def encode_init(kind: int, init: Init) -> bytes:
    """Return an INIT or INIT ACK chunk."""
    body = [_INIT.pack(init.tag, init.window, init.outbound, init.inbound, init.tsn & _MASK)]
    if init.cookie:
        body.append(parameter(_COOKIE, init.cookie))
    if init.forward_tsn:
        body.append(parameter(_FORWARD_TSN_SUPPORTED))
    if init.extensions:
        body.append(parameter(_EXTENSIONS, bytes(sorted(init.extensions))))
    if init.zero_checksum:
        body.append(parameter(_ZERO_CHECKSUM, _NUMBER.pack(_OVER_DTLS)))
    body += [parameter(_UNRECOGNIZED, each) for each in init.unknown]
    return chunk(kind, b"".join(body))


def decode_init(body: bytes) -> Init:
    """Read the value of an INIT or INIT ACK chunk.

    :raises ProtocolError: it is malformed, or a number in it is 0 that must not be.
    """
    if len(body) < _INIT.size:
        raise ProtocolError("an INIT that is cut off")
    tag, window, outbound, inbound, tsn = _INIT.unpack_from(body)
    if not tag or not outbound or not inbound:
        raise ProtocolError("an INIT without a tag or without streams")
    cookie, extensions, forward, zero = b"", frozenset[int](), False, False
    unknown: list[bytes] = []
    for kind, content in parameters_of(body, _INIT.size):
        if kind == _COOKIE:
            cookie = content
        elif kind == _EXTENSIONS:
            extensions = frozenset(content)
        elif kind == _FORWARD_TSN_SUPPORTED:
            forward = True
        elif kind == _ZERO_CHECKSUM:
            zero = content[:4] == _NUMBER.pack(_OVER_DTLS)
        else:
            if kind & _REPORT and sum(map(len, unknown)) + len(content) < _MAX_REPORTED:
                unknown.append(parameter(kind, content))
            if not kind & _READ_ON and kind > _LAST_KNOWN:
                break
    return Init(tag, window, outbound, inbound, tsn, cookie, extensions, forward, zero, tuple(unknown))


def encode_sack(sack: Sack) -> bytes:
    """Return a SACK chunk."""
    gaps, duplicates = sack.gaps, sack.duplicates
    head = _SACK.pack(sack.cumulative & _MASK, min(sack.window, _MASK), len(gaps), len(duplicates))
    if gaps or duplicates:
        head += b"".join([_PAIR.pack(first, last) for first, last in gaps])
        head += b"".join([_NUMBER.pack(each & _MASK) for each in duplicates])
    return HEAD.pack(SACK, 0, 4 + len(head)) + head


def decode_sack(body: bytes) -> Sack:
    """Read the value of a SACK chunk.

    :raises ProtocolError: it is malformed.
    """
    if len(body) < 12:
        raise ProtocolError("a SACK that is cut off")
    cumulative, window, gap_count, duplicate_count = _SACK.unpack_from(body)
    if len(body) == 12 and not gap_count and not duplicate_count:
        return Sack(cumulative, window)
    behind_gaps = 12 + 4 * gap_count
    end = behind_gaps + 4 * duplicate_count
    if end > len(body):
        raise ProtocolError("a SACK that is cut off")
    gaps = tuple(_PAIR.iter_unpack(body[12:behind_gaps]))
    duplicates = tuple(number for (number,) in _NUMBER.iter_unpack(body[behind_gaps:end]))
    return Sack(cumulative, window, gaps, duplicates)


def encode_forward_tsn(cumulative: int, skipped: Iterable[tuple[int, int]]) -> bytes:
    """Return a FORWARD TSN chunk (RFC 3758, section 3.2).

    :param skipped: streams, and the SSN of the last message of each that is given up.
    """
    body = b"".join([_PAIR.pack(stream, number & 0xFFFF) for stream, number in skipped])
    return chunk(FORWARD_TSN, _NUMBER.pack(cumulative & _MASK) + body)


def encode_i_forward_tsn(cumulative: int, skipped: Iterable[tuple[int, bool, int]]) -> bytes:
    """Return an I-FORWARD-TSN chunk (RFC 8260, section 2.3).

    :param skipped: streams, whether the messages are unordered, and the MID of the last that is given up.
    """
    body = b"".join([_I_SKIPPED.pack(stream, unordered, number & _MASK) for stream, unordered, number in skipped])
    return chunk(I_FORWARD_TSN, _NUMBER.pack(cumulative & _MASK) + body)


def encode_skipped(cumulative: int, skipped: dict[tuple[int, bool], int], interleaved: bool) -> bytes:
    """Return a FORWARD TSN chunk, or an I-FORWARD-TSN chunk.

    :param skipped: the number of the last message that is given up, by stream and whether it is ordered.
    """
    if interleaved:
        items = [(stream, not ordered, number) for (stream, ordered), number in skipped.items()]
        return encode_i_forward_tsn(cumulative, items)
    return encode_forward_tsn(cumulative, [(stream, number) for (stream, _), number in skipped.items()])


def decode_forward_tsn(body: bytes) -> tuple[int, Sequence[tuple[int, int]]]:
    """Read the value of a FORWARD TSN chunk: the TSN, and streams with SSNs.

    :raises ProtocolError: it is malformed.
    """
    if len(body) < 4:
        raise ProtocolError("a FORWARD TSN that is cut off")
    pairs = [(stream, number) for stream, number in _PAIR.iter_unpack(body[4 : len(body) & ~3])]
    return _NUMBER.unpack_from(body)[0], pairs


def decode_i_forward_tsn(body: bytes) -> tuple[int, Sequence[tuple[int, bool, int]]]:
    """Read the value of an I-FORWARD-TSN chunk: the TSN, and streams, whether unordered, and MIDs.

    :raises ProtocolError: it is malformed.
    """
    if len(body) < 4 or (len(body) - 4) % 8:
        raise ProtocolError("an I-FORWARD-TSN that is cut off")
    skipped = [(stream, bool(flags & 1), number) for stream, flags, number in _I_SKIPPED.iter_unpack(body[4:])]
    return _NUMBER.unpack_from(body)[0], skipped


def encode_probe(information: bytes, size: int) -> bytes:
    """Return a HEARTBEAT chunk, and a PAD chunk behind it, of *size* bytes in all: a multiple of 4 (RFC 4820).

    :param information: what the peer sends back.
    """
    heartbeat = chunk(HEARTBEAT, parameter(1, information))
    padding = size - len(heartbeat)
    return heartbeat + chunk(PAD, bytes(padding - 4)) if padding >= 4 else heartbeat


def heartbeat_information(body: bytes) -> bytes:
    """Return what an acknowledged HEARTBEAT carried; nothing if it is malformed."""
    try:
        return next((content for kind, content in parameters_of(body) if kind == 1), b"")
    except ProtocolError:
        return b""


def acknowledge_heartbeat(body: bytes) -> bytes:
    """Return the HEARTBEAT ACK chunk for the value of a HEARTBEAT."""
    return chunk(HEARTBEAT_ACK, body)
