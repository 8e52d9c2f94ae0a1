"""The page that lists a directory: names are text, whatever they are, and nothing in it can run."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import given, strategies as st

from rtunnel.services.files.page import POLICY, error_page, link, listing, shown, size_of
from rtunnel.services.files.tree import Entry

MODIFIED = 1_000_000_000.0
TAGS = {
    *("html", "meta", "title", "style", "svg", "symbol", "path", "use"),
    *("h1", "a", "bdi", "span", "table", "thead", "tbody", "tr", "th", "td", "time", "p"),
}


class Page(HTMLParser):
    """What is in a page.

    :ivar links: URLs and their texts.
    """

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.text = ""
        self._url: str | None = None
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "a":
            self._url = dict(attrs)["href"]
            self.links.append((str(self._url), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._url = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._url is not None:
            url, text = self.links.pop()
            self.links.append((url, text + data))


def entry(name: bytes, size: int = 5, *, is_directory: bool = False, modified: float = MODIFIED) -> Entry:
    return Entry(name, is_directory, size, modified)


def page_of(*found: Entry, names: tuple[bytes, ...] = (), is_cut: bool = False) -> bytes:
    return b"".join(listing(names, list(found), is_cut=is_cut))


def test_directories_come_first_and_case_does_not_matter() -> None:
    names = [b"b.txt", b"A.txt", b"a.txt", "\u00e4.txt".encode(), b"z.txt"]
    found = [*map(entry, names), entry(b"Zoo", is_directory=True), entry(b"art", is_directory=True)]
    texts = [text for _, text in Page(page_of(*found)).links]
    assert texts == ["art/", "Zoo/", "A.txt", "a.txt", "\u00e4.txt", "b.txt", "z.txt"]


def test_sizes_and_dates() -> None:
    page = page_of(entry(b"a", 1234567), entry(b"b", 5), entry(b"c", is_directory=True, size=0))
    assert b'<span title="1,234,567 bytes">1.2 MB</span>' in page
    assert page.count(b'<time datetime="2001-09-09T01:46Z">2001-09-09 01:46</time>') == 3
    assert "1 directory, 2 files, 1.2 MB" in Page(page).text
    assert b"<time" not in page_of(entry(b"a", modified=1e300))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (2 * 10**12, "2.0 TB"),
        (10**21, "1000 EB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size_of(count) == text


def test_the_way_up() -> None:
    page = Page(page_of(names=(b"a", b"<b>", b"c")))
    assert page.links == [("../../../", "Files"), ("../../", "a"), ("../", "<b>"), ("../", "Up")]
    assert "There is nothing here." in page.text
    assert Page(page_of()).links == []


def test_it_says_that_there_are_more() -> None:
    assert "more entries than the 2 that are listed" in Page(page_of(entry(b"a"), entry(b"b"), is_cut=True)).text
    assert "more entries" not in Page(page_of(entry(b"a"))).text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"bad\xff\xfe.txt", "bad\ufffd\ufffd.txt"),
        (b"a\nb\tc\x1b[31m\x7f", "a\ufffdb\ufffdc\ufffd[31m\ufffd"),
        ("evil\u202etxt.exe".encode(), "evil\ufffdtxt.exe"),
        ("a\u2028b\u00a0c".encode(), "a\ufffdb\ufffdc"),
        ("\u0645\u06cc\u200c\u062e.txt".encode(), "\u0645\u06cc\u200c\u062e.txt"),
    ],
)
def test_what_cannot_be_seen(name: bytes, text: str) -> None:
    assert shown(name) == text


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & {0, 47}), unique=True))
def test_hostile_names(names: list[bytes]) -> None:
    """A browser that follows each link asks for the very bytes of the name, and the page has no other markup."""
    base = "http://files.example.org/x/"
    page = page_of(*map(entry, names), names=(b"x",))
    assert page.isascii() or page.decode("utf-8")
    parsed = Page(page)
    assert parsed.tags <= TAGS
    assert not [each for each in parsed.attributes if each.startswith("on")]
    rows = parsed.links[2:]
    found = set()
    for url, _ in rows:
        target = urlsplit(urljoin(base, url))
        assert target[:2] == ("http", "files.example.org")
        assert target.query == target.fragment == ""
        found.add(unquote_to_bytes(target.path.removeprefix("/x/")))
    # "." and ".." never come here.
    assert found - {b"", b".."} == set(names) - {b".", b".."} or {b".", b".."} & set(names)


@pytest.mark.parametrize(
    "name", [b"<script>alert(1)<x>", b'"onmouseover="alert(1)', b"javascript:alert(1)", b"//evil.example.org", b"?a#b"]
)
def test_markup_in_names(name: bytes) -> None:
    parsed = Page(page_of(entry(name), names=(name,)))
    assert parsed.tags <= TAGS
    assert "onmouseover" not in parsed.attributes
    assert parsed.links[-1][1] == name.decode()
    assert re.fullmatch("[A-Za-z0-9%._~-]+", link(name))


def test_only_the_style_sheet_is_allowed() -> None:
    for page in (page_of(entry(b"a")), error_page(404, "There is <nothing>.")):
        style = re.findall(rb"<style>(.*?)</style>", page, re.DOTALL)
        assert len(style) == 1
        digest = base64.b64encode(hashlib.sha256(style[0]).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in POLICY
        assert b"style=" not in page
    assert "script" not in POLICY
    assert POLICY.startswith("default-src 'none';")
    assert b"&lt;nothing&gt;" in page
