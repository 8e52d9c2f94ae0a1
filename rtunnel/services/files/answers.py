"""What a request for a file or a directory gets: status, fields, and the pieces of the body."""

from __future__ import annotations

import errno
import mimetypes
import os
import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from rtunnel.services.files.page import POLICY, error_page, link, listing
from rtunnel.services.files.ranges import (
    Field,
    Unsatisfiable,
    entity_tag,
    last_modified,
    precondition,
    wanted_ranges,
)
from rtunnel.services.files.tree import MOST_ENTRIES, Entry, Found, NothingThere, entries, find

#: Bytes that are read of a file at a time.
PIECE = 65536
#: What stands in place of a list of a directory.
INDEX = b"index.html"

_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}
_UNKNOWN = "application/octet-stream"
#: Errors of this process, which has too little of something now.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_NOT_FOUND = "There is no such file here."


class Cut(Exception):
    """The file has become shorter than its visitor was told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets. Whoever has it calls :meth:`close`.

    :ivar fields: of the head, beside those that all answers have.
    :ivar pieces: of the body. An empty one means that others should get their turn. To take the next one may raise
        ``OSError`` or :class:`Cut`.
    :ivar source: what *pieces* are read from, if that is open.
    :ivar listed: the entries of a directory that have been read so far.
    """

    status: int
    fields: list[tuple[str, bytes]] = field(default_factory=list)
    pieces: Generator[bytes] | None = None
    source: Found | None = None
    listed: list[Entry] = field(default_factory=list)

    def close(self) -> None:
        """Read no more."""
        if self.pieces is not None:
            self.pieces.close()
        if self.source is not None:
            self.source.close()


def answer(root: Path, prefix: Sequence[bytes], method: bytes, target: bytes, asked: Field) -> Answer:
    """Decide what a request gets.

    :param root: the directory that is served.
    :param prefix: names that the paths of all requests begin with, which *root* knows nothing of.
    :param target: the path and query of the request line, or an absolute URL.
    :param asked: returns a field of the request.
    """
    if method not in (b"GET", b"HEAD"):
        refusal = _error(405, "Files can be read here, and nothing else.")
        refusal.fields.append(("Allow", b"GET, HEAD"))
        return refusal
    names = _names(target)
    if names is None or names[: len(prefix)] != list(prefix):
        return _error(404, _NOT_FOUND)
    try:
        return _found(root, names[len(prefix) :], names[-1], asked if method == b"GET" else _without_range(asked))
    except NothingThere:
        return _error(404, _NOT_FOUND)
    except PermissionError:
        return _error(403, "This file or directory must not be read.")
    except OSError as error:
        if error.errno in _SHORTAGES:
            return _error(503, "Too many files are open now.")
        return _error(500, "This file or directory cannot be read.")


def _without_range(asked: Field) -> Field:
    """Return the fields of a HEAD request: for these, "Range" means nothing (RFC 9110, 14.2)."""
    return lambda name: None if name == "Range" else asked(name)


def _names(target: bytes) -> list[bytes] | None:
    """Return the names that a path consists of; the last one is empty behind a slash at the end. None: it has none."""
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return None
        target = b"/" + rest.partition(b"/")[2] if b"/" in rest else b"/"
    path = target.partition(b"?")[0].partition(b"#")[0]
    return [unquote_to_bytes(name) for name in path[1:].split(b"/")]


def _found(root: Path, names: list[bytes], last: bytes, asked: Field) -> Answer:
    """Answer with what is there.

    :param last: the last name of the path; empty: it ends with a slash.
    """
    names = names if last else names[:-1]
    opened = [find(root, names)]
    made: Answer | None = None
    try:
        if not opened[0].is_directory:
            if not last:
                raise NothingThere
            made = _file(opened[0], last, asked)
        elif last:
            # The links of its page are relative to it.
            made = Answer(301, [("Location", f"./{link(last)}/".encode()), ("Content-Length", b"0")])
        elif (index := _index(root, names)) is not None:
            opened.append(index)
            made = _file(index, INDEX, asked)
        else:
            listed: list[Entry] = []
            pieces = _listing(root, names, opened[0].descriptor, listed)
            made = Answer(200, _fields_of_page(), pieces, opened[0], listed)
        return made
    finally:
        for each in opened:
            if made is None or each is not made.source:
                each.close()


