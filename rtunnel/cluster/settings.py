"""Where the directory of a cluster is, as operators write it::

    memory
    redis://[[USER:]PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/DATABASE]
    rediss://...                             the same over TLS
    redis+unix://[[USER:]PASSWORD@]/PATH
    redis+sentinel://[[USER:]PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/NAME[/DATABASE]
    rediss+sentinel://...                    the same over TLS, to the Sentinels and to Redis

    ?prefix=NAME  ?ca=FILE  ?database=NUMBER  ?sentinel_password=TEXT

No error and no text of a :class:`ClusterUrl` shows a user or a password.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from rtunnel.addresses import host_and_port
from rtunnel.endpoint_strings import suggestion, unix_path
from rtunnel.errors import ConfigError

#: The value that stands for no cluster.
MEMORY = "memory"
#: What all names in Redis begin with, unless the URL says another.
PREFIX = "rtunnel:"
PORT, SENTINEL_PORT = 6379, 26379

_KINDS = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel")
_WITH_TLS = ("rediss", "rediss+sentinel")
_FORMS = "write redis://PASSWORD@HOST:6379/0, or rediss:// for TLS"
_OPTIONS = ("prefix", "ca", "database", "sentinel_password")


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """A directory in Redis.

    :ivar kind: ``redis``, ``rediss``, ``redis+unix``, ``redis+sentinel`` or ``rediss+sentinel``.
    :ivar addresses: hosts and ports of Redis, or of the Sentinels; empty for ``redis+unix``.
    :ivar path: the socket of ``redis+unix``; otherwise empty.
    :ivar user: empty: Redis's default user.
    :ivar password: empty: none is sent.
    :ivar database: its number.
    :ivar master: the name under which the Sentinels know the master; otherwise empty.
    :ivar prefix: what all names in Redis begin with.
    :ivar ca: PEM file with the CAs to trust; None: those of the system.
    :ivar sentinel_password: what the Sentinels themselves ask for; empty: nothing.
    """

    kind: str
    addresses: tuple[tuple[str, int], ...]
    path: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    database: int = 0
    master: str = ""
    prefix: str = PREFIX
    ca: Path | None = None
    sentinel_password: str = field(default="", repr=False)

    @property
    def is_secured(self) -> bool:
        """Whether connections have TLS."""
        return self.kind in _WITH_TLS

    @property
    def is_named_by_sentinels(self) -> bool:
        """Whether the addresses are those of Sentinels."""
        return self.kind.endswith("+sentinel")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL.

        :raises ConfigError: it is none that can be used; the message says what to write.
        """
        shown = _without_secrets(text)
        if re.search(r"[\s\x00-\x1f\x7f]", text):
            raise ConfigError(f"'{shown}' has a space or a control character in it; in a password write %20")
        kind, separator, rest = text.partition("://")
        if not separator or not re.fullmatch(r"[A-Za-z0-9+.-]+", kind):
            raise ConfigError(f"'{shown}' has no redis:// in front; {_FORMS}")
        kind = kind.lower()
        if kind not in _KINDS:
            raise ConfigError(f"'{shown}': '{kind}' is no kind of directory{suggestion(kind, _KINDS) or f'; {_FORMS}'}")
        rest, _, query = rest.partition("?")
        login, at, rest = rest.rpartition("@")
        user, password = _login(login) if at else ("", "")
        options = _options(query, shown)
        where, _, path = rest.partition("/")
        master = ""
        addresses: tuple[tuple[str, int], ...] = ()
        if kind == "redis+unix":
            if where or not path:
                raise ConfigError(f"'{shown}' has no path of a socket; write redis+unix:///run/redis/redis.sock")
            database, path = "", unix_path(f"/{unquote(path)}", shown)
        else:
            is_sentinel = kind.endswith("+sentinel")
            port = SENTINEL_PORT if is_sentinel else PORT
            addresses = tuple(_address(each, port, shown) for each in where.split(","))
            if is_sentinel:
                master, _, path = path.partition("/")
                if not master:
                    raise ConfigError(f"'{shown}' has no name of a master; write {kind}://PASSWORD@HOST:26379/mymaster")
            database, path = path.removesuffix("/"), ""
        if database and "database" in options:
            raise ConfigError(f"'{shown}' has a database and ?database=; keep one")
        ca = options.get("ca")
        if ca is not None and kind not in _WITH_TLS:
            secured = "rediss+sentinel" if kind == "redis+sentinel" else "rediss"
            raise ConfigError(f"'{shown}' has ?ca= and no TLS; write {secured}://")
        return cls(
            kind,
            addresses,
            path,
            user,
            password,
            _database(database or options.get("database", "0"), shown),
            unquote(master),
            options.get("prefix", PREFIX),
            None if ca is None else Path(ca).expanduser().absolute(),
            options.get("sentinel_password", ""),
        )

    @property
    def session(self) -> str:
        """See :class:`~rtunnel.cluster.interface.IDirectory`. Nodes may reach one Redis by different addresses."""
        return hashlib.sha256(f"rtunnel cluster {self.database} {self.prefix}".encode()).hexdigest()[:32]

    def __str__(self) -> str:
        places = ",".join(shown_address(*each) for each in self.addresses)
        return f"{self.kind}://{places}{self.path}{f'/{self.master}' if self.master else ''}"


def shown_address(host: str, port: int) -> str:
    """Return an address as a URL has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without_secrets(text: str) -> str:
    """Return what may be shown of a URL, even if it is not well-formed."""
    place, _, options = text.partition("?")
    scheme = re.match(r"[A-Za-z0-9+.-]*://", place)
    start = scheme[0] if scheme else ""
    if "@" in place:
        return f"{start}...@{place.rpartition('@')[2]}"
    # An @ after a question mark may be that of a password with a question mark.
    return f"{start}..." if "@" in options else place


def _login(written: str) -> tuple[str, str]:
    """Return user and password. What has no colon is a password."""
    user, colon, password = written.partition(":")
    try:
        found = unquote(user, errors="strict"), unquote(password, errors="strict")
    except ValueError:
        raise ConfigError("the user or the password is not UTF-8") from None
    user, password = found if colon else ("", found[0])
    if not password:
        raise ConfigError(f"there is an @ and no password before it; {_FORMS}")
    return user, password


def _address(written: str, port: int, shown: str) -> tuple[str, int]:
    if not written or written.startswith(":"):
        raise ConfigError(f"'{shown}' has no host; {_FORMS}")
    if re.fullmatch(r"[^:\[\]]+|\[[^\]]*\]", written):
        written = f"{written}:{port}"
    host, number = host_and_port(written, _FORMS, port, lowest=1)
    return host, number


def _database(written: str, shown: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", written):
        raise ConfigError(f"'{shown}' has '{written}' for the number of a database; Redis has 0 to 15 by default")
    return int(written)


def _options(query: str, shown: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for each in query.split("&") if query else ():
        name, equals, value = each.partition("=")
        if name not in _OPTIONS:
            hint = suggestion(name, _OPTIONS) or f"; there are {', '.join(_OPTIONS)}"
            raise ConfigError(f"'{shown}' has an unknown option '{name[:20]}'{hint}")
        if not equals or not value:
            raise ConfigError(f"'{shown}': ?{name}= has no value")
        if name in found:
            raise ConfigError(f"'{shown}' has ?{name}= twice")
        found[name] = unquote(value)
    return found


def cluster_url(text: str) -> ClusterUrl | None:
    """Read the setting ``cluster``; None: there is no cluster.

    :raises ConfigError: see :meth:`ClusterUrl.parse`.
    """
    return None if text in ("", MEMORY) else ClusterUrl.parse(text)
