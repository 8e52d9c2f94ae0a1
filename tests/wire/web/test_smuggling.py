"""Request smuggling: two programs take the same bytes for different requests (RFC 9112, section 11.2).

What is ambiguous is refused. What is accepted is written anew, and then everybody reads the same.
"""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings, strategies as st

from rtunnel.wire.web.heads import LAST_CHUNK, Problem, ResponseHead, write_chunk, write_response
from rtunnel.wire.web.parsers import END, RAW
from tests.examples import examples
from tests.wire.web import test_requests, test_responses
from tests.wire.web.oracles import Refused, by_h11, by_httptools, by_us
from tests.wire.web.parts import (
    CHUNKED,
    HOST,
    WEBSOCKET,
    cut,
    merged,
    plain,
    post,
    refusal,
    request,
    requests,
    response_parser,
    sent_on,
)

HIDDEN = b"GET /admin HTTP/1.1\r\nHost: app.example.org\r\n\r\n"
LAST = b"0\r\n\r\n"


def with_host(*lines: bytes) -> bytes:
    return request(host=b"".join(b"Host: %b\r\n" % line for line in lines))


AMBIGUOUS = {
    "length and chunks": post(b"Content-Length: 5", CHUNKED) + LAST + HIDDEN,
    "chunks and length": post(CHUNKED, b"Content-Length: 5") + LAST + HIDDEN,
    "length 0 and chunks": post(b"Content-Length: 0", CHUNKED) + LAST + HIDDEN,
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 46") + HIDDEN,
    "the same length twice": post(b"Content-Length: 46", b"Content-Length: 46") + HIDDEN,
    "a list of lengths": post(b"Content-Length: 46, 46") + HIDDEN,
    "a list of two lengths": post(b"Content-Length: 0, 46") + HIDDEN,
    "length with +": post(b"Content-Length: +46") + HIDDEN,
    "length with -": post(b"Content-Length: -1") + HIDDEN,
    "length with _": post(b"Content-Length: 4_6") + HIDDEN,
    "length in hex": post(b"Content-Length: 0x2e") + HIDDEN,
    "length with a fraction": post(b"Content-Length: 46.0") + HIDDEN,
    "length in other digits": post("Content-Length: ４６".encode()) + HIDDEN,
    "length with a space": post(b"Content-Length: 4 6") + HIDDEN,
    "length quoted": post(b'Content-Length: "46"') + HIDDEN,
    "no length": post(b"Content-Length:") + HIDDEN,
    "too large a length": post(b"Content-Length: 18446744073709551662") + HIDDEN,
    "far too large a length": post(b"Content-Length: " + b"9" * 200) + HIDDEN,
    "length with a space before the colon": post(b"Content-Length : 46") + HIDDEN,
    "length with a tab before the colon": post(b"Content-Length\t: 46") + HIDDEN,
    "length folded": post(b"Content-Length:\r\n 46") + HIDDEN,
    "coding with a space before the colon": post(b"Transfer-Encoding : chunked") + LAST + HIDDEN,
    "coding with a tab before the colon": post(b"Transfer-Encoding\t: chunked") + LAST + HIDDEN,
    "coding behind a vertical tab": post(b"Transfer-Encoding: \x0bchunked") + LAST + HIDDEN,
    "coding behind a form feed": post(b"Transfer-Encoding: \x0cchunked") + LAST + HIDDEN,
    "coding behind NUL": post(b"Transfer-Encoding: \x00chunked") + LAST + HIDDEN,
    "coding with NUL behind": post(b"Transfer-Encoding: chunked\x00") + LAST + HIDDEN,
    "coding behind a no-break space": post(b"Transfer-Encoding: \xa0chunked") + LAST + HIDDEN,
    "another coding": post(b"Transfer-Encoding: xchunked") + LAST + HIDDEN,
    "coding with more": post(b"Transfer-Encoding: chunked-not") + LAST + HIDDEN,
    "coding with a parameter": post(b"Transfer-Encoding: chunked;q=1") + LAST + HIDDEN,
    "coding quoted": post(b'Transfer-Encoding: "chunked"') + LAST + HIDDEN,
    "coding in quotes": post(b"Transfer-Encoding: 'chunked'") + LAST + HIDDEN,
    "identity": post(b"Transfer-Encoding: identity") + LAST + HIDDEN,
    "identity first": post(b"Transfer-Encoding: identity, chunked") + LAST + HIDDEN,
    "identity last": post(b"Transfer-Encoding: chunked, identity") + LAST + HIDDEN,
    "identity in a field before": post(b"Transfer-Encoding: identity", CHUNKED) + LAST + HIDDEN,
    "identity in a field behind": post(CHUNKED, b"Transfer-Encoding: identity") + LAST + HIDDEN,
    "identity and length": post(b"Transfer-Encoding: identity", b"Content-Length: 46") + HIDDEN,
    "gzip in a field before": post(b"Transfer-Encoding: gzip", CHUNKED) + LAST + HIDDEN,
    "chunked twice": post(CHUNKED, CHUNKED) + LAST + HIDDEN,
    "chunked twice in one field": post(b"Transfer-Encoding: chunked, chunked") + LAST + HIDDEN,
    "no coding": post(b"Transfer-Encoding:") + LAST + HIDDEN,
    "coding folded": post(b"Transfer-Encoding:\r\n chunked") + LAST + HIDDEN,
    "coding folded behind something": post(b"Transfer-Encoding: x\r\n chunked") + LAST + HIDDEN,
    "coding behind a bare LF": post(b"X: y\nTransfer-Encoding: chunked") + LAST + HIDDEN,
    "coding behind a bare CR": post(b"X: y\rTransfer-Encoding: chunked") + LAST + HIDDEN,
    "coding behind CR CR LF": post(b"X: y\r\r\nTransfer-Encoding: chunked") + LAST + HIDDEN,
    "coding of the old protocol": request(CHUNKED, first=b"POST / HTTP/1.0") + LAST + HIDDEN,
    "field folded": request(b"X: y\r\n Z: q"),
    "field folded by a tab": request(b"X: y\r\n\tZ: q"),
    "space before the first field": b"GET / HTTP/1.1\r\n X: y\r\n" + HOST + b"\r\n",
    "a field that is folded at once": b"GET / HTTP/1.1\r\n" + HOST + b" \r\n\r\n",
    "space in a name": request(b"X Y: z"),
    "space before a colon": request(b"X : z"),
    "no name": request(b": z"),
    "no colon": request(b"XYZ"),
    "NUL in a value": request(b"X: y\x00z"),
    "NUL in a name": request(b"X\x00: y"),
    "parenthesis in a name": request(b"X(y): z"),
    "high byte in a name": request(b"X\xc3\xa9: z"),
    "bare LF": request(b"X: y\nZ: q"),
    "bare CR": request(b"X: y\rZ: q"),
    "bare LF behind the first line": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "bare CR behind the first line": b"GET / HTTP/1.1\r" + HOST + b"\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\n" + HOST + b"\n" + HIDDEN,
    "bare LFs only": b"GET / HTTP/1.1\nHost: app.example.org\n\n",
    "no host": request(host=b""),
    "two hosts": with_host(b"app.example.org", b"other.example"),
    "the same host twice": with_host(b"app.example.org", b"app.example.org"),
    "an empty host": with_host(b""),
    "a list of hosts": with_host(b"app.example.org, other.example"),
    "host with a space": with_host(b"app.example.org other.example"),
    "host with a user": with_host(b"app.example.org@other.example"),
    "host with a path": with_host(b"app.example.org/x"),
    "host with a query": with_host(b"app.example.org?x"),
    "host with a fragment": with_host(b"app.example.org#x"),
    "host with a backslash": with_host(b"app.example.org\\x"),
    "host with a percent sign": with_host(b"app%2eexample.org"),
    "host in UTF-8": with_host("bücher.example".encode()),
    "host with a high byte": with_host(b"app.example.org\xa0"),
    "host with two ports": with_host(b"app.example.org:80:81"),
    "host with a port that is none": with_host(b"app.example.org:x"),
    "host with too long a port": with_host(b"app.example.org:000080"),
    "host of markup": with_host(b"<script>"),
    "host with a bracket": with_host(b"[::1"),
    "host with a zone": with_host(b"[fe80::1%25eth0]"),
    "host with a space before the colon": request(host=b"Host : app.example.org\r\n"),
    "host folded": request(host=b"Host:\r\n app.example.org\r\n"),
    "host too long": with_host(b"a" * 256),
    "a target with a user": request(first=b"GET http://app.example.org@other.example/ HTTP/1.1"),
    "a target with an empty host": request(first=b"GET http:///x HTTP/1.1"),
    "a target and two hosts": request(
        first=b"GET http://app.example.org/ HTTP/1.1", host=b"Host: a.example\r\nHost: b.example\r\n"
    ),
    "a target of another scheme": request(first=b"GET ftp://app.example.org/ HTTP/1.1"),
    "a target without a slash": request(first=b"GET x HTTP/1.1"),
    "a target of two words": request(first=b"GET /a b HTTP/1.1"),
    "a target with a tab": request(first=b"GET /a\tb HTTP/1.1"),
    "a target with NUL": request(first=b"GET /a\x00b HTTP/1.1"),
    "a target with a high byte": request(first=b"GET /\xc3\xa9 HTTP/1.1"),
    "a target that is a star": request(first=b"GET * HTTP/1.1"),
    "no target": request(first=b"GET HTTP/1.1"),
    "CONNECT": request(first=b"CONNECT app.example.org:443 HTTP/1.1"),
    "a tab behind the method": request(first=b"GET\t/ HTTP/1.1"),
    "a space before the method": request(first=b" GET / HTTP/1.1"),
    "a method in lower case": request(first=b"get / HTTP/1.1"),
    "a method with a colon": request(first=b"GET: / HTTP/1.1"),
    "a space behind the version": request(first=b"GET / HTTP/1.1 "),
    "version 0.9": request(first=b"GET / HTTP/0.9"),
    "version 1.2": request(first=b"GET / HTTP/1.2"),
    "version 1.10": request(first=b"GET / HTTP/1.10"),
    "version 2.0": request(first=b"GET / HTTP/2.0"),
    "version in lower case": request(first=b"GET / http/1.1"),
    "no version": b"GET /\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": request(first=b"DESCRIBE / RTSP/1.0"),
    "ICE": request(first=b"SOURCE / ICE/1.0"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}
BAD_CHUNKS = {
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "minus zero": b"-0\r\n\r\n",
    "space before": b" 3\r\nabc\r\n0\r\n\r\n",
    "tab before": b"\t3\r\nabc\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "empty": b"\r\nabc\r\n0\r\n\r\n",
    "no hex": b"g\r\nabc\r\n0\r\n\r\n",
    "other digits": "３\r\nabc\r\n0\r\n\r\n".encode(),
    "wraps at 32 bits and 64": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "far too large": b"f" * 100 + b"\r\nabc\r\n0\r\n\r\n",
    "bare LF": b"3\nabc\r\n0\r\n\r\n",
    "bare CR": b"3\rabc\r\n0\r\n\r\n",
    "bare LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "too much data": b"3\r\nabcd\r\n0\r\n\r\n",
    "two digits behind": b"3 4\r\nabc\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
    "NUL behind": b"3\x00\r\nabc\r\n0\r\n\r\n",
    "bare LF behind the last": b"0\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a trailer with a space before the colon": b"0\r\nX : y\r\n\r\n",
    "a trailer folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer with a bare LF": b"0\r\nX: y\nZ: q\r\n\r\n",
    "a trailer with NUL": b"0\r\nX: \x00\r\n\r\n",
    "another request": HIDDEN,
}
NORMALISED = {
    "no Host beside a target with one": request(first=b"GET http://app.example.org/ HTTP/1.1", host=b""),
    "another Host beside a target": request(first=b"GET http://other.example/x HTTP/1.1"),
    "empty lines before": b"\r\n\r\n" + request(),
    "HTTP/1.0 without Host": request(first=b"GET / HTTP/1.0", host=b""),
    "spaces around a length": post(b"Content-Length:  3 ") + b"abc",
    "a length with zeros": post(b"Content-Length: 0003") + b"abc",
    "coding in capitals": post(b"Transfer-Encoding: CHUNKED") + b"3\r\nabc\r\n" + LAST,
    "length that is for one connection": post(b"Connection: content-length", b"Content-Length: 3") + b"abc" + HIDDEN,
    "coding that is for one connection": post(b"Connection: transfer-encoding", CHUNKED)
    + b"1\r\na\r\n"
    + LAST
    + HIDDEN,
    "host that is for one connection": request(b"Connection: host"),
    "underscores": post(b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Content-Length: 3") + b"abc" + HIDDEN,
    "GET with a body": request(b"Content-Length: 46") + HIDDEN + request(),
    "GET with chunks": request(CHUNKED) + b"2e\r\n" + HIDDEN + b"\r\n" + LAST + request(),
    "trailers that are framing": post(CHUNKED) + b"0\r\nContent-Length: 46\r\nTransfer-Encoding: x\r\n\r\n" + HIDDEN,
    "zeros before a size": post(CHUNKED) + b"0000000003\r\nabc\r\n000\r\n\r\n" + HIDDEN,
    "extensions": post(CHUNKED) + b'3;a="b;c";d\r\nabc\r\n0;x\r\n\r\n' + HIDDEN,
    "HTTP/1.0 with keep-alive and a body": request(
        b"Connection: keep-alive", b"Content-Length: 3", first=b"POST / HTTP/1.0"
    )
    + b"abc"
    + HIDDEN,
    "a request behind the last one": request(b"Connection: close") + HIDDEN,
    "a wish for another protocol with a body": post(WEBSOCKET, b"Content-Length: 46") + HIDDEN + request(),
}


def check(data: bytes) -> list[object]:
    """Whatever comes, everybody reads the same out of what is sent on. Return the events."""
    events = requests(data)
    before = events[: events.index(RAW)] if RAW in events else events
    ours = by_us(before)
    again = sent_on(before)
    assert by_h11(again) == ours
    assert by_httptools(again) == ours
    return events


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_requests_are_refused(name: str) -> None:
    data = AMBIGUOUS[name]
    for pieces in ([data], cut(data, range(len(data)))):
        events = requests(*pieces)
        assert refusal(events).status in (400, 501, 505)
        assert events[:-1] == [], "nothing goes on"


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks_are_refused(name: str) -> None:
    data = post(CHUNKED) + BAD_CHUNKS[name] + HIDDEN
    for pieces in ([data], cut(data, range(len(data)))):
        events = requests(*pieces)
        assert refusal(events).status == 400
        assert len(by_us(events)) == 0
    check(data)


@pytest.mark.parametrize("name", NORMALISED)
def test_what_is_accepted_is_clear(name: str) -> None:
    data = NORMALISED[name]
    events = check(data)
    assert by_us(events)
    assert not isinstance(events[-1], Problem)


def test_a_host_name_in_the_target_wins() -> None:
    [found] = by_us(check(NORMALISED["another Host beside a target"]))
    assert (found.target, found.host) == (b"/x", b"other.example")


ANSWERS = [*test_responses.GOOD, *test_responses.BAD]
SEEDS = [*AMBIGUOUS.values(), *NORMALISED.values(), *(post(CHUNKED) + each for each in BAD_CHUNKS.values())]
SEEDS += [post(b"Content-Length: 3", b"Accept: */*") + b"abc" + request(), request(WEBSOCKET) + b"raw"]
SPICES = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xa0", b"\xff",
    b":", b",", b";", b'"', b"0", b"3", b"-", b"+", b"_", b"#", b"?", b"/", b"*", b"%2f", b"@", b"[", b"]",
    b"chunked", b"identity", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\n", b"Upgrade: x\r\n", HOST,
    b"HTTP/1.0", b"HTTP/1.1", b"\r\n ", b"GET / HTTP/1.1\r\n", b"http://b.example", b"0\r\n\r\n", HIDDEN,
]  # fmt: skip


@st.composite
def spiced(draw: st.DrawFn) -> bytes:
    """A request with something put in, taken out or put in another's place."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 0, 1, 1, 2, 5, 20))))
        data = data[:start] + draw(st.sampled_from(SPICES) | st.binary(max_size=2)) + data[end:]
    return data


@settings(max_examples=examples(1500))
@given(spiced(), st.integers(0, 9))
@example(request(first=b"GET /  HTTP/1.1"), 0)
def test_whatever_is_accepted_is_clear(data: bytes, step: int) -> None:
    """Everybody reads the same out of what is sent on; and where h11 accepts what came, it has read the same there."""
    events = check(data)
    if step:
        assert by_us(requests(*cut(data, range(0, len(data), step)))) == by_us(events)
    if isinstance(events[-1] if events else None, Problem) or RAW in events:
        return
    try:
        theirs = by_h11(data)
    except Refused:
        return
    assert [each.body for each in theirs] == [each.body for each in by_us(events)][: len(theirs)]
    assert [each.method for each in theirs] == [each.method for each in by_us(events)][: len(theirs)]


@settings(max_examples=examples(1500))
@given(spiced() | st.sampled_from(test_requests.GOOD))
def test_the_short_way_is_no_other_way(data: bytes) -> None:
    """A head that is only Host, or Host and keep-alive, is read as any other."""
    end = data.find(b"\r\n\r\n") + 2
    if end < 2 or b"\r\n" not in data[: end - 2]:
        return
    short, longer = requests(data), requests(data[:end] + b"Keep-Alive: 5\r\n" + data[end:])
    again = requests(data[:end].replace(b": keep-alive\r\n", b": keep-alive,keep-alive\r\n") + data[end:])
    for other in (longer, again):
        if not any(isinstance(each, Problem) for each in (*short, *other)):
            assert plain(other) == plain(short)


@st.composite
def spiced_answers(draw: st.DrawFn) -> bytes:
    """An answer of a service with something put in or taken out."""
    data = draw(st.sampled_from(ANSWERS))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 1, 2, 20))))
        data = data[:start] + draw(st.sampled_from(SPICES) | st.binary(max_size=2)) + data[end:]
    return data


@settings(max_examples=examples(1500))
@given(spiced_answers(), st.booleans(), st.lists(st.integers(1, 400), max_size=4))
def test_an_answer_is_the_same_in_pieces(data: bytes, is_head: bool, cuts: list[int]) -> None:
    whole, pieces = response_parser(is_head=is_head), response_parser(is_head=is_head)
    events = merged(whole.feed(data))
    others = merged(event for piece in cut(data, cuts) for event in pieces.feed(piece))
    if events and isinstance(events[-1], Problem):
        assert isinstance(others.pop(), Problem)
        events.pop()
    assert plain(others) == plain(events)
    assert whole.is_clean == pieces.is_clean


@settings(max_examples=examples(1500))
@given(spiced_answers(), st.booleans())
def test_whatever_is_accepted_of_an_answer_is_one_answer(data: bytes, is_head: bool) -> None:
    """A visitor gets no more and no less of what goes on than we have understood."""
    parser = response_parser(is_head=is_head)
    events = merged(parser.feed(data))
    if not events or isinstance(events[-1], Problem) or RAW in events:
        return
    heads = [each for each in events if isinstance(each, ResponseHead)]
    head = heads[-1]
    body = b"".join(each for each in events if isinstance(each, bytes))
    if not (head.is_complete or END in events or parser.finish()):
        return
    framing = not (head.has_no_body or head.length is not None) or (head.is_chunked and not head.has_no_body)
    out = b"".join(write_response(each, each.lines, is_old=False, keeps_alive=True) for each in heads)
    if framing:
        out += (write_chunk(body) if body else b"") + LAST_CHUNK
    else:
        out += body
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(out)
    theirs = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            assert event.status_code == head.status
        elif isinstance(event, h11.Data):
            theirs += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse), (event, out)
    assert theirs == body
    assert client.trailing_data[0] == b""