def _index(root: Path, names: list[bytes]) -> Found | None:
    """Open the file that stands in place of a list, if there is one."""
    try:
        index = find(root, [*names, INDEX])
    except NothingThere:
        return None
    if index.is_directory:
        index.close()
        return None
    return index


def _fields_of_page() -> list[tuple[str, bytes]]:
    return [
        ("Content-Type", b"text/html; charset=utf-8"),
        ("Content-Security-Policy", POLICY.encode()),
        ("Cache-Control", b"no-store"),
    ]


def _error(status: int, why: str) -> Answer:
    page = error_page(status, why)
    return Answer(status, [*_fields_of_page(), ("Content-Length", b"%d" % len(page))], (each for each in [page]))


def _listing(root: Path, names: list[bytes], descriptor: int, listed: list[Entry]) -> Generator[bytes]:
    is_cut = False
    with closing(entries(root, names, descriptor)) as all_entries:
        for entry in all_entries:
            if entry is None:
                yield b""
            elif len(listed) == MOST_ENTRIES:
                is_cut = True
                break
            else:
                listed.append(entry)
    yield from listing(names, listed, is_cut=is_cut)


def _file(found: Found, name: bytes, asked: Field) -> Answer:
    status = found.status
    kind = content_type(name)
    fields = [
        ("Last-Modified", last_modified(status)),
        ("ETag", entity_tag(status)),
        ("Accept-Ranges", b"bytes"),
        ("Cache-Control", b"no-cache"),
    ]
    code = precondition(asked, status)
    if code != 200:
        return Answer(code, fields if code == 304 else [*fields, ("Content-Length", b"0")])
    try:
        parts = wanted_ranges(asked, status)
    except Unsatisfiable:
        refusal = _error(416, "The file has no such part.")
        refusal.fields.append(("Content-Range", b"bytes */%d" % status.st_size))
        return refusal
    if len(parts) > 1:
        boundary = secrets.token_hex(16).encode()
        pieces: list[bytes | range] = _multipart(parts, status.st_size, kind, boundary)
        length = sum(map(len, pieces))
        fields.append(("Content-Type", b"multipart/byteranges; boundary=" + boundary))
    else:
        part = parts[0] if parts else range(status.st_size)
        pieces, length = [part], len(part)
        fields.append(("Content-Type", kind))
        if parts:
            fields.append(("Content-Range", _content_range(part, status.st_size)))
    fields.append(("Content-Length", b"%d" % length))
    return Answer(206 if parts else 200, fields, _read(found.descriptor, pieces), found)


def content_type(name: bytes) -> bytes:
    """Return the media type of a file, by its name."""
    # Behind a slash nothing is taken for the scheme of a URL.
    kind, encoding = mimetypes.guess_type("/" + name.decode("utf-8", "replace"))
    if encoding is not None:
        # It is sent as it is. As "Content-Encoding" browsers would unpack it when they store it.
        kind = _COMPRESSED.get(encoding, _UNKNOWN)
    kind = kind or _UNKNOWN
    # A page may say in its text what it is.
    is_text = kind.startswith("text/") and kind != "text/html"
    return f"{kind}; charset=utf-8".encode() if is_text else kind.encode()


def _content_range(part: range, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (part.start, part.stop - 1, size)


def _multipart(parts: Sequence[range], size: int, kind: bytes, boundary: bytes) -> list[bytes | range]:
    pieces: list[bytes | range] = []
    for part in parts:
        head = b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
        pieces += [head % (boundary, kind, _content_range(part, size)), part]
    return [*pieces, b"\r\n--%b--\r\n" % boundary]


def _read(descriptor: int, pieces: Sequence[bytes | range]) -> Generator[bytes]:
    """Yield bytes that are given, and parts of an open file."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        at = piece.start
        while at < piece.stop:
            data = os.pread(descriptor, min(PIECE, piece.stop - at), at)
            if not data:
                raise Cut
            at += len(data)
            yield data
