"""The only module that goes below pyOpenSSL's public interface.

It uses the binding of ``cryptography`` to set groups and signature algorithms, to resume a session more than once, to
let OpenSSL read and write a socket, and to count what a peer says after the handshake. If the binding or the OpenSSL
behind it lacks any of that, the program does not start: no link is ever weaker than it should be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto

from rtunnel.errors import ConfigError

#: Most bytes of one record (RFC 8446, section 5.1).
RECORD = 16384

_lib: Any = Binding().lib
_ffi: Any = Binding().ffi

#: If OpenSSL has these groups and this signature algorithm, it has the others too.
_NEEDED_GROUPS = ("X25519MLKEM768", "MLKEM768")
_NEEDED_SIGNATURES = ("mldsa65",)
_NEEDED_FOR_SESSIONS = ("SSL_session_reused", "SSL_set_session", "d2i_SSL_SESSION", "i2d_SSL_SESSION")
_NEEDED_FOR_SOCKETS = (
    "SSL_set_fd",
    "SSL_get_error",
    "SSL_want_write",
    "SSL_clear_mode",
    "SSL_set_mode",
    "SSL_MODE_AUTO_RETRY",
)
_NEEDED_FOR_MEMORY = ("SSL_set_bio", "BIO_get_mem_data")
_NEEDED_FOR_COUNTING = ("SSL_set_info_callback", "SSL_CB_LOOP", "SSL_CB_ALERT")
_REMEDY = "install the wheels of cryptography 50 or later and pyOpenSSL 26 or later"


def set_groups(context: SSL.Context, names: Sequence[str]) -> None:
    """Allow only these groups for key exchange, the preferred one first.

    :raises ConfigError: this OpenSSL does not have all of them.
    """
    _set(context, "SSL_CTX_set1_curves_list", names, "groups")


def set_signatures(context: SSL.Context, names: Sequence[str]) -> None:
    """Allow only these algorithms for signatures by either end.

    :raises ConfigError: this OpenSSL does not have all of them.
    """
    _set(context, "SSL_CTX_set1_sigalgs_list", names, "signature algorithms")


def write_whole(context: SSL.Context) -> None:
    """Let one ``send`` write all its bytes, in as many records as needed; pyOpenSSL's default is one record."""
    mode = getattr(_lib, "SSL_MODE_ENABLE_PARTIAL_WRITE", None)
    if mode is not None:
        context.clear_mode(mode)


def hold_no_buffers(context: SSL.Context) -> None:
    """Free the buffers of a connection, 16 KiB each way, while they are empty."""
    mode = getattr(_lib, "SSL_MODE_RELEASE_BUFFERS", None)
    if mode is not None:
        context.set_mode(mode)


