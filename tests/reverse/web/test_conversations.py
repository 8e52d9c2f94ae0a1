"""Requests and answers of all kinds, in any pieces: h11 behind gets each request, and h11 in front each answer."""

from __future__ import annotations

from dataclasses import dataclass

import h11
from hypothesis import given, settings, strategies as st

from tests.examples import examples
from tests.reverse.web.parts import Peer, World, get
from tests.wire.web.parts import cut

NOTES = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"


def content(size: int) -> bytes:
    return (b"0123456789\r\n" * (size // 12 + 1))[:size]


def in_chunks(body: bytes) -> bytes:
    pieces = [b"%x;x=y\r\n%b\r\n" % (len(each), each) for each in cut(body, [1, 5, 100]) if each]
    return b"".join(pieces) + b"0\r\nX-Sum: 1\r\n\r\n"


@dataclass(frozen=True)
class Turn:
    """A request and its answer.

    :ivar asks: how the request's body is framed.
    :ivar tells: how the answer's body is framed, or the status of one without.
    :ivar question: bytes in the body of the request.
    :ivar answer: bytes in the body of the answer.
    """

    method: str
    asks: str
    tells: str
    question: int
    answer: int

    @property
    def asked(self) -> bytes:
        """The body of the request."""
        return content(self.question) if self.method in ("POST", "PUT") else b""

    @property
    def told(self) -> bytes:
        """The body of the answer."""
        return b"" if self.method == "HEAD" or self.tells[0].isdigit() else content(self.answer)

    @property
    def closes(self) -> bool:
        """The service closes its connection behind the answer."""
        return self.tells == "old" or (self.tells == "until close" and self.method != "HEAD")

    def request(self, number: int) -> bytes:
        path = f"/{number}"
        if self.method in ("GET", "HEAD"):
            return get(path, method=self.method)
        if self.asks == "length":
            return get(path, f"Content-Length: {self.question}", method=self.method) + self.asked
        return get(path, "Transfer-Encoding: chunked", method=self.method) + in_chunks(self.asked)

    def response(self) -> bytes:
        if self.tells[0].isdigit():
            return f"HTTP/1.1 {self.tells}\r\n\r\n".encode()
        version = "1.0" if self.tells == "old" else "1.1"
        framing = {"chunks": "Transfer-Encoding: chunked\r\n", "until close": ""}
        field = framing.get(self.tells, f"Content-Length: {self.answer}\r\n")
        head = f"HTTP/{version} 200 OK\r\n{field}\r\n".encode()
        body = in_chunks(self.told) if self.tells == "chunks" and self.method != "HEAD" else self.told
        return NOTES * (self.tells == "notes") + head + body


SIZES = st.integers(0, 200) | st.just(100_000)
TURNS = st.builds(
    Turn,
    st.sampled_from(("GET", "GET", "HEAD", "POST", "PUT")),
    st.sampled_from(("length", "chunks")),
    st.sampled_from(("length", "chunks", "until close", "old", "204 No Content", "304 Not Modified", "notes")),
    SIZES,
    SIZES,
)


class Answering:
    """A service: h11 reads what comes over one connection, and the answers are those of *turns*."""

    def __init__(self, peer: Peer, turns: list[Turn], cuts: list[int]) -> None:
        self._peer, self._turns, self._cuts = peer, turns, cuts
        self._connection = h11.Connection(h11.SERVER)
        self._target = b""
        self._body = b""
        self.is_over = False

    def go_on(self) -> bool:
        """Read and answer; return whether anything came."""
        data = self._peer.news()
        if not data or self.is_over:
            return False
        self._connection.receive_data(data)
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                self._target, self._body = event.target, b""
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._answer()
                return True
            else:
                return True

    def _answer(self) -> None:
        turn = self._turns[int(self._target[1:])]
        assert self._body == turn.asked
        self._connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        self._connection.send(h11.EndOfMessage())
        self._connection.start_next_cycle()
        self._peer.send(*cut(turn.response(), self._cuts))
        if turn.closes:
            self._peer.end()
            self.is_over = True


def read_answers(data: bytes, turns: list[Turn], *, is_ended: bool) -> list[tuple[int, bytes]]:
    """The answers as h11 reads them."""
    found = []
    for turn in turns:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=turn.method, target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        if is_ended:
            client.receive_data(b"")
        status, body = 0, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, (data[:200], turn)
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        data = client.trailing_data[0]
        found.append((status, body))
    assert data == b""
    return found


@settings(max_examples=examples(300))
@given(
    st.lists(TURNS, min_size=1, max_size=6),
    st.lists(st.integers(1, 2000), max_size=10),
    st.lists(st.integers(1, 300), max_size=4),
    st.booleans(),
)
def test_conversations(turns: list[Turn], cuts: list[int], answer_cuts: list[int], ends: bool) -> None:
    """Requests are pipelined in any pieces. However they are answered, the visitor gets each answer in its turn."""
    web = World()
    visitor = web.visit()
    services: dict[Peer, Answering] = {}

    def serve() -> None:
        while True:
            for peer in web.service.connections:
                services.setdefault(peer, Answering(peer, turns, answer_cuts))
            if not sum(service.go_on() for service in list(services.values())):
                return

    data = b"".join(turn.request(number) for number, turn in enumerate(turns))
    for piece in cut(data, cuts):
        visitor.send(piece)
        serve()
    if ends:
        visitor.end()
    serve()
    visitor.take_all()
    serve()
    assert not visitor.why
    assert read_answers(visitor.received, turns, is_ended=visitor.ended) == [
        (int(turn.tells[:3]) if turn.tells[0].isdigit() else 200, turn.told) for turn in turns
    ]
    assert visitor.ended is ends
    assert not web.complaints
