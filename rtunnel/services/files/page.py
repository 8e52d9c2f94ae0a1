"""The pages of a directory that is served: its list, and errors. No scripts.

Names are whatever the bytes of a file system can be. They are shown as text, and links have each byte that is no letter
or digit percent-encoded.
"""

from __future__ import annotations

import unicodedata
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from http import HTTPStatus
from time import gmtime, strftime
from urllib.parse import quote

from rtunnel.services.files.tree import Entry

#: Rows of a list that are made in one go, before others get their turn.
IN_ONE_GO = 200

_STYLE = """
:root{color-scheme:light dark;--text:#1d2530;--quiet:#66717f;--line:#e4e8ed;--back:#fff;--over:#f3f6fa;--link:#0b5cad;
--folder:#e0a526;--file:#9aa5b1}
@media(prefers-color-scheme:dark){:root{--text:#dde3ea;--quiet:#8d98a5;--line:#2a323c;--back:#14191f;--over:#1d242c;
--link:#7db7f5;--folder:#d9a43b;--file:#6b7683}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 3rem;background:var(--back);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",Ubuntu,"DejaVu Sans",sans-serif}
h1{font-size:1.25rem;font-weight:600;margin:.25rem .5rem 1rem;overflow-wrap:anywhere}
h1 span{color:var(--quiet);font-weight:400;margin:0 .3em}
a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
a:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
table{width:100%;border-collapse:collapse}
th{white-space:nowrap;color:var(--quiet);font-size:.8125rem;font-weight:500;text-align:left}
th,td{padding:.45rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:hover{background:var(--over)}
th:first-child{width:100%}
td:first-child{overflow-wrap:anywhere;white-space:pre-wrap}
td a{display:block;padding-left:1.9rem;position:relative}
svg{position:absolute;left:0;top:.15em;width:1.2rem;height:1.2rem;fill:var(--file)}
.d svg{fill:var(--folder)}
.u svg{fill:var(--quiet)}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.n,time{color:var(--quiet);font-size:.875rem;line-height:1.5rem}
time{white-space:nowrap;font-variant-numeric:tabular-nums}
p{color:var(--quiet);margin:1rem .5rem}
@media(max-width:40rem){th:last-child,td:last-child:not(:first-child){display:none}}
"""
_ICONS = (
    '<svg hidden><symbol id="d" viewBox="0 0 24 24"><path d="M2 6c0-1.1.9-2 2-2h5l2 2h9c1.1 0 2 .9 2 2v10c0 1.1-.9 2-2 '
    '2H4c-1.1 0-2-.9-2-2z"/></symbol>'
    '<symbol id="f" viewBox="0 0 24 24"><path d="M6 2h8l6 6v12c0 1.1-.9 2-2 2H6c-1.1 0-2-.9-2-2V4c0-1.1.9-2 2-2zm7 '
    '1.5V9h5.5z"/></symbol>'
    '<symbol id="u" viewBox="0 0 24 24"><path d="M12 4l8 8-1.4 1.4L13 7.8V20h-2V7.8l-5.6 5.6L4 12z"/></symbol></svg>'
)
_HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title><style>{style}</style>'
)

#: What a browser may do with one of these pages: apply its style sheet.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
)

# Joiners, without which some scripts and many emoji fall apart. Others of their kind turn text around or hide it.
_JOINERS = "\u200c\u200d"


def shown(name: bytes) -> str:
    """Return a name as HTML text. What is not UTF-8, or cannot be seen, is a replacement character."""
    text = name.decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(each if each.isprintable() or each in _JOINERS else "\ufffd" for each in text)
    return escape(text)


def link(name: bytes) -> str:
    """Return a relative URL of an entry, without the slash at the end that directories have."""
    return quote(name, safe="")


def size_of(count: int) -> str:
    """Return a size as people read it, such as ``1.4 MB``."""
    if count < 1000:
        return f"{count} B"
    size, units = count / 1000, iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    unit = next(units)
    while size >= 999.5 and unit != "EB":
        size, unit = size / 1000, next(units)
    return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"


def error_page(status: int, why: str) -> bytes:
    """Return the page of an error.

    :param why: a sentence.
    """
    title = f"{status} {HTTPStatus(status).phrase}"
    head = _HEAD.format(title=title, style=_STYLE)
    return f"{head}<h1>{title}</h1><p>{escape(why)}".encode()


def listing(names: Sequence[bytes], found: list[Entry], *, is_cut: bool) -> Iterator[bytes]:
    """Yield the page that lists a directory.

    :param names: those on the way to it.
    :param found: its entries; they are sorted here.
    :param is_cut: whether there are more.
    """
    found.sort(key=_order)
    title = "/".join(map(shown, names)) or "Files"
    yield f"{_HEAD.format(title=title, style=_STYLE)}{_ICONS}<h1>{_way(names)}</h1>".encode()
    yield b'<table><thead><tr><th>Name<th class="n">Size<th>Modified (UTC)<tbody>'
    if names:
        yield _row("u", "../", "Up", "", "").encode()
    for start in range(0, len(found), IN_ONE_GO):
        yield "".join(map(_row_of, found[start : start + IN_ONE_GO])).encode()
    yield f"</table><p>{_summary(found)}".encode()
    if is_cut:
        yield (
            f"<p>The directory has more entries than the {len(found):,} that are listed here. "
            "The others can be opened by their names."
        ).encode()


def _order(entry: Entry) -> tuple[bool, str, bytes]:
    text = entry.name.decode("utf-8", "replace")
    if not text.isascii():
        # As people sort: next to the letter without its accent.
        text = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return not entry.is_directory, text.casefold(), entry.name


def _way(names: Sequence[bytes]) -> str:
    """Return the links to the directories on the way to this one."""
    steps = [b"Files", *names]
    above = [
        f'<a href="{"../" * (len(steps) - 1 - number)}"><bdi>{shown(name)}</bdi></a><span>/</span>'
        for number, name in enumerate(steps[:-1])
    ]
    return f"{''.join(above)}<bdi>{shown(steps[-1])}</bdi>"


def _row_of(entry: Entry) -> str:
    try:
        modified = gmtime(entry.modified)
        stamp, when = strftime("%Y-%m-%dT%H:%MZ", modified), strftime("%Y-%m-%d %H:%M", modified)
        time = f'<time datetime="{stamp}">{when}</time>'
    except (ValueError, OverflowError, OSError):  # a file system may say anything
        time = ""
    name, url = shown(entry.name), link(entry.name)
    if entry.is_directory:
        return _row("d", f"{url}/", f"{name}/", "", time)
    return _row("f", url, name, f'<span title="{entry.size:,} bytes">{size_of(entry.size)}</span>', time)


def _row(kind: str, url: str, name: str, size: str, time: str) -> str:
    icon = f'<svg aria-hidden="true"><use href="#{kind}"/></svg>'
    return f'<tr class="{kind}"><td><a href="{url}">{icon}<bdi>{name}</bdi></a><td class="n">{size}<td>{time}'


def _summary(found: Sequence[Entry]) -> str:
    if not found:
        return "There is nothing here."
    directories = sum(entry.is_directory for entry in found)
    files = len(found) - directories
    parts = []
    if directories:
        parts.append("1 directory" if directories == 1 else f"{directories:,} directories")
    if files:
        size = size_of(sum(entry.size for entry in found))
        parts.append(f"{'1 file' if files == 1 else f'{files:,} files'}, {size}")
    return ", ".join(parts)
