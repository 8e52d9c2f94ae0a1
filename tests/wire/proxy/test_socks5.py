"""SOCKS 5: what is sent, which answers are accepted, and what is said about the others."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import ProxyFailed
from rtunnel.wire.proxy.socks5 import Socks5
from tests.wire.proxy.parts import run

BEHIND = b"\5\0\0\1"
OPEN = b"\5\0"
LOGIN = b"\5\2\1\0"
REPLIES = {
    "IPv4": b"\5\0\0\1\x7f\0\0\1\x1b\x58",
    "IPv6": b"\5\0\0\4" + bytes(18),
    "name": b"\5\0\0\3\x03abc\0\0",
    "no name": b"\5\0\0\3\0\0\0",
    "longest name": b"\5\0\0\3\xff" + bytes(257),
}
REQUESTS = {
    "tunnel.example.org": b"\5\1\0\3\x12tunnel.example.org\x1b\x58",
    "192.0.2.1": b"\5\1\0\1\xc0\0\2\1\x1b\x58",
    "2001:db8::1": b"\5\1\0\4\x20\1\x0d\xb8" + bytes(11) + b"\1\x1b\x58",
}


@pytest.mark.parametrize(("host", "request_"), REQUESTS.items())
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@pytest.mark.parametrize("most", [1, 3, 2**31])
def test_without_user(host: str, request_: bytes, reply: bytes, most: int) -> None:
    handshake = Socks5(host, 7000)
    assert handshake.begin() == b"\5\1\0"
    assert run(handshake, OPEN + reply + BEHIND, most) == (request_, BEHIND)
    assert handshake.wants == 0


def test_with_user_and_password() -> None:
    handshake = Socks5("h", 1, "me", "päss")
    assert handshake.begin() == b"\5\2\0\2"
    assert run(handshake, LOGIN + REPLIES["IPv4"]) == (b"\1\2me\5p\xc3\xa4ss\5\1\0\3\1h\0\1", b"")


def test_proxy_that_does_not_want_the_password() -> None:
    sent, _ = run(Socks5("h", 1, "me", "secret"), OPEN + REPLIES["IPv4"])
    assert b"secret" not in sent


REFUSED = {
    b"\5\xff": "the proxy wants a user and a password, or another proof; write them in --via: socks5://USER:PASSWORD@",
    b"\5\2": "chooses the method 2, which was not offered",
    b"\5\1": "chooses the method 1, which was not offered",
    b"\4\0": "does not speak SOCKS 5",
    b"HT": "does not speak SOCKS 5; is it of another kind, such as http://",
    OPEN + b"\5\1\0\1": "the proxy refuses: general failure$",
    OPEN + b"\5\2\0\1": "the proxy refuses: not allowed by its rules$",
    OPEN + b"\5\3\0\1": "the proxy refuses: network is unreachable$",
    OPEN + b"\5\4\0\1": "the proxy refuses: host is unreachable$",
    OPEN + b"\5\5\0\1": "the proxy refuses: connection refused$",
    OPEN + b"\5\6\0\1": "the proxy refuses: TTL expired$",
    OPEN + b"\5\7\0\1": "the proxy refuses: it does not know CONNECT$",
    OPEN + b"\5\x08\0\1": "the proxy refuses: it does not know this kind of address$",
    OPEN + b"\5\x63\0\1": "the proxy refuses: code 99$",
    OPEN + b"\4\0\0\1": "malformed",
    OPEN + b"\5\0\0\2": "malformed: its address has the kind 2",
}
WITH_USER = {
    b"\5\xff": "accepts neither user and password nor a client without",
    b"\5\2\1\1": "does not accept this user and password; are they right in --via",
    b"\5\2\5\0": "about user and password is malformed",
}


@pytest.mark.parametrize(("answer", "text"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused(answer: bytes, text: str) -> None:
    with pytest.raises(ProxyFailed, match=text):
        run(Socks5("h", 1), answer)


@pytest.mark.parametrize(("answer", "text"), WITH_USER.items(), ids=range(len(WITH_USER)))
def test_user_refused(answer: bytes, text: str) -> None:
    with pytest.raises(ProxyFailed, match=text) as caught:
        run(Socks5("h", 1, "me", "secret"), answer)
    assert "secret" not in str(caught.value)


def test_more_than_was_asked_for() -> None:
    with pytest.raises(ProxyFailed, match="sends more than its answer"):
        Socks5("h", 1).feed(OPEN + b"\5")


def test_text_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="more than 255 bytes"):
        Socks5("h", 1, "x" * 256)


@given(
    answer=st.sampled_from([*REFUSED, *(OPEN + reply for reply in REPLIES.values())]),
    cuts=st.lists(st.integers(1, 9), max_size=60),
)
def test_cuts_do_not_matter(answer: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> object:
        handshake, left, sent = Socks5("h", 7000), answer + BEHIND, b""
        try:
            while handshake.wants:
                count = min([handshake.wants, *cuts[:1]])
                cuts = cuts[1:]
                sent += handshake.feed(left[:count])
                left = left[count:]
        except ProxyFailed as error:
            return str(error)
        return sent, left

    assert outcome(cuts) == outcome([])
