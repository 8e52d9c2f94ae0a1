"""CONNECT: what is sent, which answers are accepted, and what is said about the others."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import ProxyFailed
from rtunnel.wire.proxy.connect import MOST, Connect
from tests.wire.proxy.parts import run

BEHIND = b"\r\n\r\nHTTP/1.1 502 No\r\n\r\n"


def test_request() -> None:
    request = Connect("tunnel.example.org", 7000).begin()
    assert request == b"CONNECT tunnel.example.org:7000 HTTP/1.1\r\nHost: tunnel.example.org:7000\r\n\r\n"


def test_request_with_user_and_password() -> None:
    login = b64encode("jürgen:a:b c".encode())
    assert Connect("::1", 7000, "jürgen", "a:b c").begin() == (
        b"CONNECT [::1]:7000 HTTP/1.1\r\nHost: [::1]:7000\r\nProxy-Authorization: Basic " + login + b"\r\n\r\n"
    )


ACCEPTED = {
    "tinyproxy's": b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    "squid's": b"HTTP/1.1 200 Connection established\r\n\r\n",
    "without a reason": b"HTTP/1.1 200\r\n\r\n",
    "another 2xx": b"HTTP/1.1 299 Well\r\n\r\n",
    "with fields without meaning": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "behind an interim answer": b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "with bytes of Latin-1": b"HTTP/1.1 200 \xe9\r\nVia: \xe9\r\n\r\n",
    "as large as it may be": b"HTTP/1.1 200 OK\r\nA: " + b"x" * (MOST - 24) + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize("most", [1, 3, 2**31])
def test_accepted(answer: bytes, most: int) -> None:
    handshake = Connect("h", 1)
    assert run(handshake, answer + BEHIND, most) == (b"", BEHIND)
    assert handshake.wants == 0


REFUSED = {
    b"HTTP/1.0 403 Filtered\r\nA: b\r\n\r\n": "the proxy refuses: 403 Filtered; does it allow CONNECT to port 7000?",
    b"HTTP/1.1 405 Method Not Allowed\r\n\r\n": "405 Method Not Allowed; does it allow CONNECT to port 7000?",
    b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>": "the proxy refuses: 502 Bad Gateway$",
    b"HTTP/1.1 503 a\x1b[31mred\x07\r\n\r\n": r"the proxy refuses: 503 a\\x1b\[31mred\\x07$",
    b"HTTP/1.1 503\r\n\r\n": "the proxy refuses: 503$",
    b"HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n": "the proxy refuses: 302 Found$",
    b"HTTP/1.1 101 Switching\r\n\r\n": "the proxy refuses: 101 Switching$",
    b"HTTP/1.1 500 " + b"x" * 9000 + b"\r\n\r\n": "500 x{200}$",
    b"HTTP/1.1 407 X\r\n\r\n": "wants a user and a password .407.; write them in --via: http://USER:PASSWORD@HOST:PORT",
    b'HTTP/1.1 407 X\r\nproxy-authenticate: basic realm="x"\r\n\r\n': "wants a user and a password",
    b"HTTP/1.1 407 X\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n": (
        "the proxy wants NTLM or Negotiate .407., and only Basic is supported"
    ),
    b"HTTP/1.1 407 X\r\nProxy-Authenticate:\r\n\r\n": "wants a user and a password",
    b"HTTP/2 200 OK\r\n\r\n": "does not speak HTTP; is it of another kind, such as socks5://",
    b"SSH-2.0-OpenSSH\r\n": "does not speak HTTP",
    b"\x05\xff\x00\x00": "does not speak HTTP",
    b"HTTP/1.1 200 OK\n\n": "malformed: a line does not end with CRLF",
    b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n": "malformed: a line does not end with CRLF",
    b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n": "malformed: 'A: b",
    b"HTTP/1.1 200 OK\r\n folded\r\n\r\n": "malformed: 'folded'",
    b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n": "malformed: 'A : b'",
    b"HTTP/1.1 2000 OK\r\n\r\n": "malformed: 'HTTP/1.1 2000 OK'",
    b"HTTP/1.1 099 OK\r\n\r\n": "malformed",
    b"HTTP/1.1 200 OK\r\nA: " + b"x" * MOST: "its head has more than 16 KiB",
    b"HTTP/1.1 100 Wait\r\n\r\n" * 1000: "its head has more than 16 KiB",
}


@pytest.mark.parametrize(("answer", "text"), REFUSED.items(), ids=range(len(REFUSED)))
@pytest.mark.parametrize("most", [1, 3, 2**31])
def test_refused(answer: bytes, text: str, most: int) -> None:
    with pytest.raises(ProxyFailed, match=text) as caught:
        run(Connect("h", 7000), answer, most)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("status", [b"407", b"401"])
def test_wrong_password_is_not_repeated(status: bytes) -> None:
    with pytest.raises(ProxyFailed, match="does not accept this user and password") as caught:
        run(Connect("h", 1, "me", "secret"), b"HTTP/1.1 %b X\r\nProxy-Authenticate: Basic\r\n\r\n" % status)
    assert "secret" not in str(caught.value)


def test_more_than_was_asked_for() -> None:
    handshake = Connect("h", 1)
    with pytest.raises(ProxyFailed, match="sends more than its answer"):
        handshake.feed(b"HTTP/1.1 200 OK\r\n\r\nmore")


@given(answer=st.sampled_from([*ACCEPTED.values(), *REFUSED]), cuts=st.lists(st.integers(1, 9), max_size=60))
def test_cuts_do_not_matter(answer: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> object:
        handshake, left = Connect("h", 7000), answer + BEHIND
        try:
            while handshake.wants:
                count = min([handshake.wants, *cuts[:1]])
                cuts = cuts[1:]
                handshake.feed(left[:count])
                left = left[count:]
        except ProxyFailed as error:
            return str(error)
        return left

    assert outcome(cuts) == outcome([])
