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

#: Bytes that one record of TLS holds at most.
RECORD = 16384

_lib: Any = Binding().lib
_ffi: Any = Binding().ffi

#: What must be there; two of the names that say whether it is.
_NEEDED_GROUPS = ("X25519MLKEM768", "MLKEM768")
_NEEDED_SIGNATURES = ("mldsa65",)
_NEEDED_FOR_SESSIONS = ("SSL_session_reused", "SSL_set_session", "d2i_SSL_SESSION", "i2d_SSL_SESSION")
_NEEDED_FOR_SOCKETS = (
    "SSL_set_fd",
    "SSL_want_read",
    "SSL_want_write",
    "SSL_get_shutdown",
    "SSL_clear_mode",
    "SSL_set_mode",
    "SSL_MODE_AUTO_RETRY",
)
_NEEDED_FOR_MEMORY = ("SSL_set_bio", "BIO_get_mem_data")
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
    mode = getattr(_lib, "SSL_MODE_ENABLE_PARTIAL_WRITE", None)
    if mode is not None:
        context.clear_mode(mode)


def hold_no_buffers(context: SSL.Context) -> None:
    """Let a connection have its buffers, 16 KiB each way, only while there is something in them."""
    mode = getattr(_lib, "SSL_MODE_RELEASE_BUFFERS", None)
    if mode is not None:
        context.set_mode(mode)


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
    for name in (*_NEEDED_FOR_SESSIONS, *_NEEDED_FOR_SOCKETS, *_NEEDED_FOR_MEMORY):
        if not hasattr(_lib, name):
            raise ConfigError(f"TLS needs {name}, which this cryptography does not give; {_REMEDY}")


def is_resumed(connection: SSL.Connection) -> bool:
    """Whether *connection* goes on from a session. At the server it is known once the first message is read."""
    return bool(_lib.SSL_session_reused(_handle(connection)))


def is_same_session(one: SSL.Session, other: SSL.Session) -> bool:
    """Whether both are one object of OpenSSL, which makes a new one when a ticket comes."""
    return bool(_handle(one) == _handle(other))


def write_session(session: SSL.Session) -> bytes:
    """*session* as bytes."""
    handle = _handle(session)
    size = _lib.i2d_SSL_SESSION(handle, _ffi.NULL)
    buffer = _ffi.new("unsigned char[]", max(size, 1))
    _lib.i2d_SSL_SESSION(handle, _ffi.new("unsigned char **", buffer))
    return bytes(_ffi.buffer(buffer, max(size, 0)))


def read_session(content: bytes) -> Any:
    """What :func:`write_session` wrote, for :func:`offer_session`; None where it cannot be read."""
    start = _ffi.new("unsigned char[]", content)
    session = _lib.d2i_SSL_SESSION(_ffi.NULL, _ffi.new("unsigned char const **", start), len(content))
    if session == _ffi.NULL:
        _lib.ERR_clear_error()
        return None
    return _ffi.gc(session, _lib.SSL_SESSION_free)


def offer_session(connection: SSL.Connection, session: Any) -> None:
    """Let a client ask to go on from what :func:`read_session` gave, for any number of connections.

    OpenSSL spoils it where one of them is freed without :func:`end`.
    """
    _lib.SSL_set_session(_handle(connection), session)


def end(connection: SSL.Connection) -> None:
    """Nothing more goes over *connection*, and that is no fault of its session."""
    _lib.SSL_set_shutdown(_handle(connection), _lib.SSL_SENT_SHUTDOWN | _lib.SSL_RECEIVED_SHUTDOWN)


class Reader:
    """Reads all records that a connection has, into one buffer, where pyOpenSSL makes and copies one for each.

    It may serve all connections of a thread.

    :param size: bytes that are read at a time.
    """

    def __init__(self, size: int) -> None:
        self._buffer: Any = _ffi.new("char[]", size)
        self._size = size

    def read(self, connection: SSL.Connection) -> bytes:
        """What there is; nothing where an error or an end comes next, which ``recv`` then tells."""
        ssl = getattr(connection, "_ssl", None)
        if ssl is None:
            return b""
        filled = 0
        while filled < self._size and (count := _lib.SSL_read(ssl, self._buffer + filled, self._size - filled)) > 0:
            filled += count
        return bytes(_ffi.buffer(self._buffer, filled))


