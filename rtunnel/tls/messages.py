"""Twisted's own TLS with a bound on what a peer says after the handshake (see :class:`~rtunnel.tls.openssl.Messages`).

Under Twisted's TLS are ``wss``, and the endpoints whose kind is ``ssl``.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import ref


def limit_messages(transport: Any) -> None:
    """Abort the connection when its peer has sent too many; do nothing for a transport that is not Twisted's TLS.

    :param transport: as the protocol above it knows it. May be given again.
    """
    twisted_tls = sys.modules.get("twisted.protocols.tls")
    if (
        twisted_tls is None
        or not isinstance(transport, twisted_tls.TLSMemoryBIOProtocol)
        or hasattr(transport, "messages")
    ):
        return
    from rtunnel.tls.openssl import Messages

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
