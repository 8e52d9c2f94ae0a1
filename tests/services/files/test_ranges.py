"""Conditions and ranges of RFC 9110, sections 13 and 14."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from rtunnel.services.files.ranges import (
    MOST_RANGES,
    Unsatisfiable,
    entity_tag,
    http_date,
    last_modified,
    precondition,
    wanted_ranges,
)

MODIFIED = 1_000_000_000
TAG = b'"de0b6b3a7640000-64"'
DATE = b"Sun, 09 Sep 2001 01:46:40 GMT"
LATER, EARLIER = b"Sun, 09 Sep 2001 01:46:41 GMT", b"Sun, 09 Sep 2001 01:46:39 GMT"


def status_of(size: int = 100) -> os.stat_result:
    fields = (0o100644, 1, 1, 1, 0, 0, size, MODIFIED, MODIFIED, MODIFIED)
    return os.stat_result(fields, {"st_mtime": MODIFIED + 0.5, "st_mtime_ns": MODIFIED * 10**9})


def fields(**given: bytes) -> Callable[[str], bytes | None]:
    return lambda name: given.get(name.replace("-", "_"))


def ranges(header: bytes, size: int = 100, **more: bytes) -> list[tuple[int, int]]:
    return [(each.start, each.stop) for each in wanted_ranges(fields(Range=header, **more), status_of(size))]


def test_what_a_file_is_known_by() -> None:
    assert entity_tag(status_of()) == TAG
    assert last_modified(status_of()) == DATE
    assert http_date(1e300) == http_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"bytes=0-9", [(0, 10)]),
        (b"bytes=0-0", [(0, 1)]),
        (b"bytes=90-", [(90, 100)]),
        (b"bytes=90-1000", [(90, 100)]),
        (b"bytes=-10", [(90, 100)]),
        (b"bytes=-1000", [(0, 100)]),
        (b"BYTES = 0-9", [(0, 10)]),
        (b"bytes=0-9,20-29", [(0, 10), (20, 30)]),
        (b"bytes=20-29, 0-9 ,", [(20, 30), (0, 10)]),
        (b"bytes=0-9,500-", [(0, 10)]),
        (b"bytes=0-99,99-", []),
        (b"bytes=0-,0-", []),
        (b"bytes=" + b",".join([b"1-1"] * MOST_RANGES), [(1, 2)] * MOST_RANGES),
        (b"bytes=" + b",".join([b"1-1"] * (MOST_RANGES + 1)), []),
        (b"bytes=" + b"500-," * 5000, []),
        # What is no range is ignored.
        (b"bytes=9-0", []),
        (b"bytes=-", []),
        (b"bytes=", []),
        (b"bytes=,", []),
        (b"bytes", []),
        (b"lines=0-9", []),
        (b"bytes=0-9,x", []),
        (b"bytes=0-9-", []),
        (b"bytes=+1-9", []),
        (b"bytes=1_0-", []),
        (b"bytes=0x0-1", []),
        (b"bytes=0-" + b"9" * 5000, []),
        ("bytes=٣-".encode(), []),
    ],
)
def test_ranges(header: bytes, expected: list[tuple[int, int]]) -> None:
    assert ranges(header) == expected


@pytest.mark.parametrize("header", [b"bytes=100-", b"bytes=100-200,300-", b"bytes=-0"])
def test_ranges_that_are_not_there(header: bytes) -> None:
    with pytest.raises(Unsatisfiable):
        ranges(header)


@pytest.mark.parametrize("header", [b"bytes=0-", b"bytes=-1"])
def test_an_empty_file_has_no_part(header: bytes) -> None:
    with pytest.raises(Unsatisfiable):
        ranges(header, 0)


@pytest.mark.parametrize(
    ("condition", "counts"),
    [(TAG, True), (DATE, True), (b"W/" + TAG, False), (b'"x"', False), (LATER, False), (EARLIER, False), (b"?", False)],
)
def test_if_range(condition: bytes, counts: bool) -> None:
    assert ranges(b"bytes=0-9", If_Range=condition) == ([(0, 10)] if counts else [])


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_range(header: bytes, size: int) -> None:
    try:
        found = ranges(b"bytes=" + header, size)
    except Unsatisfiable:
        return
    assert sum(last - first for first, last in found) <= size
    assert all(0 <= first < last <= size for first, last in found)


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        ({}, 200),
        ({"If_None_Match": TAG}, 304),
        ({"If_None_Match": b"W/" + TAG}, 304),
        ({"If_None_Match": b'"x", ' + TAG}, 304),
        ({"If_None_Match": b"*"}, 304),
        ({"If_None_Match": b'"x"'}, 200),
        ({"If_None_Match": TAG.strip(b'"')}, 200),
        ({"If_None_Match": b'"x"', "If_Modified_Since": DATE}, 200),
        ({"If_Modified_Since": DATE}, 304),
        ({"If_Modified_Since": LATER}, 304),
        ({"If_Modified_Since": EARLIER}, 200),
        ({"If_Modified_Since": b"Sunday, 09-Sep-01 01:46:40 GMT"}, 304),
        ({"If_Modified_Since": b"Sun Sep  9 01:46:40 2001"}, 304),
        ({"If_Modified_Since": b"yesterday"}, 200),
        ({"If_Modified_Since": b"\xff"}, 200),
        ({"If_Modified_Since": b"Sun, 99 Sep 99999 01:46:40 GMT"}, 200),
        ({"If_Match": TAG}, 200),
        ({"If_Match": b"*"}, 200),
        ({"If_Match": b"W/" + TAG}, 412),
        ({"If_Match": b'"x"'}, 412),
        ({"If_Unmodified_Since": DATE}, 200),
        ({"If_Unmodified_Since": EARLIER}, 412),
        ({"If_Unmodified_Since": b"?"}, 200),
        ({"If_Match": TAG, "If_Unmodified_Since": EARLIER}, 200),
    ],
)
def test_conditions(given_: dict[str, bytes], code: int) -> None:
    assert precondition(fields(**given_), status_of()) == code


@given(st.binary(max_size=60))
def test_any_condition(value: bytes) -> None:
    for name in ("If_Match", "If_None_Match", "If_Modified_Since", "If_Unmodified_Since"):
        assert precondition(fields(**{name: value}), status_of()) in (200, 304, 412)
    assert ranges(b"bytes=0-9", If_Range=value) in ([(0, 10)], [])
