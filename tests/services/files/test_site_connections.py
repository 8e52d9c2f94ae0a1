"""Connections to a directory: many requests at once, slow readers, those who vanish, garbage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtunnel.services.files import answers, site as sites
from rtunnel.services.files.tree import MOST_ENTRIES
from rtunnel.upkeep.descriptors import open_descriptors
from tests.services.files.visit import Got, Visit, ask

# Connections


def test_requests_that_come_at_once(share: Path) -> None:
    visit = Visit(share)
    visit.send(b"GET /a.txt HTTP/1.1\r\n\r\n" * 500 + b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n")
    data = visit.take()
    for _ in range(500):
        got = Got(data)
        assert (got.status, got.body) == (200, b"0123456789")
        data = got.rest
    assert Got(data).status == 404
    assert not visit.is_open


def test_who_does_not_read_gets_one_piece_at_most(share: Path) -> None:
    """However many requests there are, and however short the answers."""
    visit = Visit(share)
    visit.channel.pauseProducing()
    visit.send(b"GET / HTTP/1.1\r\n\r\n" * 500)
    assert visit.take() == b""
    visit.channel.resumeProducing()
    assert len(visit.take()) > 500_000


@pytest.mark.usefixtures("steady_descriptors")
def test_a_large_file_comes_in_pieces(share: Path) -> None:
    content = os.urandom(1_000_000)
    (share / "large").write_bytes(content)
    before = open_descriptors()
    visit = Visit(share)
    visit.send(b"GET /large HTTP/1.1\r\n\r\n")
    received = b""
    while len(received) < 1_000_000:
        visit.step()
        piece = visit.transport.value()
        visit.transport.clear()
        assert len(piece) <= answers.PIECE + 1000
        received += piece
        assert open_descriptors() <= before + 1
    visit.clock.advance(0)
    assert received.endswith(content)
    assert open_descriptors() == before


@pytest.mark.usefixtures("steady_descriptors")
@pytest.mark.parametrize("path", [b"/large", b"/", b"/nothing"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_who_vanishes_leaves_nothing_behind(share: Path, path: bytes, method: bytes, is_begun: bool) -> None:
    (share / "large").write_bytes(bytes(1_000_000))
    before = open_descriptors()
    visit = Visit(share)
    visit.send(b"%b %b HTTP/1.1\r\n\r\n" % (method, path))
    if is_begun:
        visit.step()
    visit.vanish()
    assert open_descriptors() == before
    visit.clock.advance(0)
    assert visit.clock.getDelayedCalls() == []


def test_a_file_that_becomes_shorter(share: Path) -> None:
    """The visitor must not take the part for the whole."""
    (share / "large").write_bytes(bytes(1_000_000))
    visit = Visit(share)
    visit.send(b"GET /large HTTP/1.1\r\n\r\n")
    visit.step()
    os.truncate(share / "large", 100)
    assert visit.take().endswith(b"\r\n\r\n" + bytes(100))
    assert not visit.is_open


def test_a_directory_with_very_many_files(share: Path) -> None:
    many = share / "many"
    many.mkdir()
    for number in range(MOST_ENTRIES + 5):
        os.mknod(many / f"{number}")
    got = ask(share, "/many/")
    assert got.body.count(b"<time") == MOST_ENTRIES
    assert f"more entries than the {MOST_ENTRIES:,}".encode() in got.body


def test_lists_of_many_visitors_are_bounded(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who began first, and has still not read it, has to give way."""
    monkeypatch.setattr(sites, "MOST_HELD", 6)
    first = Visit(share)
    others = [Visit(share, site=first.site) for _ in range(4)]
    for visit in (first, *others):
        visit.send(b"GET / HTTP/1.1\r\n\r\n")
        for _ in range(4):
            visit.step()
        visit.channel.pauseProducing()
    assert [visit.transport.disconnecting for visit in (first, *others)] == [True, True, False, False, False]
    for visit in others[1:]:
        visit.channel.resumeProducing()
        assert Got(visit.take()).body.endswith(b" B")
    assert first.site._held == 0
    assert not first.site._listings


def test_a_silent_connection_is_closed(share: Path) -> None:
    visit = Visit(share)
    visit.clock.advance(sites.IDLE - 1)
    assert visit.ask("/a.txt").status == 200
    visit.clock.advance(sites.IDLE - 1)
    visit.send(b"GET /a.txt HT")
    visit.clock.advance(sites.IDLE)
    visit.take()
    assert not visit.is_open
    assert visit.clock.getDelayedCalls() == []


def test_who_sends_no_more_still_gets_his_answer(share: Path) -> None:
    visit = Visit(share)
    visit.send(b"GET /a.txt HTTP/1.1\r\n\r\n")
    visit.channel.readConnectionLost()
    assert Got(visit.take()).body == b"0123456789"
    assert not visit.is_open
    for sent in (b"", b"GET /a.txt HTTP/1.1\r\n", b"GET /a.txt HTTP/1.1\r\nContent-Length: 5\r\n\r\n123"):
        partial = Visit(share)
        partial.send(sent)
        partial.channel.readConnectionLost()
        assert partial.take() == b""
        assert not partial.is_open


def test_http_1_0(share: Path) -> None:
    visit = Visit(share)
    visit.send(b"GET / HTTP/1.0\r\n\r\n")
    got = Got(visit.take())
    assert b"a.txt" in got.body
    assert "transfer-encoding" not in got.fields
    assert not visit.is_open


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_closes_the_connection(share: Path, garbage: bytes) -> None:
    visit = Visit(share)
    visit.send(garbage)
    visit.take()
    assert not visit.is_open
    assert visit.clock.getDelayedCalls() == []
