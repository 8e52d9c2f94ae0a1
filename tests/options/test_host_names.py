"""Host names and patterns of them, and the form in which paths are compared."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import ConfigError
from rtunnel.host_names import MAX_NAME, canonical, canonical_path, covers, host_pattern, patterns_of

LABELS = st.lists(st.sampled_from(["a", "b", "dev", "x-1", "_s"]), min_size=1, max_size=5)
NAMES = LABELS.map(".".join)
PATTERNS = st.builds(lambda name, wild: "*." * wild + name, NAMES, st.booleans())


@given(PATTERNS, PATTERNS)
def test_what_covers_a_name_is_among_its_patterns(pattern: str, name: str) -> None:
    assert covers(pattern, name) == (pattern in list(patterns_of(name)))


@given(PATTERNS)
def test_patterns_come_longest_first(name: str) -> None:
    found = list(patterns_of(name))
    assert found[0] == name
    assert found == sorted(found, key=lambda pattern: -len(pattern.removeprefix("*.")))
    assert len(set(found)) == len(found)


def test_patterns() -> None:
    assert list(patterns_of("a.b.c")) == ["a.b.c", "*.b.c", "*.c"]
    assert list(patterns_of("*.b.c")) == ["*.b.c", "*.c"]
    assert list(patterns_of("c")) == ["c"]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.b", "a.b", True),
        ("*.b", "a.a.b", True),
        ("*.b", "b", False),
        ("*.b", "ab", False),
        ("*.b", "*.b", True),
        ("*.b", "*.a.b", True),
        ("*.a.b", "*.b", False),
        ("a.b", "*.a.b", False),
        ("a.b", "c.a.b", False),
    ],
)
def test_covers(pattern: str, name: str, expected: bool) -> None:
    assert covers(pattern, name) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", "app"),
        (" App.Example.ORG. ", "app.example.org"),
        ("*.Dev", "*.dev"),
        ("b\u00dccher.example", "xn--bcher-kva.example"),
        ("\uff41pp\u3002example", "app.example"),
        ("_a.-b"[:2], "_a"),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
        ("1.a", "1.a"),
    ],
)
def test_host_pattern(text: str, expected: str) -> None:
    assert host_pattern(text) == expected
    assert host_pattern(expected) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*", "'*' would be every name there is; write app.example.org or *.dev.example.org"),
        ("*.", "'*.' would be every name there is"),
        ("a.*", "has a * elsewhere than at its beginning, before a dot"),
        ("*a.b", "has a * elsewhere"),
        ("*.*.a", "has a * elsewhere"),
        ("https://App.example.org:8/x", "is a URL and not a host name; write App.example.org"),
        ("", "'' is not a host name; write app.example.org or *.dev.example.org"),
        (".", "'.' is not a host name"),
        ("a..b", "is not a host name"),
        ("-a", "is not a host name"),
        ("a b", "is not a host name"),
        ("a:80", "is not a host name"),
        ("192.0.2.1", "is not a host name"),
        ("::1", "is not a host name"),
        ("a" * 64, "is not a host name"),
        (("a" * 50 + ".") * 6, "is not a host name"),
        ("\u00e9" * 300, "is not a host name"),
        ("\u0661.\u0662", "is not a host name"),
        ("*.\ud800", "is not a host name"),
    ],
)
def test_no_host_pattern(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        host_pattern(text)
    assert reason in str(caught.value)


@given(st.text(max_size=20) | st.text("aA*.-_\u00e9\u3002 :/1", max_size=MAX_NAME + 20))
def test_any_text_is_a_name_or_none(text: str) -> None:
    try:
        found = canonical(text)
    except ValueError:
        return
    assert found.isascii()
    assert found == found.lower()
    assert canonical(found) == found


# Paths


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ""),
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("/%61%7eb%2f%C3%a9", "/a~b%2F%C3%A9"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/b/../../c", "/c"),
        ("/.well-known/..x/.", "/.well-known/..x/"),
        ("/a//../b", "/b"),
        ("//a///b", "/a/b"),
        ("/%", "/%"),
        ("/%zz%4", "/%zz%4"),
        ("*", "*"),
    ],
)
def test_canonical_path(path: str, expected: str) -> None:
    assert canonical_path(path) == expected


@given(st.text("/.%26eEfF:a", max_size=20).map("/".__add__))
def test_a_canonical_path_stays_as_it_is(path: str) -> None:
    once = canonical_path(path)
    # A percent sign that begins no escape may begin one when what is behind it is decoded.
    assert canonical_path(once) == once or re.search("%(?![0-9a-fA-F]{2})|%2", path)
    assert once.startswith("/")
    assert not {".", ".."} & {*once.split("/")}
