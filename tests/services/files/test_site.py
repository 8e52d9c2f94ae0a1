"""Requests for files and directories, answered by Twisted's HTTP in memory."""

from __future__ import annotations

import os
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rtunnel.services.files import answers
from rtunnel.services.files.answers import content_type
from tests.services.files.conftest import SECRET
from tests.services.files.visit import Visit, ask

SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}


def test_a_file(share: Path) -> None:
    got = ask(share, "/a.txt")
    assert (got.status, got.body) == (200, b"0123456789")
    assert got.fields.items() >= {**SAFE, "content-type": "text/plain; charset=utf-8", "accept-ranges": "bytes"}.items()
    assert {"date", "etag", "last-modified"} < got.fields.keys()
    assert not {"server", "content-security-policy"} & got.fields.keys()


def test_a_list(share: Path) -> None:
    got = ask(share, "/")
    assert got.status == 200
    assert (
        got.fields.items() >= {**SAFE, "content-type": "text/html; charset=utf-8", "cache-control": "no-store"}.items()
    )
    assert got.fields["content-security-policy"].startswith("default-src 'none';")
    assert "server" not in got.fields
    assert b'href="a.txt"' in got.body
    assert b'href="sub/"' in got.body
    for hidden in (b"fifo", b".env", b".hidden"):
        assert hidden not in got.body
    assert b'href="../"' in ask(share, "/sub/").body


def test_a_page_of_the_owner_stands_in_place_of_the_list(share: Path) -> None:
    (share / "sub" / "index.html").write_text("<script>mine()</script>")
    got = ask(share, "/sub/")
    assert (got.status, got.body) == (200, b"<script>mine()</script>")
    assert "content-security-policy" not in got.fields
    assert ask(share, "/sub/", "Range: bytes=0-0").body == b"<"
    (share / "sub" / "deep" / "index.html").mkdir()
    assert b"c.txt" in ask(share, "/sub/deep/").body
    (share / "index.html").symlink_to("../outside")
    assert b"a.txt" in ask(share, "/").body


def test_a_directory_without_its_slash(share: Path) -> None:
    (share / "a:b").mkdir()
    for path, location in (("/sub", "./sub/"), ("/sub/deep?x", "./deep/"), ("/a:b", "./a%3Ab/")):
        got = ask(share, path)
        assert (got.status, got.fields["location"], got.body) == (301, location, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/.env",
        "/%2eenv",
        "/.hidden/key",
        "/sub/.b",
        "/../outside",
        "/%2e%2e/outside",
        "/..%2foutside",
        "/%2e%2e%2foutside",
        "/..%5coutside",
        "/sub/../../outside",
        "/sub/%2e%2e/%2e%2e/outside",
        "/sub/%252e%252e/outside",
        "/%c0%ae%c0%ae/outside",
        "//etc/passwd",
        "//evil.example.org/",
        "/%2fetc/passwd",
        "/sub//b.txt",
        "/a.txt/",
        "/a.txt%00.png",
        "/%00",
        "/fifo",
        "/fifo/",
        "/" + "x" * 5000,
        "*",
        "a.txt",
        "ftp://x/a.txt",
    ],
)
def test_what_is_not_there(share: Path, path: str) -> None:
    got = ask(share, path)
    assert got.status == 404
    assert got.fields.items() >= SAFE.items()
    assert b"There is no such file here." in got.body


@pytest.mark.parametrize(
    "path", ["/a.txt?x=/../y", "/%61.txt", "http://anything/a.txt", "HTTPS://x:1/a.txt?x", "/a.txt#x"]
)
def test_other_ways_to_write_it(share: Path, path: str) -> None:
    assert ask(share, path).body == b"0123456789"


def test_the_root_of_an_absolute_url(share: Path) -> None:
    for url in ("http://x", "http://x/"):
        assert b"a.txt" in ask(share, url).body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([*"/.%aeEnv", "..", "%2e", "%2f", "%5c", "%00", "sub", "/", "outside", ".env", "//", "?"]),
        max_size=12,
    )
)
def test_no_path_leads_to_a_secret(share: Path, parts: list[str]) -> None:
    got = ask(share, "/" + "".join(parts))
    assert got.status in (200, 301, 404)
    assert SECRET not in got.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"])
def test_other_methods(share: Path, method: str) -> None:
    visit = Visit(share)
    for path in ("/a.txt", "/nothing", "/", "*"):
        got = visit.ask(path, method=method)
        assert (got.status, got.fields["allow"]) == (405, "GET, HEAD")
    assert visit.ask("/a.txt").status == 200


def test_head(share: Path) -> None:
    visit = Visit(share)
    for path in ("/a.txt", "/sub", "/nothing"):
        got, whole = visit.ask(path, method="HEAD"), visit.ask(path)
        assert got.body == got.rest == b""
        for each in (got, whole):
            del each.fields["date"]
        assert (got.status, got.fields) == (whole.status, whole.fields)
    assert visit.ask("/", method="HEAD").status == 200
    assert visit.ask("/a.txt", "Range: bytes=0-1", method="HEAD").fields["content-length"] == "10"


