"""The one place that goes below pyOpenSSL's public interface.

Groups and signature algorithms can be set, and a session be resumed more than once, only through the binding that
``cryptography`` brings with it. Whatever is missing there, or in the OpenSSL behind it, is an error before anything
listens or dials: never a weaker link.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto

from rtunnel.errors import ConfigError

#: What must be there; two of the names that say whether it is.
_NEEDED_GROUPS = ("X25519MLKEM768", "MLKEM768")
_NEEDED_SIGNATURES = ("mldsa65",)
_NEEDED_FOR_SESSIONS = ("SSL_session_reused", "SSL_set_session", "d2i_SSL_SESSION", "i2d_SSL_SESSION")
_REMEDY = "install the wheels of cryptography 50 or later and pyOpenSSL 26 or later"


def set_groups(context: SSL.Context, names: Sequence[str]) -> None:
    """Let *context* exchange keys by these groups only, the first is preferred.

    :raises ConfigError: this OpenSSL does not have all of them.
    """
    _set(context, "SSL_CTX_set1_curves_list", names, "groups")


def set_signatures(context: SSL.Context, names: Sequence[str]) -> None:
    """Let *context* sign, and take signatures, by these algorithms only.

    :raises ConfigError: this OpenSSL does not have all of them.
    """
    _set(context, "SSL_CTX_set1_sigalgs_list", names, "signature algorithms")


def write_whole(context: SSL.Context) -> None:
    """Let one ``send`` write as many records as there are bytes for, in place of one; pyOpenSSL asks for one."""
    mode = getattr(_library(), "SSL_MODE_ENABLE_PARTIAL_WRITE", None)
    if mode is not None:
        context.clear_mode(mode)


def use_private_key(context: SSL.Context, key: crypto.PKey) -> None:
    """Let *context* sign by *key*.

    pyOpenSSL would rather have a key object of cryptography, and then refuses those of ML-DSA.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.use_privatekey(key)


@cache
def require_post_quantum() -> None:
    """See that the libraries can do what TLS here needs.

    :raises ConfigError: they cannot.
    """
    if not hasattr(SSL.Connection, "get_group_name"):
        raise ConfigError(f"TLS needs a pyOpenSSL that tells which group was negotiated; {_REMEDY}")
    context = SSL.Context(SSL.TLS_METHOD)
    set_groups(context, _NEEDED_GROUPS)
    set_signatures(context, _NEEDED_SIGNATURES)
    for name in _NEEDED_FOR_SESSIONS:
        if not hasattr(_library(), name):
            raise ConfigError(f"TLS needs {name}, which this cryptography does not give; {_REMEDY}")


def is_resumed(connection: SSL.Connection) -> bool:
    """Whether *connection* goes on from a session. At the server it is known once the first message is read."""
    return bool(_library().SSL_session_reused(_handle(connection)))


def is_same_session(one: SSL.Session, other: SSL.Session) -> bool:
    """Whether both are one object of OpenSSL, which makes a new one when a ticket comes."""
    return bool(_handle(one) == _handle(other))


def write_session(session: SSL.Session) -> bytes:
    """*session* as bytes. OpenSSL's client resumes each object once only, and bytes make as many as are wanted."""
    handle = _handle(session)
    size = _library().i2d_SSL_SESSION(handle, Binding.ffi.NULL)
    buffer = Binding.ffi.new("unsigned char[]", max(size, 1))
    _library().i2d_SSL_SESSION(handle, Binding.ffi.new("unsigned char **", buffer))
    return bytes(Binding.ffi.buffer(buffer, max(size, 0)))


def offer_session(connection: SSL.Connection, content: bytes) -> None:
    """Let a client ask to go on from what :func:`write_session` wrote for a connection of the same context."""
    library = _library()
    start = Binding.ffi.new("unsigned char[]", content)
    session = library.d2i_SSL_SESSION(Binding.ffi.NULL, Binding.ffi.new("unsigned char const **", start), len(content))
    if session == Binding.ffi.NULL:
        library.ERR_clear_error()
        return
    library.SSL_set_session(_handle(connection), session)
    # The connection has its own hold on it.
    library.SSL_SESSION_free(session)


class Reader:
    """Reads all records that a connection has, into one buffer, where pyOpenSSL makes and copies one for each.

    It may serve all connections of a thread.

    :param size: bytes that are read at a time.
    """

    def __init__(self, size: int) -> None:
        binding = Binding()
        self._read: Any = binding.lib.SSL_read
        self._ffi: Any = binding.ffi
        self._buffer: Any = binding.ffi.new("char[]", size)
        self._size = size

    def read(self, connection: SSL.Connection) -> bytes:
        """What there is; nothing where an error or an end comes next, which ``recv`` then tells."""
        ssl = getattr(connection, "_ssl", None)
        if ssl is None:
            return b""
        filled = 0
        while filled < self._size and (count := self._read(ssl, self._buffer + filled, self._size - filled)) > 0:
            filled += count
        return bytes(self._ffi.buffer(self._buffer, filled))


def _library() -> Any:
    return Binding().lib


def _handle(thing: SSL.Connection | SSL.Session) -> Any:
    return thing._ssl if isinstance(thing, SSL.Connection) else thing._session


def _set(context: SSL.Context, function: str, names: Sequence[str], what: str) -> None:
    setter = getattr(_library(), function, None)
    handle = getattr(context, "_context", None)
    if setter is None or handle is None:
        raise ConfigError(f"TLS needs {function}, which this cryptography or pyOpenSSL does not give; {_REMEDY}")
    if setter(handle, ":".join(names).encode("ascii")) != 1:
        # What OpenSSL had to say stays in this thread's queue, where the next connection would find it.
        _library().ERR_clear_error()
        version = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")
        raise ConfigError(f"{version} does not have the {what} {', '.join(names)}; {_REMEDY}")
