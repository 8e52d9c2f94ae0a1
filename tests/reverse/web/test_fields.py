"""What requests and answers say when they go on: whose request it is, rules, and pages of our own."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from rtunnel.access.passwords import make_hash
from rtunnel.reverse.web.answers import Answer, redirect
from rtunnel.reverse.web.forwarded import TrustedProxies, origin
from rtunnel.wire.web.parsers import RequestParser
from tests.reverse.web.parts import GET, OK, World, answer, get

HASH = make_hash(b"secret")
SAID = (
    "X-Forwarded-For: 198.51.100.1, 198.51.100.2",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
    "Forwarded: for=198.51.100.1;proto=https",
    "X-Real-IP: 198.51.100.1",
)


def fields(data: bytes) -> dict[str, list[str]]:
    """The fields of a head."""
    found: dict[str, list[str]] = {}
    for line in data.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def sent(web: World, *lines: str, **visit: Any) -> dict[str, list[str]]:
    """The fields that a service gets."""
    web.visit(get("/", *lines), **visit)
    return fields(web.service.connections[-1].news())


def test_what_a_stranger_says_is_dropped(web: World) -> None:
    found = sent(web, *SAID)
    assert found["x-forwarded-for"] == ["192.0.2.7"]
    assert found["x-forwarded-proto"] == ["http"]
    assert found["x-forwarded-host"] == ["app.example.org"]
    assert found["forwarded"] == ["for=192.0.2.7;host=app.example.org;proto=http"]
    assert "x-real-ip" not in found


def test_what_a_trusted_proxy_says_counts(web: World) -> None:
    found = sent(web, *SAID, is_trusted=True)
    assert found["x-forwarded-for"] == ["198.51.100.1, 198.51.100.2, 192.0.2.7"]
    assert found["x-forwarded-proto"] == ["https"]
    assert found["x-forwarded-host"] == ["shop.example"]
    # The proxy may have passed on what its visitor says there.
    assert "forwarded" not in found


def test_what_a_trusted_proxy_says_in_the_newer_field_counts(web: World) -> None:
    found = sent(web, "Forwarded: for=198.51.100.1;proto=https", is_trusted=True)
    assert found["forwarded"] == [
        "for=198.51.100.1;proto=https, for=192.0.2.7;host=app.example.org;proto=http",
    ]
    # Nothing may deny that: the service takes one or the other.
    assert not any(name.startswith("x-") for name in found)


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["X-Forwarded-For: 198.51.100.1, 198.51.100.2"], "198.51.100.2"),
        (["X-Forwarded-For: ::ffff:198.51.100.2"], "198.51.100.2"),
        (["X-Forwarded-For: nobody"], "192.0.2.7"),
        (["X-Forwarded-Proto: https", "Forwarded: for=198.51.100.1"], "192.0.2.7"),
        (["Forwarded: for=198.51.100.1, For=198.51.100.2; proto=https"], "198.51.100.2"),
        (['Forwarded: proto=https;for="198.51.100.3:4711"'], "198.51.100.3"),
        (['Forwarded: for="[2001:db8::1]:4711"'], "2001:db8::1"),
        (['Forwarded: for="[::ffff:198.51.100.3]:4711"'], "198.51.100.3"),
        (["Forwarded: for=_hidden"], "192.0.2.7"),
        (["Forwarded: by=198.51.100.1"], "192.0.2.7"),
        ([], "192.0.2.7"),
    ],
)
def test_whose_request_it_is(lines: list[str], address: str) -> None:
    head = RequestParser().feed(get("/", *lines))[0]
    assert origin(head, "192.0.2.7") == address


def test_a_trusted_proxy_that_says_nothing(web: World) -> None:
    assert sent(web, is_trusted=True)["x-forwarded-for"] == ["192.0.2.7"]


def test_ipv6(web: World) -> None:
    found = sent(web, address="[2001:db8::7]:1024")
    assert found["x-forwarded-for"] == ["2001:db8::7"]
    assert found["forwarded"] == ['for="[2001:db8::7]";host=app.example.org;proto=http']


def test_a_host_with_a_port_is_quoted(web: World) -> None:
    web.visit(b"GET / HTTP/1.1\r\nHost: app.example.org:8080\r\n\r\n")
    found = fields(web.service.connections[-1].news())
    assert found["forwarded"] == ['for=192.0.2.7;host="app.example.org:8080";proto=http']
    assert found["host"] == ["app.example.org:8080"]


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        (IPv4Address("TCP", "192.0.2.7", 80), True),
        (IPv4Address("TCP", "192.0.3.7", 80), False),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 80), True),
        (IPv6Address("TCP", "2001:db8::1", 80), True),
        (IPv6Address("TCP", "fe80::1%eth0", 80), False),
        (UNIXAddress("/run/x"), True),
    ],
)
def test_trusted_proxies(address: Any, is_trusted: bool) -> None:
    proxies = TrustedProxies([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert (address in proxies) is is_trusted
    assert address not in TrustedProxies([])


# Rules


def test_fields_are_changed(web: World) -> None:
    web.serve(
        request_headers=(("X-From", "outside"), ("Cookie", None), ("accept", "text/html")),
        response_headers=(("Strict-Transport-Security", "max-age=1"), ("server", None)),
    )
    visitor = web.visit(get("/", "Accept: a", "Accept: b", "cookie: c", "X-from: d", "Cookies: e"))
    found = fields(web.service.connections[0].news())
    assert (found["x-from"], found["accept"], found["cookies"]) == (["outside"], ["text/html"], ["e"])
    assert "cookie" not in found
    web.service.connections[0].send(answer(b"ok", "Server: secret", "SERVER: too", "Server-Timing: 5"))
    found = fields(visitor.news())
    assert found == {"server-timing": ["5"], "strict-transport-security": ["max-age=1"], "content-length": ["2"]}


def test_fields_of_our_own_are_changed(web: World) -> None:
    """A service must not get two of them."""
    web.serve(request_headers=(("Host", "inner:8080"), ("X-Forwarded-For", "somebody"), ("Forwarded", None)))
    found = sent(web)
    assert (found["host"], found["x-forwarded-for"]) == (["inner:8080"], ["somebody"])
    assert found["x-forwarded-host"] == ["app.example.org"]
    assert "forwarded" not in found


def test_networks(web: World) -> None:
    web.serve(deny=(ip_network("192.0.2.0/24"),))
    visitor = web.visit(GET)
    assert visitor.news().startswith(b"HTTP/1.1 403 ")
    assert web.service.connections == []
    other = web.visit(GET, address="198.51.100.1:1024")
    web.service.connections[0].send(OK)
    assert other.news() == OK
    # Another request of the same connection is judged by itself.
    visitor.send(GET)
    assert visitor.news().startswith(b"HTTP/1.1 403 ")


def test_requests_at_once(web: World) -> None:
    web.serve(connections=2)
    one, two, three = (web.visit(GET) for _ in range(3))
    assert three.news().startswith(b"HTTP/1.1 429 ")
    other = web.visit(GET, address="198.51.100.1:1024")
    web.service.connections[0].send(OK)
    assert one.news() == OK
    two.leave()
    for visitor in (one, three):
        visitor.send(GET)
        assert visitor.news() == b""
    assert other.news() == b""


def test_requests_a_second(web: World) -> None:
    web.serve(requests=1.0)
    visitor = web.visit()
    answers = []
    for _ in range(10):
        visitor.send(GET)
        if len(web.service.connections) and web.service.connections[0].news():
            web.service.connections[0].send(OK)
        answers.append(visitor.news()[:12])
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.count(b"HTTP/1.1 429") == 8


def test_passwords(web: World) -> None:
    web.serve(users=(("alice", HASH),))
    visitor = web.visit(GET)
    found = fields(visitor.received)
    assert visitor.news().startswith(b"HTTP/1.1 401 ")
    assert found["www-authenticate"][0].startswith("Basic ")
    visitor.send(get("/", "Authorization: Basic YWxpY2U6d3Jvbmc="))
    web.run_threads()
    assert visitor.news().startswith(b"HTTP/1.1 401 ")
    visitor.send(get("/", "Authorization: Basic YWxpY2U6c2VjcmV0"))
    assert visitor.news() == b""
    web.run_threads()
    [service] = web.service.connections
    assert "authorization" not in fields(service.news())
    service.send(OK)
    assert visitor.news() == OK


def test_a_visitor_who_leaves_while_his_password_is_looked_at(web: World) -> None:
    web.serve(users=(("alice", HASH),), connections=1)
    visitor = web.visit(get("/", "Authorization: Basic YWxpY2U6c2VjcmV0"))
    visitor.leave()
    web.run_threads()
    assert web.service.connections == []
    assert not web.connections
    # No place is taken.
    visitor = web.visit(get("/", "Authorization: Basic YWxpY2U6c2VjcmV0"))
    web.service.connections[0].send(OK)
    assert visitor.news() == OK


def test_a_body_waits_for_the_password(web: World) -> None:
    web.serve(users=(("alice", HASH),))
    visitor = web.visit(get("/", "Authorization: Basic YWxpY2U6c2VjcmV0", "Content-Length: 3", method="POST") + b"abc")
    web.run_threads()
    assert web.service.connections[0].news().endswith(b"\r\n\r\nabc")
    web.service.connections[0].send(OK)
    assert visitor.news() == OK


def test_a_visitor_who_ends_in_the_middle_while_his_password_is_looked_at(web: World) -> None:
    web.serve(users=(("alice", HASH),))
    visitor = web.visit(get("/", "Authorization: Basic YWxpY2U6c2VjcmV0", "Content-Length: 30", method="POST") + b"abc")
    visitor.end()
    web.run_threads()
    assert visitor.is_over
    assert not web.connections


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_visitor_who_only_listens_while_his_password_is_looked_at(web: World, count: int, body: bytes) -> None:
    web.serve(users=(("alice", HASH),))
    wrong = ("Authorization: Basic YWxpY2U6d3Jvbmc=", f"Content-Length: {len(body)}")
    visitor = web.visit(*[get("/", *wrong) + body] * count)
    visitor.end()
    for _ in range(count):
        web.run_threads()
    assert visitor.news().count(b"HTTP/1.1 401 ") == count
    assert visitor.ended
    assert not web.connections


# Our own pages


@pytest.mark.parametrize(
    "why", ["<script>alert(1)</script>", "a & b", 'x" onload="y', "\r\n\r\nHTTP/1.1 200 OK", "bücher"]
)
def test_pages_are_escaped(web: World, why: str) -> None:
    web.decide = lambda head: Answer(404, f"nothing is published here for {why}")
    visitor = web.visit(GET)
    head, _, page = visitor.news().partition(b"\r\n\r\n")
    assert int(fields(head + b"\r\n\r\n")["content-length"][0]) == len(page)
    assert b"<script>" not in page
    assert b'" onload' not in page
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert not visitor.is_over


@pytest.mark.parametrize(
    ("request_", "keeps", "has_page"),
    [
        (GET, True, True),
        (get(method="HEAD"), True, False),
        (get(version="1.0"), False, True),
        (get("/", "Connection: keep-alive", version="1.0"), True, True),
        (get("/", "Connection: close"), False, True),
        (get("/", "Content-Length: 3", method="POST") + b"abc", True, True),
    ],
)
def test_pages_of_our_own(web: World, request_: bytes, keeps: bool, has_page: bool) -> None:
    web.decide = lambda head: Answer(404, "nothing")
    visitor = web.visit(request_)
    news = visitor.news()
    assert news.endswith(b"nothing\n") is has_page
    assert re.search(rb"\r\nContent-Length: [1-9]", news)
    assert visitor.ended is not keeps
    if keeps:
        visitor.send(GET)
        assert visitor.news().startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("method", "target", "status", "location"),
    [
        ("GET", "/a?b=c", 301, "https://app.example.org/a?b=c"),
        ("POST", "/", 308, "https://app.example.org/"),
        ("OPTIONS", "*", 308, "https://app.example.org/"),
        ("GET", "//evil.example/x", 301, "https://app.example.org//evil.example/x"),
    ],
)
def test_redirection(web: World, method: str, target: str, status: int, location: str) -> None:
    web.decide = lambda head: redirect(head, head.host, "")
    visitor = web.visit(get(target, method=method))
    news = visitor.news()
    assert news.startswith(b"HTTP/1.1 %d " % status)
    assert fields(news)["location"] == [location]
    assert not visitor.is_over