def use_private_key(context: SSL.Context, key: crypto.PKey) -> None:
    """Let *context* sign with *key*.

    pyOpenSSL deprecates its own key objects, but accepts no ML-DSA key as an object of cryptography.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.use_privatekey(key)


@cache
def require_post_quantum() -> None:
    """Check that the libraries can do what TLS needs here.

    :raises ConfigError: they cannot; the message says what is missing.
    """
    if not hasattr(SSL.Connection, "get_group_name"):
        raise ConfigError(f"TLS needs a pyOpenSSL that reports which group was negotiated; {_REMEDY}")
    context = SSL.Context(SSL.TLS_METHOD)
    set_groups(context, _NEEDED_GROUPS)
    set_signatures(context, _NEEDED_SIGNATURES)
    for name in (*_NEEDED_FOR_SESSIONS, *_NEEDED_FOR_SOCKETS, *_NEEDED_FOR_MEMORY, *_NEEDED_FOR_COUNTING):
        if not hasattr(_lib, name):
            raise ConfigError(f"TLS needs {name}, which this cryptography does not have; {_REMEDY}")


def is_resumed(connection: Any) -> bool:
    """Return whether *connection* resumes a session. A server knows once it has read the ClientHello."""
    return bool(_lib.SSL_session_reused(connection._ssl))


def is_same_session(one: Any, other: Any) -> bool:
    """Return whether both are the same object of OpenSSL, which makes a new one when a ticket arrives."""
    return bool(one._session == other._session)


def write_session(session: Any) -> bytes:
    """Return *session* as bytes. They contain its secret."""
    handle = session._session
    size = _lib.i2d_SSL_SESSION(handle, _ffi.NULL)
    buffer = _ffi.new("unsigned char[]", max(size, 1))
    _lib.i2d_SSL_SESSION(handle, _ffi.new("unsigned char **", buffer))
    return bytes(_ffi.buffer(buffer, max(size, 0)))


def read_session(content: bytes) -> Any:
    """Return the session that :func:`write_session` wrote, for :func:`offer_session`; None if it cannot be read."""
    start = _ffi.new("unsigned char[]", content)
    session = _lib.d2i_SSL_SESSION(_ffi.NULL, _ffi.new("unsigned char const **", start), len(content))
    if session == _ffi.NULL:
        _lib.ERR_clear_error()
        return None
    return _ffi.gc(session, _lib.SSL_SESSION_free)


def offer_session(connection: Any, session: Any) -> None:
    """Let a client's connection ask to resume *session*, which any number of connections may do.

    OpenSSL invalidates the session if one of them is freed without :func:`end`.

    :param session: from :func:`read_session`.
    """
    _lib.SSL_set_session(connection._ssl, session)


def end(connection: Any) -> None:
    """Mark *connection* as properly closed, so that OpenSSL does not invalidate its session."""
    _lib.SSL_set_shutdown(connection._ssl, _lib.SSL_SENT_SHUTDOWN | _lib.SSL_RECEIVED_SHUTDOWN)


#: How many steps OpenSSL may take in one connection at once for what :class:`Messages` counts; a message takes two to
#: five. A request for new keys costs as much time as 25 records of data, and its answer waits in memory until the peer
#: reads.
MAX_STEPS = 4096
#: How many more each second allows. OpenSSL sends no such requests; other libraries do after 2**20 (Bouncy Castle) or
#: 2**24 records (rustls), as often as it takes: a connection may live for months. One step a second is enough for
#: 200,000 records a second.
STEPS_PER_SECOND = 1.0


class Messages:
    """Counts what a peer says of TLS itself, beside its data: requests for new keys, tickets, hellos.

    :param connection: counted from now on, and as long as this object is kept.
    :param then: called when there are too many, in the middle of a call of OpenSSL.
    :ivar are_too_many: the connection should be closed.
    """

    __slots__ = ("__weakref__", "_counted_at", "_steps", "_then", "are_too_many")

    def __init__(self, connection: Any, then: Callable[[], object] | None = None) -> None:
        self.are_too_many = False
        self._steps = 0.0
        self._counted_at = monotonic()
        self._then = then
        _counted[_number_of(connection._ssl)] = self
        _lib.SSL_set_info_callback(connection._ssl, _took_step)

    def took_step(self) -> None:
        """Called by OpenSSL."""
        now = monotonic()
        self._steps = max(0.0, self._steps - (now - self._counted_at) * STEPS_PER_SECOND) + 1
        self._counted_at = now
        if self._steps > MAX_STEPS and not self.are_too_many:
            self.are_too_many = True
            if self._then is not None:
                self._then()


_counted: WeakValueDictionary[int, Messages] = WeakValueDictionary()


def _number_of(ssl: Any) -> int:
    return int(_ffi.cast("uintptr_t", ssl))


@_ffi.callback("void (*)(SSL *, int, int)")  # type: ignore[untyped-decorator]
def _took_step(ssl: Any, where: int, _value: int) -> None:
    messages = _counted.get(_number_of(ssl))
    if messages is not None and where & (_lib.SSL_CB_LOOP | _lib.SSL_CB_ALERT):
        messages.took_step()


class Reader:
    """Reads all records of a connection into one buffer; pyOpenSSL allocates and copies one for each record.

    All connections of a thread may share it.

    :param size: the most bytes of one read.
    """

    def __init__(self, size: int) -> None:
        self._buffer: Any = _ffi.new("char[]", size)
        self._size = size

    def read(self, connection: SSL.Connection) -> bytes:
        """Return the bytes that are available. If there are none, ``recv`` reports an error or the end."""
        ssl = getattr(connection, "_ssl", None)
        if ssl is None:
            return b""
        filled = 0
        while filled < self._size and (count := _lib.SSL_read(ssl, self._buffer + filled, self._size - filled)) > 0:
            filled += count
        return bytes(_ffi.buffer(self._buffer, filled))


class Records:
    """A connection after its handshake, whose records OpenSSL itself reads from and writes to a non-blocking socket.

    There is no copy and no Python in between. Each method does what a socket's method of that name does.

    :param connection: its memory buffers must be empty in both directions.
    :param number: the socket's file descriptor, which must stay open while this is used.
    :param messages: counts what the peer says beside its data.
    :ivar is_over: whether the next read returns the end or raises an error that was already read. The socket may show
        no event.
    """

    __slots__ = ("_connection", "_messages", "_ssl", "is_over")

    def __init__(self, connection: Any, number: int, messages: Messages) -> None:
        self._messages = messages
        self._connection: Any = connection
        self._ssl: Any = connection._ssl
        self.is_over = False
        # SSL_set_fd frees the memory BIOs that pyOpenSSL refers to.
        connection._into_ssl = connection._from_ssl = None
        # Otherwise a read that finds only tickets or KeyUpdates goes on until there is data, which may be never.
        _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)
        _lib.SSL_set_fd(self._ssl, number)

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has arrived. Records are read whole: epoll would not report bytes that OpenSSL keeps.

        :param buffer: has room for at least one record.
        :returns: how many bytes were read; 0: the peer has sent close_notify.
        :raises OSError: there is nothing now, or the connection is lost.
        """
        ssl, read, start = self._ssl, _lib.SSL_read, _ffi.from_buffer(buffer)
        count = filled = read(ssl, start, RECORD)
        while count == RECORD and filled + RECORD <= len(buffer):
            count = read(ssl, start + filled, RECORD)
            filled += max(count, 0)
        if count <= 0:
            # Not SSL_get_shutdown: it does not tell a fatal alert from close_notify.
            why = _lib.SSL_get_error(ssl, count)
            self.is_over = why != _lib.SSL_ERROR_WANT_READ or self._messages.are_too_many
            _lib.ERR_clear_error()
        if filled > 0:
            return int(filled)
        if not self.is_over:
            raise BlockingIOError
        if why == _lib.SSL_ERROR_ZERO_RETURN:
            return 0
        raise ConnectionResetError("the connection was cut")

    def send(self, data: bytes | memoryview) -> int:
        """Send all of *data*.

        :returns: how many bytes that is.
        :raises OSError: there is no room for all of it now, and the caller must send the same bytes again later; or
            the connection is lost.
        """
        count = _lib.SSL_write(self._ssl, _ffi.from_buffer(data), len(data))
        if count <= 0:
            self._could_not_write()
        return int(count)

    def shutdown(self, _how: int) -> None:
        """Send close_notify. The peer may continue to send.

        :raises OSError: there is no room for that now, and the caller must try again; or the connection is lost.
        """
        if _lib.SSL_shutdown(self._ssl) < 0:
            self._could_not_write()

    def _could_not_write(self) -> None:
        if _lib.SSL_want_write(self._ssl):
            raise BlockingIOError
        _lib.ERR_clear_error()
        raise ConnectionResetError("the connection was cut")

    def to_memory(self) -> None:
        """Let the connection read and write memory instead of the socket."""
        _use_new_memory(self._connection)
        _lib.SSL_set_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)

    def release(self) -> None:
        """Drop the reference to the connection."""
        self._connection = self._ssl = None


def renew_memory(connection: Any) -> None:
    """Free the buffers that a handshake used, tens of kilobytes, if they are empty."""
    start = _ffi.new("char **")
    waiting = _lib.BIO_get_mem_data(connection._into_ssl, start) or _lib.BIO_get_mem_data(connection._from_ssl, start)
    if not waiting:
        _use_new_memory(connection)


def _use_new_memory(connection: Any) -> None:
    connection._into_ssl, connection._from_ssl = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
    _lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)


def _set(context: SSL.Context, function: str, names: Sequence[str], what: str) -> None:
    setter = getattr(_lib, function, None)
    handle = getattr(context, "_context", None)
    if setter is None or handle is None:
        raise ConfigError(f"TLS needs {function}, which this cryptography or pyOpenSSL does not have; {_REMEDY}")
    if setter(handle, ":".join(names).encode("ascii")) != 1:
        # Otherwise the next connection would find the error in this thread's queue.
        _lib.ERR_clear_error()
        version = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")
        raise ConfigError(f"{version} does not have the {what} {', '.join(names)}; {_REMEDY}")
