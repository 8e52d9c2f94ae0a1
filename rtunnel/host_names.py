"""Host names by which visitors are routed: ``app.example.org``, and ``*.dev.example.org`` for all names below one.

They are compared in lower case, as A-labels (RFC 5890), without a dot at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rtunnel.endpoint_strings import ascii_name
from rtunnel.errors import ConfigError

#: The longest name, in characters (RFC 1035, section 2.3.4, without the dot at the end).
MAX_NAME = 253
WILDCARD = "*."
_SLASHES = re.compile("/+")
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile("[A-Za-z0-9._~-]", re.ASCII)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)


def canonical(name: str) -> str:
    """Return a host name as it is compared.

    :raises ValueError: it is no host name, or an IP address.
    """
    if not name.isascii():
        name = ascii_name(name)
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ValueError("not a host name")
    return name


def host_pattern(text: str) -> str:
    """Read a host name, or ``*.`` and a host name.

    :raises ConfigError: it is neither; the message says what to write instead.
    """
    name = text.strip()
    example = "write app.example.org or *.dev.example.org"
    if name in ("*", "*."):
        raise ConfigError(f"'{name}' would be every name there is; {example}")
    try:
        return WILDCARD * name.startswith(WILDCARD) + canonical(name.removeprefix(WILDCARD))
    except ValueError:
        pass
    if "://" in name:
        host = re.split("[/:?#]", name.partition("://")[2])[0]
        raise ConfigError(f"'{name}' is a URL and not a host name; write {host or 'app.example.org'}")
    if "*" in name.removeprefix(WILDCARD):
        raise ConfigError(f"'{name}' has a * elsewhere than at its beginning, before a dot; {example}")
    raise ConfigError(f"'{name}' is not a host name; {example}")


def is_host_pattern(text: str) -> bool:
    """Return whether :func:`host_pattern` reads *text*."""
    try:
        host_pattern(text)
    except ConfigError:
        return False
    return True


def canonical_path(path: str) -> str:
    """Return the path of a URL as paths are compared: without dot segments, ``%41`` as ``A``, ``%2f`` as ``%2F``
    (RFC 3986, section 6.2.2), and with one slash in the place of several.

    Services resolve ``/api/../admin`` and ``//admin`` too, so what a path begins with is decided on what they will see.
    """
    if "%" in path:
        path = _ESCAPE.sub(_unescaped, path)
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if "/." not in path:
        return path
    kept: list[str] = []
    *segments, last = path.split("/")
    for each in (*segments, last, "") if last in (".", "..") else (*segments, last):
        if each == "..":
            del kept[max(1, len(kept) - 1) :]
        elif each != ".":
            kept.append(each)
    return "/".join(kept)


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def patterns_of(name: str) -> Iterator[str]:
    """Yield the patterns that *name*, in its canonical form, falls under: itself, then ``*.`` names, longest first."""
    yield name
    _, dot, rest = name.removeprefix(WILDCARD).partition(".")
    while dot:
        yield WILDCARD + rest
        _, dot, rest = rest.partition(".")


def covers(pattern: str, name: str) -> bool:
    """Return whether *pattern* allows *name*; both may begin with ``*.``."""
    return pattern == name or (pattern.startswith(WILDCARD) and name.endswith(pattern[1:]) and name != pattern[2:])
