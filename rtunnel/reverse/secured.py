"""Links under TLS: what the keys of their data connections need of it, and log lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rtunnel.tls.policy import Role
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.wire.data.keys import EXPORTER_LABEL, EXPORTER_LENGTH, exporter_context

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

_log = DebugLog()


def export_for_records(transport: Any, peer: Peer) -> bytes:
    """Return what a link's TLS adds to the keys of its data connections (docs/wire.rst, "Keys of a link").

    :param transport: a :class:`~rtunnel.tls.transport.TlsTransport`.
    :param peer: its other end.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    own, other = transport.certificate, peer.certificate
    server, client = (own, other) if transport.role is Role.SERVER else (other, own)
    context = exporter_context(server.public_bytes(Encoding.DER), client.public_bytes(Encoding.DER))
    return transport.export(EXPORTER_LABEL, EXPORTER_LENGTH, context)  # type: ignore[no-any-return]


def log_secured(
    transport: Any, peer: Peer, info: Callable[..., None] = _log.info, warn: Callable[..., None] = _log.warn
) -> None:
    """Log how a link is protected, and who is at its other end.

    :param transport: a :class:`~rtunnel.tls.transport.TlsTransport`.
    :param info: logs a line, as :meth:`twisted.logger.Logger.info` does.
    :param warn: logs a warning.
    """
    from rtunnel.tls.identity import expiry_warning

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


def log_hedged(names: Sequence[str], info: Callable[..., None]) -> None:
    """Log what was mixed into the keys of a link beside X25519 and ML-KEM, if anything was.

    :param info: see :func:`log_secured`.
    """
    if names:
        info("link {peer}: its keys have {names} mixed in, and visitors stay off the link", names=" and ".join(names))