class Records:
    """The records of a connection whose handshake is over, straight from and to its socket, which does not block.

    There is no copy and no Python between them and whoever uses this. Each method does as that of a socket.

    :param connection: all that it had for the network, or had from there, is fetched.
    :param number: the socket's descriptor, open for as long as this is used.
    :ivar is_over: the end, or an error, has been read, and the next read tells it. No event of the socket may.
    """

    __slots__ = ("_connection", "_ssl", "is_over")

    def __init__(self, connection: SSL.Connection, number: int) -> None:
        self._connection: Any = connection
        self._ssl: Any = _handle(connection)
        self.is_over = False
        # What pyOpenSSL knows of the memory is freed by what comes in its place.
        connection._into_ssl = connection._from_ssl = None
        # Else a read goes on through tickets and changes of keys until there is data, which may be never.
        _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)
        _lib.SSL_set_fd(self._ssl, number)

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has come, and nothing of a record stays behind, where no system would tell of it.

        :param buffer: holds a whole record at least.
        :return: bytes; 0: the other end has said that no more comes.
        :raises OSError: there is nothing now, or the connection is lost.
        """
        ssl, read, start = self._ssl, _lib.SSL_read, _ffi.from_buffer(buffer)
        count = filled = read(ssl, start, RECORD)
        while count == RECORD and filled + RECORD <= len(buffer):
            count = read(ssl, start + filled, RECORD)
            filled += max(count, 0)
        if count <= 0:
            self.is_over = not _lib.SSL_want_read(ssl)
            _lib.ERR_clear_error()
        if filled > 0:
            return int(filled)
        if not self.is_over:
            raise BlockingIOError
        if _lib.SSL_get_shutdown(ssl) & _lib.SSL_RECEIVED_SHUTDOWN:
            return 0
        raise ConnectionResetError("the connection was cut")

    def send(self, data: bytes | memoryview) -> int:
        """Send all of *data*.

        :raises OSError: there is no room for all of it now, and the same is to be sent again later; or the connection
            is lost.
        """
        count = _lib.SSL_write(self._ssl, _ffi.from_buffer(data), len(data))
        if count <= 0:
            self._could_not_write()
        return int(count)

    def shutdown(self, _how: int) -> None:
        """Say that no more comes. The other end may go on.

        :raises OSError: there is no room for that now, and it is to be tried again; or the connection is lost.
        """
        if _lib.SSL_shutdown(self._ssl) < 0:
            self._could_not_write()

    def _could_not_write(self) -> None:
        if _lib.SSL_want_write(self._ssl):
            raise BlockingIOError
        _lib.ERR_clear_error()
        raise ConnectionResetError("the connection was cut")

    def to_memory(self) -> None:
        """Leave the socket; the connection reads and writes memory again, as one that was made without a socket."""
        _use_new_memory(self._connection)
        _lib.SSL_set_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)

    def release(self) -> None:
        """Have no more to do with the connection."""
        self._connection = self._ssl = None


def renew_memory(connection: Any) -> None:
    """Let go of the memory that a handshake went through, tens of kilobytes, if nothing is in it."""
    start = _ffi.new("char **")
    waiting = _lib.BIO_get_mem_data(connection._into_ssl, start) or _lib.BIO_get_mem_data(connection._from_ssl, start)
    if not waiting:
        _use_new_memory(connection)


def _use_new_memory(connection: Any) -> None:
    connection._into_ssl, connection._from_ssl = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
    _lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)


def _handle(thing: SSL.Connection | SSL.Session) -> Any:
    return thing._ssl if isinstance(thing, SSL.Connection) else thing._session


def _set(context: SSL.Context, function: str, names: Sequence[str], what: str) -> None:
    setter = getattr(_lib, function, None)
    handle = getattr(context, "_context", None)
    if setter is None or handle is None:
        raise ConfigError(f"TLS needs {function}, which this cryptography or pyOpenSSL does not give; {_REMEDY}")
    if setter(handle, ":".join(names).encode("ascii")) != 1:
        # What OpenSSL had to say stays in this thread's queue, where the next connection would find it.
        _lib.ERR_clear_error()
        version = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")
        raise ConfigError(f"{version} does not have the {what} {', '.join(names)}; {_REMEDY}")
