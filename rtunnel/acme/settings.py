"""The operator's settings for ACME."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rtunnel.errors import ConfigError

#: CAs that can be named by a word, and their directories.
KNOWN = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


#: How a CA can check that a name is ours: by a TLS connection (RFC 8737), or by an HTTP request (RFC 8555, 8.3).
TLS_ALPN_01, HTTP_01 = CHALLENGES = ("tls-alpn-01", "http-01")


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """Where certificates come from.

    :ivar email: the contact of the account.
    :ivar state_dir: where the account and the certificates are kept.
    :ivar server: the URL of the CA's directory.
    :ivar ca: file with the CAs that vouch for the server itself; None: those that the system knows.
    :ivar challenge: how it checks that a name is ours: one of :data:`CHALLENGES`.
    """

    email: str
    state_dir: Path
    server: str = KNOWN["letsencrypt"]
    ca: Path | None = None
    challenge: str = TLS_ALPN_01

    @property
    def ca_name(self) -> str:
        """The name of the CA in logs."""
        return urlsplit(self.server).netloc

    @property
    def directory(self) -> Path:
        """Where what belongs to this CA is kept; a test CA's certificates must not be taken for real ones."""
        return self.state_dir / "acme" / re.sub("[^A-Za-z0-9.-]+", "_", self.server.partition("://")[2])[:200]


def email(written: str) -> str:
    """Read the address of a contact.

    :raises ConfigError: it is none.
    """
    if not re.fullmatch(r"[^\s@,?:]+@[^\s@,?:]+", written) or not written.isascii():
        raise ConfigError(f"'{written}' is not an e-mail address; write one such as admin@example.org")
    return written


def server(written: str) -> str:
    """Read the URL of a CA's directory, or one of the words for it.

    :raises ConfigError: it is neither.
    """
    if written in KNOWN:
        return KNOWN[written]
    try:
        parts = urlsplit(written)
        is_url = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url or not written.isprintable() or " " in written:
        raise ConfigError(
            f"'{written}' is not the URL of a CA's directory; write {' or '.join(KNOWN)}, or one that begins with https://"
        )
    return written


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where a program keeps what it has to find again: systemd's $STATE_DIRECTORY, else the user's.

    :returns: an absolute path, which need not exist.
    """
    named = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if named:
        return Path(named).absolute()
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        home = environ.get("HOME", "")
        state = (Path(home) if home else Path("~").expanduser()).absolute() / ".local" / "state"
    return state / "rtunnel"
