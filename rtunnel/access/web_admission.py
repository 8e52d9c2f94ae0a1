"""Who may open a WebSocket to the signaling server, by the origin of the request.

The ``Authorization`` header is checked by :class:`rtunnel.access.tokens.BearerTokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rtunnel.errors import ConfigError

#: Scheme, host and port of an origin (RFC 6454, section 6.2). Rules may have ``*`` in each.
_ORIGIN = re.compile(r"([a-z*][a-z0-9+.*-]*)://(\[[0-9a-f:.*]+\]|[^\s/:?#@\[\]]+)(?::(\d{1,5}|\*))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ANY = "*"


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the parts of an origin must be, cut at each ``*``; see :func:`_matches`."""

    scheme: Sequence[str]
    host: Sequence[str]
    port: str | None


class Origins:
    """The origins whose pages may connect. Scheme, host and port are compared separately.

    :param rules: ``scheme://host`` or ``scheme://host:port``, where ``*`` stands for any characters of one part;
        ``*`` alone allows all.
    :raises ConfigError: a rule is not an origin.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._allows_all = False
        self._rules: list[_Rule] = []
        for rule in rules:
            if rule.strip() == _ANY:
                self._allows_all = True
                continue
            parts = _ORIGIN.fullmatch(rule.strip().lower().removesuffix("/"))
            if parts is None:
                raise ConfigError(f"'{rule}' is not an origin; write scheme and host, such as https://my-app.com, or *")
            scheme, host, port = parts.groups()
            self._rules.append(_Rule(scheme.split(_ANY), host.split(_ANY), port or _DEFAULT_PORTS.get(scheme)))

    def allow(self, origin: str | None) -> bool:
        """Return whether a request with this ``Origin`` may connect. Browsers send one, other programs do not."""
        if origin is None or self._allows_all:
            return True
        parts = _ORIGIN.fullmatch(origin.lower())
        if parts is None or _ANY in origin:
            return False
        scheme, host, port = parts.groups()
        default = _DEFAULT_PORTS.get(scheme)
        return any(
            _matches(rule.scheme, scheme)
            and _matches(rule.host, host)
            and (rule.port == _ANY or (port or default) == (rule.port or default))
            for rule in self._rules
        )


def _matches(pieces: Sequence[str], text: str) -> bool:
    """Return whether *text* has these pieces in their order, and anything between them.

    The leftmost place of each piece is as good as any other, so none is looked for twice. A regular expression would
    try them all, and the text is a stranger's.
    """
    first, *middle = pieces
    if not middle:
        return text == first
    last = middle.pop()
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
