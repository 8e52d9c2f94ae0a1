"""One end of the UDP path of a link: what is sent, to which address, and whether it gets through.

The I/O hands in packets and the time, sends what :meth:`Path.take` returns, and calls :meth:`Path.tick` regularly.
Nothing that a peer or a stranger sends makes a method raise.

    waiting -- a packet of the other end; at the server, its address has answered a challenge --> open
     ^                                                                                            |
     +------------------------------ several probes got no answer --------------------------------+

The client speaks first. The server sends nothing but a challenge to an address that has not answered one, and no more
than three times as many bytes as came from there (compare RFC 9000, section 8).
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from typing import Generic, TypeVar

from rtunnel.wire.datagrams.messages import (
    CHALLENGE,
    DATAGRAM,
    NUMBER,
    PIECE,
    PROBE,
    RESPONSE,
    SEEN,
    decode_number,
    encode_number,
)
from rtunnel.wire.datagrams.packets import OVERHEAD, Opener, Sealer
from rtunnel.wire.datagrams.path_mtu import BASE, PathMtu
from rtunnel.wire.datagrams.pieces import Assembler, cut

AddressT = TypeVar("AddressT", bound=Hashable)

#: Seconds of silence after which a client sends a probe, so that the NATs in between keep their mapping. Many forget a
#: UDP mapping after 30 s.
KEEPALIVE = 15.0
#: Seconds without an answer to what was sent after which an open path is probed, and seconds between two such probes.
ANSWER_WITHIN, PROBE_EVERY = 1.0, 0.5
#: So many of them without an answer, and the path counts as closed.
MOST_UNANSWERED = 6
#: Seconds between two probes of a path that is not open: at first, and at most.
RETRY, MOST_RETRY = 0.25, 30.0
#: Seconds between two challenges of an address.
CHALLENGE_EVERY = 0.25
#: How many bytes may go to an address that has not answered a challenge, for each byte that came from there.
AMPLIFICATION = 3

_CHALLENGE_SIZE = 1 + 8
#: How many probes of sizes are remembered.
_MOST_PROBES = 64


class Path(Generic[AddressT]):
    """One end.

    :param sealer: of what this end sends.
    :param opener: of what comes.
    :param is_server: which end this is.
    :param address: at the client, where the server is. The server learns where the client is.
    :ivar address: where packets go; None until that is known.
    :ivar is_open: whether packets get through, as far as this end knows.
    :ivar mtu: how large packets may be.
    :ivar lost: how many messages could not be sent.
    :ivar refused: how many packets were no good.
    """

    __slots__ = (
        "_assembler",
        "_awaiting_since",
        "_candidate",
        "_challenge",
        "_challenged_at",
        "_credit",
        "_heard_at",
        "_is_server",
        "_opener",
        "_out",
        "_piece_id",
        "_probe_at",
        "_probe_number",
        "_probes",
        "_retry",
        "_sealer",
        "_unanswered",
        "address",
        "is_open",
        "lost",
        "mtu",
        "refused",
    )

    def __init__(
        self, sealer: Sealer, opener: Opener, now: float, *, is_server: bool, address: AddressT | None = None
    ) -> None:
        self._sealer = sealer
        self._opener = opener
        self._is_server = is_server
        self.address = address
        self.is_open = False
        self.mtu = PathMtu(now)
        self.lost = self.refused = 0
        self._out: list[tuple[bytes, AddressT]] = []
        self._assembler = Assembler()
        self._piece_id = 0
        # Probes of sizes that have no answer yet, by number.
        self._probes: dict[int, int] = {}
        self._probe_number = 0
        self._probe_at = now
        self._retry = RETRY
        self._heard_at = now
        # Since when something that was sent waits for a sign of the other end, and how many probes it was asked by.
        self._awaiting_since: float | None = None
        self._unanswered = 0
        # An address that a packet has come from, and that has not answered a challenge; see AMPLIFICATION.
        self._candidate: AddressT | None = None
        self._credit = 0
        self._challenge = b""
        self._challenged_at = 0.0

    @property
    def held(self) -> int:
        """How many bytes of pieces are kept."""
        return self._assembler.held

    def drop_pieces(self) -> None:
        """Forget what is kept, as its memory is needed."""
        self._assembler = Assembler()

    # Out

    def take(self) -> list[tuple[bytes, AddressT]]:
        """Return the packets that are to be sent, each with its address, and forget them."""
        out = self._out
        if out:
            self._out = []
        return out

    def send(self, message: bytes, now: float) -> None:
        """Send a message about a flow, in pieces if need be. The path must be open.

        :param now: the time, in seconds.
        """
        if self._awaiting_since is None:
            self._awaiting_since = now
        most = self.mtu.size - OVERHEAD
        if len(message) <= most:
            self._send(message)
            return
        self._piece_id = (self._piece_id + 1) % 2**32
        try:
            pieces = cut(message, most, self._piece_id)
        except ValueError:
            self.lost += 1
            return
        for piece in pieces:
            self._send(piece)

    def _send(self, message: bytes) -> None:
        if self.address is not None:
            self._out.append((self._sealer.seal(message), self.address))

    def _send_probe(self, size: int) -> None:
        """Send a probe in a packet of *size* bytes."""
        self._probe_number = (self._probe_number + 1) % 2**32
        self._probes[self._probe_number] = size
        if len(self._probes) > _MOST_PROBES:
            del self._probes[next(iter(self._probes))]
        self._send(encode_number(PROBE, self._probe_number, bytes(size - OVERHEAD - NUMBER.size)))

    def too_large(self, size: int, now: float) -> None:
        """Take note that the system does not send packets of *size* bytes."""
        self.mtu.refused(size, now)

    # In

    def receive(self, packet: bytes | memoryview, source: AddressT, now: float) -> bytes | None:
        """Take a packet that has the id of this path. Return a message about a flow, if it completes one.

        :param source: where it came from.
        :param now: the time, in seconds.
        """
        try:
            message = self._opener.open(packet, now)
            if source != self.address:
                self._moved(source, len(packet), now)
            self._heard(now)
            kind = message[0]
            if kind >= DATAGRAM:
                return message
            return self._take(kind, message, source, now)
        except ValueError:
            self.refused += 1
            return None

    def _heard(self, now: float) -> None:
        self._heard_at = now
        self._awaiting_since = None
        self._unanswered = 0
        if not self.is_open and self.address is not None:
            self.is_open = True
            self._retry = RETRY
            self._probe_at = now
            self.mtu.reset(now)

    def _take(self, kind: int, message: bytes, source: AddressT, now: float) -> bytes | None:
        """Take a message about the path itself.

        :raises ValueError: it is malformed.
        """
        if kind == PROBE:
            self._answer(encode_number(SEEN, decode_number(message)), source)
        elif kind == SEEN:
            size = self._probes.pop(decode_number(message), None)
            if size is not None:
                self.mtu.got_through(size, now)
        elif kind == PIECE:
            whole = self._assembler.add(message, now)
            if whole is not None and whole[0] >= DATAGRAM:
                return whole
        elif kind == CHALLENGE and not self._is_server and len(message) == _CHALLENGE_SIZE:
            self._send(bytes((RESPONSE,)) + message[1:])
        elif kind == RESPONSE and source == self._candidate and message[1:] == self._challenge:
            self.address, self._candidate = source, None
            self.is_open = False
            self._heard(now)
        return None

    def _answer(self, message: bytes, source: AddressT) -> None:
        if source == self.address:
            self._send(message)
        elif source == self._candidate and self._credit >= len(message) + OVERHEAD:
            self._credit -= len(message) + OVERHEAD
            self._out.append((self._sealer.seal(message), source))

    # The address of the other end

    def _moved(self, source: AddressT, size: int, now: float) -> None:
        """Challenge an address that the newest packet has come from."""
        if not self._is_server:
            raise ValueError("a packet from another address than the server's")
        if source != self._candidate:
            if not self._opener.is_newest:
                return
            self._candidate = source
            self._credit = 0
            self._challenge = secrets.token_bytes(_CHALLENGE_SIZE - 1)
            self._challenged_at = now - CHALLENGE_EVERY
        self._credit += AMPLIFICATION * size
        if now - self._challenged_at >= CHALLENGE_EVERY and self._credit >= _CHALLENGE_SIZE + OVERHEAD:
            self._challenged_at = now
            self._answer(bytes((CHALLENGE,)) + self._challenge, source)

    # Time

    def tick(self, now: float) -> None:
        """Do what is due. Call this about four times a second, and once at the beginning.

        :param now: the time, in seconds.
        """
        self._opener.tick(now)
        self._assembler.tick(now)
        if not self.is_open:
            if not self._is_server and now >= self._probe_at:
                # As large as it may be without asking, so that the server may answer what it likes.
                self._send_probe(BASE)
                self._probe_at = now + self._retry
                self._retry = min(2 * self._retry, MOST_RETRY)
            return
        for size in self.mtu.due(now):
            self._send_probe(size)
        silence = now - self._heard_at
        awaiting = self._awaiting_since is not None and now - self._awaiting_since >= ANSWER_WITHIN
        if (awaiting or (not self._is_server and silence >= KEEPALIVE)) and now >= self._probe_at:
            if self._unanswered >= MOST_UNANSWERED:
                self.is_open = False
                self._unanswered = 0
                self._probe_at = now
                self._awaiting_since = None
                return
            self._unanswered += 1
            self._probe_at = now + PROBE_EVERY
            self._send_probe(OVERHEAD + NUMBER.size)
