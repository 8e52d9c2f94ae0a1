"""What one connection to the signaling server holds of the process's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtunnel.relay.last_bytes import PIECE, buffered


class Share:
    """See :class:`~rtunnel.upkeep.memory.IParty`. All connections from one address pay together.

    :param connection: a :class:`~rtunnel.rtc.signaling.server_protocol.ServerProtocol`.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def payer(self) -> str:
        """The connection's address."""
        return str(self._connection.address_prefix or self._connection.peer_name)

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """Yield how much is kept: of messages that wait for a turn, for an ID, or for their rest, and for sending."""
        connection = self._connection
        part = 0
        if connection.inside_message:
            part = connection.message_data_total_length + PIECE * len(connection.frame_data or ())
        waiting = len(connection.pace) + sum(map(len, connection.party.held))
        yield len(connection.data) + part + waiting + buffered(connection.transport), self

    def free(self, _holding: Any) -> None:
        """Drop the connection."""
        self._connection.abort()

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """Do nothing: there are no windows, and ``--max-per-address`` bounds the connections."""

    def measure_growth(self) -> int:
        """Return 0: there are no windows."""
        return 0
