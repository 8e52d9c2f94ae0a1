"""The only module that goes below pyOpenSSL's public interface.

It uses the binding of ``cryptography`` to set groups and signature algorithms, to refuse the resumption of sessions, to
read into one buffer, and to count what a peer says after the handshake. If the binding or the OpenSSL behind it lacks
any of that, the program does not start: no link is ever weaker than it should be.
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
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from rtunnel.errors import ConfigError

#: Most bytes of one record (RFC 8446, section 5.1).
RECORD = 16384

_lib: Any = Binding().lib
_ffi: Any = Binding().ffi

#: If OpenSSL has these groups and this signature algorithm, it has the others too.
_NEEDED_GROUPS = ("X25519MLKEM768", "MLKEM768")
_NEEDED_SIGNATURES = ("mldsa65",)
_NEEDED_AGAINST_SESSIONS = ("SSL_session_reused",)
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
    for name in (*_NEEDED_AGAINST_SESSIONS, *_NEEDED_FOR_MEMORY, *_NEEDED_FOR_COUNTING):
        if not hasattr(_lib, name):
            raise ConfigError(f"TLS needs {name}, which this cryptography does not have; {_REMEDY}")


def is_resumed(connection: Any) -> bool:
    """Return whether *connection* has resumed a session."""
    return bool(_lib.SSL_session_reused(connection._ssl))


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


def renew_memory(connection: Any) -> None:
    """Free the buffers that a handshake used, tens of kilobytes, if they are empty."""
    start = _ffi.new("char **")
    waiting = _lib.BIO_get_mem_data(connection._into_ssl, start) or _lib.BIO_get_mem_data(connection._from_ssl, start)
    if waiting:
        return
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


class Untraced(TLSMemoryBIOProtocol):
    """A connection that has no traceback of its end.

    Twisted has the failure in a local variable, which is in the failure's traceback, and that has OpenSSL's connection:
    a reference cycle, which would wait for the garbage collector.
    """

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        super()._tlsShutdownFinished(reason)
        if reason is not None and reason.value is not None:
            reason.tb = reason.value.__traceback__ = None
