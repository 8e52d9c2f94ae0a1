"""What a connection is, as its first bytes tell, however they are cut."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire import frames
from rtunnel.wire.data.keys import RANDOM as RANDOM_LENGTH, TICKET_ID
from rtunnel.wire.opening import ATTACH_START, MAX_ATTACH, Kind, Opening, foreign_protocol, read_opening
from tests.wire.pair import raw, raw_hello

MAX_FRAME = 65536
TICKET = bytes(range(16))
RANDOM = bytes(range(32))
ATTACH = raw(frames.ATTACH, 0, TICKET)
SEALED_ATTACH = raw(frames.ATTACH, 0, TICKET + RANDOM)
KNOWN = [
    (raw_hello(), Kind.LINK),
    (raw(frames.INIT, 0, b"8080:x"), Kind.LINK),
    (raw(frames.DATA, 7, b"x" * 20), Kind.LINK),
    (raw(0x99), Kind.LINK),
    (ATTACH, Kind.DATA_CONNECTION),
    (SEALED_ATTACH, Kind.DATA_CONNECTION),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Kind.TLS),
    (b"\x15\x03\x03\x00\x02\x02\x0a", Kind.TLS_ALERT),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Kind.HTTP),
    (b"POST /x HTTP/1.1\r\n\r\n", Kind.HTTP),
    (b"CONNECT x:443 HTTP/1.1\r\n\r\n", Kind.HTTP),
    (b"OPTIONS * HTTP/1.1\r\n\r\n", Kind.HTTP),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Kind.HTTP),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", Kind.HTTP_ANSWER),
    (b"SSH-2.0-OpenSSH_9.9\r\n", Kind.SSH),
    (b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 80\r\n", Kind.PROXY),
    (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", Kind.PROXY),
    (b"\xff" * 100, Kind.UNKNOWN),
    (b"220 mail.example ESMTP\r\n", Kind.UNKNOWN),
]


def opening_of(*pieces: bytes, max_frame: int = MAX_FRAME, data_connections: bool = True) -> Opening | None:
    """What these bytes tell, piece by piece; nothing is fed once it is told."""
    for held in accumulate(pieces):
        opening = read_opening(held, max_frame, data_connections=data_connections)
        if opening is not None:
            return opening
    return None


@pytest.mark.parametrize(("data", "kind"), KNOWN)
def test_what_is_known(data: bytes, kind: Kind) -> None:
    opening = opening_of(data)
    assert opening is not None
    assert opening.kind is kind
    assert bool(opening.problem) is (kind not in (Kind.LINK, Kind.DATA_CONNECTION))


@given(st.sampled_from(KNOWN), st.lists(st.integers(0, 60), max_size=6))
def test_cuts_change_nothing(known: tuple[bytes, Kind], cuts: list[int]) -> None:
    data, kind = known
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    opening = opening_of(*(data[start:end] for start, end in pairwise(bounds)))
    assert opening is not None
    assert opening.kind is kind


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_told_apart_by_nine_of_them(data: bytes, data_connections: bool) -> None:
    """But for ATTACH, whose whole frame it takes; nothing raises."""
    opening = None
    for number in range(len(data)):
        opening = read_opening(data[: number + 1], MAX_FRAME, data_connections=data_connections)
        if opening is not None:
            break
    if len(data) >= frames.HEADER_SIZE + MAX_ATTACH or (len(data) >= frames.HEADER_SIZE and data[0] != frames.ATTACH):
        assert opening is not None
    if opening is not None and opening.kind is Kind.LINK:
        assert not opening.problem


@pytest.mark.parametrize(
    "data", [b"", b"\x16", raw_hello()[:8], b"SSH-2.0-", ATTACH[:9], ATTACH[:-1], SEALED_ATTACH[:-1]]
)
def test_too_few_bytes(data: bytes) -> None:
    assert opening_of(data) is None


def test_a_frame_that_is_only_too_long_is_a_link() -> None:
    """Whose own words tell by how much."""
    data = raw(frames.HELLO, 0, bytes(2000))
    assert opening_of(data, max_frame=1000) == Opening(Kind.LINK)
    assert opening_of(b"\x20" + data[1:], max_frame=1000) == Opening(
        Kind.UNKNOWN,
        "that is an unknown protocol: read as a frame it would be type 0x20 of 2000 bytes; the limit is 1000",
    )


def test_names_of_protocols_in_the_words_for_the_operator() -> None:
    said = {kind: opening.problem for data, kind in KNOWN if (opening := opening_of(data)) is not None}
    assert said[Kind.SSH].startswith("that is SSH")
    assert said[Kind.HTTP] == "that is HTTP: visitors use the public port"
    assert "PROXY header" in said[Kind.PROXY]
    assert "add --tls here" in said[Kind.TLS]


def test_foreign_protocols_alone() -> None:
    assert foreign_protocol(b"SSH-") is Kind.SSH
    assert foreign_protocol(b"\x16\x03") is Kind.TLS
    assert foreign_protocol(raw_hello()) is None


# ATTACH


@pytest.mark.parametrize("client_random", [b"", RANDOM])
def test_a_first_attach_makes_it_a_data_connection(client_random: bytes) -> None:
    data = raw(frames.ATTACH, 0, TICKET + client_random)
    assert opening_of(data) == Opening(Kind.DATA_CONNECTION, "", TICKET, client_random)
    assert data.startswith(ATTACH_START)


@given(st.sampled_from([b"", RANDOM]), st.lists(st.integers(0, len(SEALED_ATTACH)), max_size=5))
def test_attach_in_pieces(client_random: bytes, cuts: list[int]) -> None:
    data = raw(frames.ATTACH, 0, TICKET + client_random)
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    openings = [read_opening(data[:end], MAX_FRAME, data_connections=True) for end in ends]
    whole = Opening(Kind.DATA_CONNECTION, "", TICKET, client_random)
    assert [opening for opening in openings if opening is not None][:1] == [whole]
    assert openings[-1] == whole


def test_no_attach_is_longer() -> None:
    assert MAX_ATTACH == TICKET_ID + RANDOM_LENGTH == len(TICKET + RANDOM)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 32, 47, 49, 60000])
def test_attach_of_another_length(length: int) -> None:
    opening = opening_of(raw(frames.ATTACH, 0, bytes(length)))
    assert opening is not None
    assert opening.kind is Kind.DATA_CONNECTION
    assert opening.problem.startswith("malformed ATTACH (")
    assert not opening.ticket


@pytest.mark.parametrize("behind", [ATTACH, b"\x04", b"\x04" + bytes(7), raw(frames.DATA, 1, b"x"), b"GET / "])
def test_nothing_may_come_behind_attach_before_it_is_answered(behind: bytes) -> None:
    for attach in (ATTACH, SEALED_ATTACH):
        assert opening_of(attach + behind) == Opening(Kind.DATA_CONNECTION, "bytes after ATTACH")


def test_a_length_that_cannot_be_of_attach() -> None:
    opening = read_opening(b"\x17" + b"\xff" * 8, MAX_FRAME, data_connections=True)
    assert opening is not None
    assert opening.problem == "malformed ATTACH (no ticket is 4294967295 bytes long)"


def test_attach_means_nothing_without_data_connections() -> None:
    assert opening_of(ATTACH, data_connections=False) == Opening(Kind.LINK)
