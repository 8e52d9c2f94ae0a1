"""How ``rtc-signal`` takes other settings while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtunnel.access.tokens import BearerTokens
from rtunnel.access.web_admission import Origins
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.shared import budget_of
from rtunnel.rtc.settings import SignalSettings
from rtunnel.rtc.signaling.party import POLICY_VIOLATION
from rtunnel.rtc.signaling.server import SignalServer
from rtunnel.rtc.signaling.server_protocol import ServerProtocol


def reloadable(server: SignalServer) -> Reloadable:
    """Return what applies other settings to a signaling server."""
    factory = server.factory

    def certificate(new: Any) -> None:
        server.use_certificate(new.settings)
        server.warn_if_open()

    def tokens(new: Any) -> None:
        """Whoever has come with a token that is no longer good has to leave."""
        factory.tokens = BearerTokens(new.settings.valid_tokens)
        for connection in server.connections:
            # Those that have not asked for a WebSocket yet have to show a token then.
            headers = getattr(connection, "http_headers", None)
            if not isinstance(connection, ServerProtocol) or headers is None:
                continue
            if not factory.tokens.allow(headers.get("authorization")):
                server.switchboard.dismiss(connection.party, "its token is not valid any more", POLICY_VIOLATION)
        server.warn_if_open()

    def origins(new: Any) -> None:
        factory.origins = Origins(new.settings.allowed_origins)

    def limits(new: Any) -> None:
        settings: SignalSettings = new.settings
        server.connections.max_per_address = settings.max_per_address
        server.switchboard.max_hosts = settings.max_hosts
        server.switchboard.max_clients = settings.max_clients
        server.switchboard.max_message = settings.max_message
        factory.setProtocolOptions(maxFramePayloadSize=settings.max_message, maxMessagePayloadSize=settings.max_message)

    async def address(new: Any) -> None:
        await server.listener.move(new.settings.addr)
        server.warn_if_open()

    def look() -> Iterator[str]:
        if server.look_at_files():
            yield "the TLS files have changed; new connections use them"

    parts = (
        Part(frozenset({"tls-cert-file", "tls-key-file"}), certificate),
        Part(frozenset({"valid-tokens"}), tokens),
        Part(frozenset({"allowed-origins"}), origins),
        Part(frozenset({"max-hosts", "max-clients", "max-per-address", "max-message"}), limits),
        budget_of(factory.memory),
        Part(frozenset({"addr"}), address),
    )
    return Reloadable(server, parts, lambda: list(look()))
