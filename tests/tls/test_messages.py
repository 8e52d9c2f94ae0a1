"""Peers that ask for new keys again and again, under every kind of TLS that we have."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory

from rtunnel.tls import openssl
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TOO_MANY_MESSAGES
from rtunnel.tls.messages import limit_messages
from rtunnel.tls.openssl import MAX_STEPS
from rtunnel.tls.web_server import WebCredentials
from tests.tls.key_updates import Hand
from tests.tls.parts import Authority
from tests.tls.test_engine import pair

#: Far more than one connection may have.
MANY = 20_000
#: What we may be made to say: what comes of one read, and a little.
MOST_ANSWERED = 65536 + 32768


def test_new_keys_now_and_then(server: Credentials, client: Credentials) -> None:
    """As other libraries take them, after so many records."""
    hand = Hand(client.now.context)
    first, second = pair(server, client)
    for number in range(MAX_STEPS // 10):
        assert first.receive(hand.update() + hand.data(b"x" * number)) == b"x" * number
        second.receive(first.output())
    assert not first.failure
    first.send(b"answer")
    assert second.receive(first.output()) == b"answer"


def test_new_keys_for_months(server: Credentials, client: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some libraries change them after 2**20 records: at 20,000 a second, once in 52 seconds."""
    now = 0.0
    monkeypatch.setattr(openssl, "monotonic", lambda: now)
    hand = Hand(client.now.context)
    first, _ = pair(server, client)
    for _ in range(3 * MAX_STEPS):
        now += 2**20 / 20_000
        assert first.receive(hand.update() + hand.data(b"x")) == b"x", first.failure
        first.output()
    # They may not be saved up.
    for _ in range(MAX_STEPS):
        first.receive(hand.update())
    assert first.failure == TOO_MANY_MESSAGES


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_new_keys_again_and_again(asks: bool, mixed: bool, server: Credentials, client: Credentials) -> None:
    hand = Hand(client.now.context)
    first, _ = pair(server, client)
    answered = sent = 0
    while not first.failure:
        records = [hand.update(request=asks) + (hand.data(b"x") if mixed else b"") for _ in range(100)]
        sent += len(records)
        first.receive(b"".join(records))
        answered += len(first.output())
        assert sent < MANY
    assert first.failure == TOO_MANY_MESSAGES
    assert answered < MOST_ANSWERED
    assert first.receive(hand.update()) == first.output() == b""


class Above(Protocol):
    """What is above Twisted's TLS."""

    def connectionMade(self) -> None:
        limit_messages(self.transport)
        limit_messages(self.transport)


class Below(StringTransport):
    """What is below it, and does not send anything."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def test_twisteds_tls(authority: Authority) -> None:
    holder = authority.server()
    credentials = WebCredentials(holder.cert, holder.key)
    tls: Any = TLSMemoryBIOFactory(credentials, False, Factory.forProtocol(Above), Clock()).buildProtocol(None)
    below: Any = Below()
    tls.makeConnection(below)
    context = SSL.Context(SSL.TLS_METHOD)
    hand = Hand(context)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    for _ in range(3):
        with suppress(SSL.WantReadError):
            client.do_handshake()
        with suppress(SSL.WantReadError):
            tls.dataReceived(client.bio_read(1 << 16))
        if below.value():
            client.bio_write(below.value())
        below.clear()
    tls.dataReceived(hand.update() + hand.data(b"hello"))
    assert not below.aborted
    count = 0
    while not below.aborted:
        tls.dataReceived(hand.update())
        count += 1
        assert count < MANY
    assert len(below.value()) < MOST_ANSWERED
