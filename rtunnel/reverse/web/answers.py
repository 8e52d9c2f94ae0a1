"""Answers that do not come from a service: pages for errors, and redirections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rtunnel.wire.web.heads import RequestHead, phrase

_PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {phrase}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;
padding:0 1em;color-scheme:light dark}}h1{{font-size:1.3em}}</style>
<h1>{status} {phrase}</h1><p>{why}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of our own.

    :ivar why: what the page says; empty: there is no page.
    :ivar fields: more fields of the head.
    :ivar closes: the connection is of no use behind it.
    """

    status: int
    why: str = ""
    fields: Sequence[tuple[str, str]] = ()
    closes: bool = False

    def encode(self, *, is_head: bool, is_old: bool, keeps_alive: bool) -> bytes:
        """Return the whole response.

        :param is_head: the request was HEAD, so the page is left out.
        """
        page = b""
        if self.why:
            page = _PAGE.format(status=self.status, phrase=phrase(self.status), why=escape(self.why)).encode()
        fields = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page))),
            ("Cache-Control", "no-store"),
            *self.fields,
        ]
        if not keeps_alive or is_old:
            fields.append(("Connection", "keep-alive" if keeps_alive else "close"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"HTTP/1.1 {self.status} {phrase(self.status)}\r\n{lines}\r\n".encode("latin-1", "replace")
        return head if is_head else head + page


def redirect(head: RequestHead, host: str, port: str) -> Answer:
    """Send the visitor to the same place by ``https:``.

    :param port: of the HTTPS port, as URLs have it, such as ``:8443``; empty: the usual one.
    """
    status = 301 if head.method in (b"GET", b"HEAD") else 308
    target = head.target.decode("ascii") if head.target != b"*" else "/"
    return Answer(status, fields=[("Location", f"https://{host}{port}{target}")])
