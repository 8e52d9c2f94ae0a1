"""What answers a CA by HTTP: requests in memory, and its endpoint with the real reactor."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rtunnel.services.challenges import PATIENCE, challenge_endpoint
from rtunnel.wire.web.heads import MAX_HEAD
from tests.services.files.test_endpoint import Reader, reactor
from tests.services.files.visit import Got

PATH = "/.well-known/acme-challenge"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
SHOWN = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


class Shown:
    key_authorization = SHOWN


class Visit:
    """One connection."""

    def __init__(self, shown: Shown) -> None:
        self.clock = Clock()
        site = challenge_endpoint(self.clock, shown, PATH, is_shared=False)._site  # type: ignore[attr-defined]
        self.conversation = site.buildProtocol(None)
        self.transport: Any = StringTransport()
        self.conversation.makeConnection(self.transport)

    def send(self, data: bytes, piece: int = 1 << 20) -> bytes:
        for at in range(0, len(data), piece):
            self.conversation.dataReceived(data[at : at + piece])
        return bytes(self.transport.value())

    def leave(self) -> None:
        self.conversation.connectionLost(Failure(ConnectionDone()))
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def shown() -> Shown:
    return Shown()


def request(target: str, method: str = "GET", *fields: str) -> bytes:
    lines = (f"{method} {target} HTTP/1.1", "Host: app.example.org", *fields, "", "")
    return "\r\n".join(lines).encode("ascii")


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_answer(shown: Shown, piece: int) -> None:
    visit = Visit(shown)
    got = Got(visit.send(request(f"{PATH}/{TOKEN}"), piece))
    assert (got.status, got.body, got.fields["content-type"]) == (200, SHOWN.encode(), "application/octet-stream")
    assert got.fields["connection"] == "close"
    assert visit.transport.disconnecting
    visit.leave()


def test_only_the_head(shown: Shown) -> None:
    got = Got(Visit(shown).send(request(f"{PATH}/{TOKEN}", "HEAD")), "HEAD")
    assert (got.status, got.fields["content-length"], got.rest) == (200, str(len(SHOWN)), b"")


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("/", "GET"),
        (PATH, "GET"),
        (f"{PATH}/", "GET"),
        (f"{PATH}/{SHOWN}", "GET"),
        (f"{PATH}/{TOKEN[:-1]}", "GET"),
        (f"{PATH}/{TOKEN}/", "GET"),
        (f"{PATH}/{TOKEN.lower()}", "GET"),
        (f"{PATH}/../{TOKEN}", "GET"),
        (f"/{TOKEN}", "GET"),
        (f"{PATH}/{TOKEN}", "POST"),
        (f"{PATH}/{TOKEN}", "DELETE"),
    ],
)
def test_nothing_else_is_answered(target: str, method: str, shown: Shown) -> None:
    got = Got(Visit(shown).send(request(target, method, "Content-Length: 0")))
    assert got.status == 404
    assert TOKEN.encode() not in got.body


@pytest.mark.parametrize("target", [f"{PATH}/{TOKEN}", f"{PATH}/", PATH])
def test_without_an_order(target: str, shown: Shown) -> None:
    shown.key_authorization = ""
    assert Got(Visit(shown).send(request(target))).status == 404


def test_one_request_for_each_connection(shown: Shown) -> None:
    visit = Visit(shown)
    got = Got(visit.send(request(f"{PATH}/{TOKEN}") * 3))
    assert (got.status, got.rest) == (200, b"")
    before = visit.transport.value()
    assert visit.send(request("/") * 100) == before


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01" * 100, b"GET\r\n\r\n", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage(garbage: bytes, shown: Shown) -> None:
    visit = Visit(shown)
    assert Got(visit.send(garbage)).status == 400
    assert visit.transport.disconnecting


def test_a_head_without_end(shown: Shown) -> None:
    visit = Visit(shown)
    sent = visit.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (MAX_HEAD + 1000), 1000)
    assert Got(sent).status == 400
    assert visit.transport.disconnecting
    assert not visit.conversation._parser.held


def test_who_says_nothing(shown: Shown) -> None:
    visit = Visit(shown)
    visit.send(b"GET / HT")
    visit.clock.advance(PATIENCE - 1)
    assert not visit.transport.disconnected
    visit.clock.advance(2)
    assert visit.transport.disconnected
    visit.leave()


@pytest_twisted.ensureDeferred
async def test_its_endpoint(shown: Shown) -> None:
    ends = [challenge_endpoint(reactor, shown, PATH, is_shared=shared) for shared in (False, True)]
    ask = Factory.forProtocol(lambda: Reader(request(f"{PATH}/{TOKEN}")))
    for end in ends:
        reader: Any = await end.connect(ask)
        assert Got(await reader.over).body == SHOWN.encode()
    # Among several, who has no order lets the server ask the next.
    shown.key_authorization = ""
    reader = await ends[0].connect(ask)
    assert Got(await reader.over).status == 404
    with pytest.raises(ConnectionRefusedError):
        await ends[1].connect(ask)
