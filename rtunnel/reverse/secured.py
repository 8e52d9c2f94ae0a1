"""Log lines about connections under TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtunnel.tls.identity import Peer, expiry_warning
from rtunnel.upkeep.debug_log import DebugLog

_log = DebugLog()


def log_data_connection(transport: Any, peer: Peer) -> None:
    """Log a data connection at debug level, since there may be many, and their link was logged.

    :param transport: a :class:`~rtunnel.tls.transport.TlsTransport`.
    """
    if DebugLog.is_wanted:
        _log.debug(
            "data connection {peer}: TLS 1.3, key exchange {group}, {how}",
            peer=transport.peer_name,
            group=peer.group,
            how="resumed" if transport.is_resumed else "a whole handshake",
        )


def log_secured(
    transport: Any, peer: Peer, info: Callable[..., None] = _log.info, warn: Callable[..., None] = _log.warn
) -> None:
    """Log how a link is protected, and who is at its other end.

    :param transport: a :class:`~rtunnel.tls.transport.TlsTransport`.
    :param info: logs a line, as :meth:`twisted.logger.Logger.info` does.
    :param warn: logs a warning.
    """
    info(
        "link {peer}: TLS 1.3, key exchange {group}, certificate of {name} ({signature})",
        peer=transport.peer_name,
        group=peer.group,
        name=f"'{peer.name}'" if peer.name else peer.fingerprint,
        signature=peer.signature,
    )
    warning = expiry_warning(peer.certificate)
    if warning:
        warn("link {peer}: {warning}", peer=transport.peer_name, warning=warning)