def test_a_body_is_dropped(share: Path) -> None:
    visit = Visit(share)
    assert visit.ask("/a.txt", "Content-Length: 100000", method="POST", body=b"x" * 100_000).status == 405
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    assert visit.ask("/a.txt", "Transfer-Encoding: chunked", body=chunks).body == b"0123456789"
    assert visit.ask("/a.txt").status == 200


def test_conditions(share: Path) -> None:
    visit = Visit(share)
    first = visit.ask("/a.txt").fields
    for field in (f"If-None-Match: {first['etag']}", f"If-Modified-Since: {first['last-modified']}"):
        got = visit.ask("/a.txt", field)
        assert (got.status, got.body, got.rest, got.fields["etag"]) == (304, b"", b"", first["etag"])
    assert visit.ask("/a.txt", 'If-None-Match: "a"', f"If-None-Match: {first['etag']}").status == 304
    assert visit.ask("/a.txt", 'If-Match: "x"').status == 412
    os.utime(share / "a.txt", (1, 1))
    assert visit.ask("/a.txt", f"If-None-Match: {first['etag']}").status == 200


def test_a_range(share: Path) -> None:
    visit = Visit(share)
    got = visit.ask("/a.txt", "Range: bytes=2-4")
    assert (got.status, got.body, got.fields["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert got.fields["content-type"] == "text/plain; charset=utf-8"
    assert visit.ask("/a.txt", "Range: bytes=-3").body == b"789"
    got = visit.ask("/a.txt", "Range: bytes=10-")
    assert (got.status, got.fields["content-range"]) == (416, "bytes */10")
    for ignored in ("bytes=x", "bytes=0-,0-", "bytes=" + "0-0," * 100, "lines=0-1"):
        got = visit.ask("/a.txt", f"Range: {ignored}")
        assert (got.status, got.body) == (200, b"0123456789")
    etag = visit.ask("/a.txt").fields["etag"]
    assert visit.ask("/a.txt", "Range: bytes=0-0", f"If-Range: {etag}").status == 206
    assert visit.ask("/a.txt", "Range: bytes=0-0", 'If-Range: "x"').status == 200


def test_several_ranges(share: Path) -> None:
    got = ask(share, "/a.txt", "Range: bytes=8-, 0-1,4-4")
    assert got.status == 206
    assert got.rest == b""
    assert "content-range" not in got.fields
    message = BytesParser().parsebytes(b"Content-Type: %b\r\n\r\n" % got.fields["content-type"].encode() + got.body)
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert [_part(part) for part in parts] == [
        ("bytes 8-9/10", b"89"),
        ("bytes 0-1/10", b"01"),
        ("bytes 4-4/10", b"4"),
    ]


def _part(part: Message) -> tuple[str, object]:
    return part["Content-Range"], part.get_payload(decode=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a.html", b"text/html"),
        (b"a.css", b"text/css; charset=utf-8"),
        (b"a.PNG", b"image/png"),
        (b"a.svg", b"image/svg+xml"),
        (b"a.tar.gz", b"application/gzip"),
        (b"a.txt.br", b"application/octet-stream"),
        (b"a", b"application/octet-stream"),
        (b"a.\xff", b"application/octet-stream"),
        (b"data:text/html,x.txt", b"text/plain; charset=utf-8"),
        (b"a.cgi", b"application/octet-stream"),
        (b"a.rpy", b"application/octet-stream"),
    ],
)
def test_content_type(name: bytes, kind: bytes) -> None:
    assert content_type(name) == kind


@pytest.mark.parametrize("name", ["a.rpy", "a.cgi", "a.epy", "a.php"])
def test_nothing_is_run(share: Path, name: str) -> None:
    text = b"#!/bin/sh\necho run\n"
    (share / name).write_bytes(text)
    (share / name).chmod(0o755)
    assert ask(share, f"/{name}").body == text


def test_names_that_are_not_utf8(share: Path) -> None:
    (share / os.fsdecode(b"bad\xff.txt")).write_bytes(b"x")
    assert b'href="bad%FF.txt"' in ask(share, "/").body
    assert ask(share, "/bad%FF.txt").body == b"x"


def test_below_a_path(share: Path) -> None:
    """What is in front of a tunnel with a path has its own idea of it; here it is no part of the directory."""
    visit = Visit(share, (b"my files",))
    assert visit.ask("/my%20files/a.txt").body == b"0123456789"
    assert b'href="a.txt"' in visit.ask("/my%20files/").body
    assert b'href="../"' not in visit.ask("/my%20files/").body
    assert visit.ask("/my%20files").fields["location"] == "./my%20files/"
    assert visit.ask("/a.txt").status == 404
    assert visit.ask("/").status == 404
    assert visit.ask("/my%20filesx/a.txt").status == 404


@pytest.mark.parametrize(
    ("error", "status"), [(PermissionError(13, "no"), 403), (OSError(24, "too many"), 503), (OSError(5, "broken"), 500)]
)
def test_what_cannot_be_opened(share: Path, error: OSError, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(answers, "find", fail)
    got = ask(share, "/a.txt")
    assert got.status == status
    assert str(share).encode() not in got.body


def test_the_directory_goes_and_comes_back(share: Path) -> None:
    visit = Visit(share)
    share.rename(share.with_name("aside"))
    assert visit.ask("/a.txt").status == 404
    share.with_name("aside").rename(share)
    assert visit.ask("/a.txt").status == 200
