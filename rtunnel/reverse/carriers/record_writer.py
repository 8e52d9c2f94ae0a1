"""The sending half of a data connection: records out.

A small record leaves in one ``send`` with its header. Plain bulk is spliced: the header, and then what is in the pipe.
"""

from __future__ import annotations

import socket
from typing import Any

from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.relay.polled_socket import PolledSocket, is_full
from rtunnel.wire.data.connection import DataConnection
from rtunnel.wire.data.records import DATA, HEADER, HEADER_SIZE, MAX_SEALED, buffer
from rtunnel.wire.data.seal import TAG, Seal

#: The most that is read from a local socket at a time, in bytes. Where more is waiting, plain bytes are spliced from
#: then on; sealed ones cost the less the longer their records are.
PLAIN_SIZE, SEALED_SIZE = 64 * 1024, MAX_SEALED - TAG
# One buffer serves all connections: the reactor runs one read at a time, and what stays is copied out. A header comes
# before the payload, and the sealed record has a buffer of its own.
_OUT = buffer(HEADER_SIZE + SEALED_SIZE)
_PAYLOAD = _OUT[HEADER_SIZE:]
_PLAIN_PAYLOAD = _PAYLOAD[:PLAIN_SIZE]
_SEALED = buffer(HEADER_SIZE + SEALED_SIZE + TAG)
#: Plain bytes up to this are joined with their header.
SMALL = 4 * 1024
#: What follows at once leaves in the same packet.
MORE = getattr(socket, "MSG_MORE", 0)


class RecordWriter(PolledSocket):
    """Sends the records of a data connection.

    :param state: the state machine.
    :param seal: of what this end sends; None: records are plain.
    :ivar payload: where a local socket reads what is to be sent.
    """

    __slots__ = ("_is_broken", "_seal", "payload", "state")

    def __init__(self, poller: Any, sock: socket.socket, state: DataConnection, seal: Seal | None) -> None:
        super().__init__(poller, sock)
        self.state = state
        self._seal = seal
        self.payload = _PLAIN_PAYLOAD if seal is None else _PAYLOAD
        self.may_splice = self.may_splice and seal is None
        # Writes fail; what has come before is still read.
        self._is_broken = False

    def send_data(self, count: int) -> bool:
        """Send the first *count* bytes of :attr:`payload` as a record."""
        state, seal = self.state, self._seal
        state.has_sent = True
        if seal is None:
            size = HEADER_SIZE + count
            HEADER.pack_into(_OUT, 0, DATA << 24 | count, state.number)
            record = _OUT[:size]
        else:
            size = HEADER_SIZE + count + TAG
            HEADER.pack_into(_SEALED, 0, DATA << 24 | count + TAG, state.number)
            seal.seal(_SEALED[:HEADER_SIZE], _PAYLOAD[:count], _SEALED[HEADER_SIZE:size])
            record = _SEALED[:size]
        if self._writing:
            self._append(record)
            return False
        try:
            sent = self.socket.send(record)
        except OSError as error:
            if not is_full(error):
                return self._break()
            sent = 0
        if sent == size:
            return True
        self._append(record[sent:])
        return False

    def send_pipe(self, pipe: Pipe) -> bool:
        """Send what is in *pipe* as a record."""
        self.state.has_sent = True
        header = HEADER.pack(DATA << 24 | pipe.count, self.state.number)
        sent = 0
        if not self._writing:
            try:
                sent = self.socket.send(header, MORE)
            except OSError as error:
                if not is_full(error):
                    PIPES.give_back(pipe)
                    return self._break()
        if sent < HEADER_SIZE:
            self._append(header[sent:])
        self._pipe = pipe
        if self._flush():
            return True
        self._watch_room(True)
        return False

    def write(self, data: bytes) -> bool:
        """Send *data*, of any length, as records. Return False if the source should pause."""
        count = len(data)
        if 0 < count <= SMALL and self._seal is None:
            # To copy it costs less than the shared buffer does.
            self._send(HEADER.pack(DATA << 24 | count, self.state.number) + data)
            return not self._writing
        if 0 < count <= len(self.payload):
            _PAYLOAD[:count] = data
            self.send_data(count)
            return not self._writing
        view = memoryview(data)
        for start in range(0, len(view), len(self.payload)):
            piece = view[start : start + len(self.payload)]
            _PAYLOAD[: len(piece)] = piece
            self.send_data(len(piece))
        return not self._writing

    def _send(self, record: bytes) -> None:
        """Send a record behind what waits."""
        if not record or self._number < 0 or self._is_broken:
            return
        self.state.has_sent = True
        sent = 0
        if not self._writing:
            try:
                sent = self.socket.send(record)
            except OSError as error:
                if not is_full(error):
                    self._break()
                    return
        if sent < len(record):
            self._append(record[sent:])

    def _break(self) -> bool:
        """Drop what waits and what will come. What the other end has sent before is still read to its end or error.

        Return True: the local side may go on.
        """
        self._is_broken = True
        self._drop()
        return True

    def _write_failed(self, error: OSError) -> None:
        self._break()
