"""Values of settings: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rtunnel import coercions
from rtunnel.coercions import (
    boolean,
    choice,
    integer,
    interface,
    listen_address,
    optional,
    path,
    port_ranges,
    seconds,
    service_address,
    show_seconds,
    show_size,
    size,
    text,
)
from rtunnel.errors import ConfigError

TEN = integer(1, 10)
TIME = seconds(zero=False)
PAUSE = seconds(zero=True)
SIZE = size(1, 1 << 30)
WORD = choice("round-robin", "least-connections")


@pytest.mark.parametrize(
    ("coerce", "value", "result"),
    [
        (TEN, "7", 7),
        (TEN, " +7 ", 7),
        (TEN, 7, 7),
        (TIME, "10", 10.0),
        (TIME, 10, 10.0),
        (TIME, 1.5, 1.5),
        (TIME, ".5", 0.5),
        (TIME, "500ms", 0.5),
        (TIME, "2 s", 2.0),
        (TIME, "2m", 120.0),
        (TIME, "1.5h", 5400.0),
        (PAUSE, "0", 0.0),
        (PAUSE, "0s", 0.0),
        (SIZE, "65536", 65536),
        (SIZE, 65536, 65536),
        (SIZE, "64K", 65536),
        (SIZE, "64 k", 65536),
        (SIZE, "64KiB", 65536),
        (SIZE, "8MB", 8 << 20),
        (SIZE, "1G", 1 << 30),
        (WORD, " round-robin ", "round-robin"),
        (boolean, True, True),
        (boolean, "Yes", True),
        (boolean, "off", False),
        (boolean, 0, False),
        (text, " x ", "x"),
        (text, 7000, "7000"),
        (interface, "[::1]", "::1"),
        (optional(interface, ""), " ", ""),
        (optional(interface, ""), "127.0.0.1", "127.0.0.1"),
    ],
)
def test_accepted(coerce: Callable[[object], object], value: object, result: object) -> None:
    assert coerce(value) == result


@pytest.mark.parametrize(
    ("coerce", "value", "message"),
    [
        (TEN, "x", "'x' is not a whole number; write one from 1 to 10"),
        (TEN, "1.0", "'1.0' is not a whole number"),
        (TEN, 1.0, "1.0 is not a whole number"),
        (TEN, True, "true is not a whole number"),
        (TEN, None, "null is not a whole number"),
        (TEN, [1], "[1] is not a whole number"),
        (TEN, "٣", "is not a whole number"),
        (TEN, "1_0", "is not a whole number"),
        (TEN, "9" * 5000, "is not a whole number"),
        (TEN, 11, "11 is out of range; write a whole number from 1 to 10"),
        (TEN, "-1", "-1 is out of range"),
        (TIME, "x", "'x' is not a time; write seconds such as 10 or 1.5, or 500ms, 2m, 1h"),
        (TIME, "-1", "'-1' is not a time"),
        (TIME, -1, "-1 is not a time"),
        (TIME, "nan", "'nan' is not a time"),
        (TIME, "inf", "'inf' is not a time"),
        (TIME, float("nan"), "NaN is not a time"),
        (TIME, float("inf"), "Infinity is not a time"),
        (TIME, "1e3", "'1e3' is not a time"),
        (TIME, "5 parsecs", "'5 parsecs' is not a time"),
        (TIME, True, "true is not a time"),
        (TIME, "0", "'0' is out of range; a time here is more than 0 to 1000000 seconds"),
        (PAUSE, "1000001", "'1000001' is out of range; a time here is 0 to 1000000 seconds"),
        (SIZE, "1.5M", "'1.5M' is not a size; write bytes such as 65536, or 64K, 8M, 1G"),
        (SIZE, "-1", "'-1' is not a size"),
        (SIZE, "64X", "'64X' is not a size"),
        (SIZE, False, "false is not a size"),
        (SIZE, "2G", "'2G' is out of range; a size here is 1 to 1G"),
        (SIZE, 0, "0 is out of range"),
        (WORD, "robin", "'robin' is not one of round-robin, least-connections; did you mean 'round-robin'?"),
        (WORD, 1, "1 is not one of round-robin, least-connections"),
        (boolean, "maybe", "'maybe' is neither true nor false"),
        (text, "", "is empty"),
        (text, ["a"], '["a"] is not text; put it in quotes'),
        (text, True, "true is not text; put it in quotes"),
        (text, {1}, "{1} is not text"),
    ],
)
def test_refused(coerce: Callable[[object], object], value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        coerce(value)
    assert message in str(caught.value)


def test_addresses_and_ports() -> None:
    assert listen_address(7000).description == "tcp:7000"
    assert service_address("h:80").description == "tcp:h:80"
    assert str(port_ranges(8080)) == "8080"
    assert str(port_ranges(["8000-8999", 9443])) == "8000-8999,9443"
    assert str(port_ranges([])) == "none"
    with pytest.raises(ConfigError, match="is not text"):
        port_ranges([[80]])


@given(st.integers(0, 1 << 40))
def test_a_shown_size_is_read_back(number: int) -> None:
    assert size(0, 1 << 40)(show_size(number)) == number


@given(st.integers(0, 10_000_000))
def test_a_shown_time_is_read_back(milliseconds: int) -> None:
    assert seconds(zero=True)(show_seconds(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.integers()))
def test_nothing_else_is_raised(value: object) -> None:
    for coerce in (TEN, TIME, SIZE, WORD, boolean, text, interface, listen_address, service_address, port_ranges):
        with suppress(ConfigError):
            coerce(value)


def test_the_longest_time_is_one_that_epoll_takes() -> None:
    assert coercions.MAX_SECONDS * 1000 < 2**31


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert path("x") == tmp_path / "x"
    assert path(" /x ") == Path("/x")
    assert path("~/x") == Path("/home/me/x")
    assert path(5) == tmp_path / "5"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is empty"),
        ("a\0b", "'a\\x00b' is not the name of a file"),
        ("a\ud800b", "'a\\ud800b' is not the name of a file"),
        ("~nobody-of-that-name/x", "'~nobody-of-that-name/x' begins with ~, and there is no such home directory"),
        ([], "[] is not text"),
    ],
)
def test_path_errors(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        path(value)
    assert str(caught.value).startswith(message)
