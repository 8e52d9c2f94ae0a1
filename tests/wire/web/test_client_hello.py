"""Reading the name out of a ClientHello: real ones, odd ones, however they are cut."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.wire.web.client_hello import (
    DECODE_ERROR,
    MOST,
    UNRECOGNIZED_NAME,
    BadHello,
    ClientHello,
    HelloReader,
    fatal_alert,
    read_hello,
)
from tests.scaling import assert_grows_with
from tests.wire.web.hellos import (
    ECH,
    alpn,
    body,
    by_openssl,
    by_python,
    hello,
    message,
    records,
    server_name,
    vector,
)

NAME = "app.example.org"
POST_QUANTUM = by_openssl(NAME, ["X25519MLKEM768", "X25519"], b"h2", b"http/1.1")
LARGE = hello(NAME, (21, bytes(20_000)))


def read(pieces: Iterable[bytes]) -> ClientHello | None:
    """What comes of a hello in these pieces."""
    reader = HelloReader()
    taken = b""
    for piece in pieces:
        taken += piece
        found = reader.take(piece)
        assert bytes(reader.raw) == taken
        if found is not None:
            return found
    return None


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def verdict(pieces: Iterable[bytes]) -> ClientHello | str | None:
    try:
        return read(pieces)
    except BadHello as error:
        return str(error)


def test_real_hellos() -> None:
    assert read([by_python(NAME, ["h2", "http/1.1"])]) == ClientHello(NAME, (b"h2", b"http/1.1"))
    assert read([by_python(None)]) == ClientHello()
    assert read([by_python("xn--bcher-kva.example")]) == ClientHello("xn--bcher-kva.example")


def test_post_quantum_hello_is_longer_than_a_packet() -> None:
    assert len(POST_QUANTUM) > 1460
    for pieces in ([POST_QUANTUM], [POST_QUANTUM[:1460], POST_QUANTUM[1460:]], one_by_one(POST_QUANTUM)):
        assert read(pieces) == ClientHello(NAME, (b"h2", b"http/1.1"))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, 1 << 14])
def test_hello_in_records_of_any_size(size: int) -> None:
    data = hello(NAME, alpn(b"h2"), ECH, size=size)
    assert read([data]) == read(one_by_one(data)) == ClientHello(NAME, (b"h2",), True)
    for end in range(len(data)):
        assert read([data[:end]]) is None


def test_what_is_behind_the_hello_is_kept() -> None:
    reader = HelloReader()
    assert reader.take(hello(NAME) + b"early data") == ClientHello(NAME)
    assert reader.raw.endswith(b"early data")


def test_old_hello_without_extensions() -> None:
    plain = body()[:-2]
    assert read_hello(plain) == ClientHello()
    assert read_hello(body()) == ClientHello()


def test_large_hello_is_read() -> None:
    assert len(LARGE) > 20_000
    assert read([LARGE]) == read(one_by_one(LARGE)) == ClientHello(NAME)


@pytest.mark.parametrize("data", [records(b"\1\xff\xff\xff"), records(message(body((21, bytes(30_000)))), 1)])
def test_endless_hello_is_bounded(data: bytes) -> None:
    """One that says how long it is, and one that is long only in its records."""
    reader = HelloReader()
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]

    def take_all() -> None:
        for piece in pieces:
            assert reader.take(piece) is None

    with pytest.raises(BadHello, match=f"longer than {MOST} bytes"):
        take_all()
    assert len(reader.raw) <= MOST + 1000


@pytest.mark.parametrize("size", [16, 1 << 14])
def test_cost_is_linear_in_single_bytes(size: int) -> None:
    assert_grows_with(lambda count: one_by_one(hello(NAME, (21, bytes(count)), size=size)), read, 1500)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "that is no TLS"),
        (b"SSH-2.0-x", "that is no TLS"),
        (b"\x80\x2e\x01\x03\x01", "that is no TLS"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "that is no TLS"),
        (b"\x16\x02\x00\x00\x05", "that is no TLS"),
        (b"\x00", "that is no TLS"),
    ],
)
def test_no_tls(data: bytes, words: str) -> None:
    with pytest.raises(BadHello, match=words) as caught:
        read([data])
    assert not caught.value.is_tls


WRONG = "a length in its hello is wrong"
MALFORMED = {
    "empty record": (records(b"x")[:3] + b"\0\0", "a record of 0 bytes"),
    "long record": (b"\x16\x03\x01\x40\x01", "a record of 16385 bytes"),
    "other message": (records(message(b"", kind=2)), "a handshake message of type 2"),
    "other record between": (
        records(message(body())[:10]) + records(b"\1\0", kind=21),
        "a record of type 21 and version 0x0301",
    ),
    "other version": (records(message(body())[:10]) + records(b"x", version=0x0201), "version 0x0201"),
    "nothing": (records(message(b"")), WRONG),
    "short random": (records(message(bytes(33))), WRONG),
    "long session id": (records(message(body(session=bytes(33)))), WRONG),
    "no cipher suites": (records(message(body(suites=b""))), WRONG),
    "half a cipher suite": (records(message(body(suites=b"\x13\x01\x13"))), WRONG),
    "no compression": (records(message(body(methods=b""))), WRONG),
    "bytes behind the extensions": (records(message(body() + b"x")), WRONG),
    "extensions cut": (records(message(body(alpn(b"h2"))[:-1])), WRONG),
    "half an extension": (records(message(body()[:-2] + b"\0\3\0\0\0")), WRONG),
    "extension beyond the end": (records(message(body()[:-2] + b"\0\4\0\0\0\1")), WRONG),
    "two lists of names": (
        records(message(body(server_name(b"a.example"), server_name(b"b.example")))),
        "one of its extensions is there twice",
    ),
    "two names": (records(message(body(server_name(b"a.example", b"b.example")))), "two host names"),
    "no list of names": (records(message(body((0, b"")))), WRONG),
    "empty list of names": (records(message(body((0, b"\0\0")))), WRONG),
    "empty name": (records(message(body(server_name(b"")))), "what is no host name"),
    "long name": (records(message(body(server_name(b"x" * 256)))), "what is no host name"),
    "name with a line's end": (records(message(body(server_name(b"a\n.example")))), "what is no host name"),
    "name that is not ASCII": (records(message(body(server_name("bücher.example".encode())))), "what is no host name"),
    "bytes behind the names": (records(message(body((0, server_name(b"a.example")[1] + b"x")))), WRONG),
    "name cut": (records(message(body((0, vector(2, b"\0\0\5abcd"))))), WRONG),
    "names cut": (records(message(body((0, vector(2, b"\0\0"))))), WRONG),
    "no protocols": (records(message(body((16, b"\0\0")))), WRONG),
    "empty protocol": (records(message(body(alpn(b"h2", b"")))), WRONG),
    "protocol cut": (records(message(body((16, vector(2, b"\3h2"))))), WRONG),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    data, words = MALFORMED[name]
    for pieces in ([data], one_by_one(data)):
        with pytest.raises(BadHello, match=words) as caught:
            read(pieces)
        assert caught.value.is_tls


def test_name_of_an_unknown_kind_is_none() -> None:
    assert read_hello(body(server_name(b"x", kind=7))) == ClientHello()
    both = server_name(b"x", kind=7)[1][2:] + server_name(b"a.example")[1][2:]
    assert read_hello(body((0, vector(2, both)))) == ClientHello("a.example")


@given(st.sampled_from([POST_QUANTUM, LARGE, by_python(NAME)]), st.lists(st.integers(1, 3000), max_size=20))
def test_cuts_make_no_difference(data: bytes, cuts: list[int]) -> None:
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut
    assert read([*pieces, data[start:]]) == read([data])


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_bytes_that_are_changed_or_made_up(noise: bytes, at: int, value: int) -> None:
    """Whatever comes is a hello, or one line; and pieces make no difference."""
    good = hello(NAME, alpn(b"h2", b"http/1.1"), ECH)
    bad = bytearray(good)
    bad[at % len(good)] = value
    for data in (noise, b"\x16\x03\x01" + noise, records(message(noise)) if noise else b"", bytes(bad)):
        found = verdict([data])
        assert found == verdict(one_by_one(data))
        assert found is None or isinstance(found, ClientHello) or found.isprintable()


def test_lengths_that_overlap_name_no_other_host() -> None:
    """A hello that could be read in two ways is refused, whichever length is wrong."""
    good = message(body(server_name(NAME.encode()), alpn(b"h2")))
    for at in range(38, len(good)):
        for change in (-1, 1):
            bad = bytearray(good)
            bad[at] = (bad[at] + change) % 256
            found = verdict([records(bytes(bad))])
            assert not isinstance(found, ClientHello) or found.name is None or len(found.name) == len(NAME)


def test_alerts() -> None:
    assert fatal_alert(UNRECOGNIZED_NAME) == struct.pack("!BHHBB", 21, 0x0303, 2, 2, 112)
    assert fatal_alert(DECODE_ERROR)[-1] == 50
