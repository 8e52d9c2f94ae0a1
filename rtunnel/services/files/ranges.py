"""Whether a visitor has a file already, and which parts of it he wants (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import os
import re
from calendar import timegm
from collections.abc import Callable
from email.utils import formatdate, parsedate_tz

#: Parts of a file that one answer has at most. Who asks for more gets the whole file.
MOST_RANGES = 16

_SPEC = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")
_TAGS = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')

#: Returns the value of a field of the request; None: it has none.
Field = Callable[[str], bytes | None]


class Unsatisfiable(Exception):
    """No part that a visitor asks for is in the file."""


def entity_tag(status: os.stat_result) -> bytes:
    """Return the ``ETag`` of a file: another one whenever it has changed."""
    return b'"%x-%x"' % (status.st_mtime_ns, status.st_size)


def last_modified(status: os.stat_result) -> bytes:
    """Return the ``Last-Modified`` of a file."""
    return http_date(status.st_mtime)


def http_date(seconds: float) -> bytes:
    """Return a time as HTTP has it.

    :param seconds: since 1970.
    """
    try:
        return formatdate(seconds, usegmt=True).encode()
    except (ValueError, OverflowError, OSError):  # a file system may say anything
        return formatdate(0, usegmt=True).encode()


def precondition(field: Field, status: os.stat_result) -> int:
    """Return the status that the conditions of a GET or HEAD request lead to: 200, 304 or 412.

    :param field: returns a field of the request.
    :param status: of the file.
    """
    tag, modified = entity_tag(status), int(status.st_mtime)
    wanted = field("If-Match")
    if wanted is not None:
        if not _has_tag(wanted, tag, weak=False):
            return 412
    elif (since := _date(field("If-Unmodified-Since"))) is not None and modified > since:
        return 412
    known = field("If-None-Match")
    if known is not None:
        return 304 if _has_tag(known, tag, weak=True) else 200
    since = _date(field("If-Modified-Since"))
    return 304 if since is not None and modified <= since else 200


def wanted_ranges(field: Field, status: os.stat_result) -> list[range]:
    """Return the parts of a file that a GET request asks for; empty: the whole file.

    :raises Unsatisfiable: it asks for parts, and the file has none of them.
    """
    header, condition = field("Range"), field("If-Range")
    if header is None:
        return []
    if condition is not None and condition != entity_tag(status):
        date = _date(condition)
        if date is None or date != int(status.st_mtime):
            return []
    unit, equals, specs = header.partition(b"=")
    if unit.strip().lower() != b"bytes" or not equals:
        return []
    found = []
    count = 0
    for written in specs.split(b","):
        spec = _SPEC.fullmatch(written.strip(b" \t"))
        if not written.strip(b" \t"):
            continue
        count += 1
        if spec is None or not (spec[1] or spec[2]) or count > MOST_RANGES:
            return []
        if spec[1] and spec[2] and int(spec[1]) > int(spec[2]):
            return []
        if part := _part(spec[1], spec[2], status.st_size):
            found.append(part)
    if not found:
        if not count:
            return []
        raise Unsatisfiable
    # Overlapping parts would make an answer that is longer than the file.
    return found if sum(map(len, found)) <= status.st_size else []


def _part(first: bytes, last: bytes, size: int) -> range:
    if not first:
        return range(max(0, size - int(last)), size)
    return range(int(first), min(int(last) + 1, size) if last else size)


def _has_tag(field: bytes, tag: bytes, *, weak: bool) -> bool:
    if field.strip() == b"*":
        return True
    return any(found[1] == tag and (weak or not found[0].startswith(b"W/")) for found in _TAGS.finditer(field))


def _date(field: bytes | None) -> int | None:
    """Return a time in seconds since 1970; None: there is none, or it is none."""
    if field is None:
        return None
    try:
        parsed = parsedate_tz(field.decode("ascii"))
        return None if parsed is None else timegm(parsed[:9]) - (parsed[9] or 0)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
