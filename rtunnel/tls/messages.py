"""Twisted's own TLS with a bound on what a peer says after the handshake (see :class:`~rtunnel.tls.openssl.Messages`),
and an end that leaves nothing of OpenSSL behind.

Under Twisted's TLS are ``wss``, and the endpoints whose kind is ``ssl``.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from rtunnel.tls.openssl import Messages


class Untraced(TLSMemoryBIOProtocol):
    """A connection that has no traceback of its end.

    Twisted has the failure in a local variable, which is in the failure's traceback, and that has OpenSSL's connection:
    a reference cycle, which would wait for the garbage collector.
    """

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        super()._tlsShutdownFinished(reason)
        if reason is not None and reason.value is not None:
            reason.tb = reason.value.__traceback__ = None


def limit_messages(transport: Any) -> None:
    """Abort the connection when its peer has sent too many; do nothing for a transport that is not Twisted's TLS.

    :param transport: as the protocol above it knows it. May be given again.
    """
    if not isinstance(transport, TLSMemoryBIOProtocol) or hasattr(transport, "messages"):
        return
    # A cycle would wait for the garbage collector.
    weak = ref(transport)

    def abort() -> None:
        protocol = weak()
        if protocol is not None:
            # Not its own method: OpenSSL is in the middle of something.
            below: Any = protocol.transport
            below.abortConnection()

    kept: Any = transport
    kept.messages = Messages(transport.getHandle(), abort)
