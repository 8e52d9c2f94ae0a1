"""One end of the UDP path of a link: what is sent, to which address, and whether it gets through.

The I/O hands in packets and the time, sends what :meth:`Path.take` returns, and calls :meth:`Path.tick` regularly.
Nothing that a peer or a stranger sends makes a method raise.

    waiting -- at the client, an answer to a probe; at the server, one to a challenge --> open
     ^                                                                                  |
     +------------------------- several probes got no answer ---------------------------+

The client speaks first. To an address that has not answered a challenge, the server sends only challenges and answers
to probes, and no more than three times as many bytes as came from there (compare RFC 9000, section 8). What an end
hears says nothing about what it sends. So only answers count, at both ends.
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

#: Seconds after an answer until a path that nobody uses is probed, so that the NATs in between keep their mapping. Many
#: forget a UDP mapping after 30 s.
KEEPALIVE = 15.0
#: Seconds after which an open path that is in use is probed, and seconds between two probes without an answer.
ANSWER_WITHIN, PROBE_EVERY = 1.0, 0.25
#: So many of them without an answer, for so many seconds, and the path counts as closed. (A process that was stopped
#: finds that seconds have passed.)
FEWEST_UNANSWERED, UNANSWERED_FOR = 4, 3.0
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
    :ivar refused: how many packets and messages were no good.
    """

    __slots__ = (
        "_asked_at",
        "_assembler",
        "_candidate",
        "_challenge",
        "_challenged_at",
        "_credit",
        "_is_server",
        "_opener",
        "_out",
        "_piece_id",
        "_probe_at",
        "_probe_number",
        "_probes",
        "_retry",
        "_sealer",
        "_sent_large",
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
        # How many probes in a row have had no answer, and when the first of them was sent.
        self._unanswered = 0
        self._asked_at = now
        # Whether a message has gone out that takes more than a packet of the smallest size.
        self._sent_large = False
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
        if self._probe_at > now + ANSWER_WITHIN:
            self._probe_at = now + ANSWER_WITHIN
        size = len(message)
        if size > BASE - OVERHEAD:
            self._sent_large = True
        most = self.mtu.size - OVERHEAD
        if size <= most:
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
        """Take a packet. Return a message about a flow, if it completes one.

        :param packet: any bytes.
        :param source: where they came from.
        :param now: the time, in seconds.
        """
        try:
            if not self._is_server and source != self.address:
                raise ValueError("a packet from another address than the server's")
            message = self._opener.open(packet, now)
            if source != self.address:
                self._moved(source, len(packet), now)
            kind = message[0]
            if kind >= DATAGRAM:
                return message
            return self._take(kind, message, source, now)
        except ValueError:
            self.refused += 1
            return None

    def _answered(self, now: float) -> None:
        """Take note that packets get through, both ways."""
        self._unanswered = 0
        self._probe_at = now + KEEPALIVE
        if not self.is_open:
            self.is_open = True
            self._retry = RETRY
            # Those that are out went another way.
            self._probes.clear()
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
                self._answered(now)
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
            self._answered(now)
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
        if source != self._candidate:
            if not self._opener.is_newest:
                return
            self._candidate = source
            self._credit = 0
            self._challenge = secrets.token_bytes(_CHALLENGE_SIZE - 1)
            self._challenged_at = now - CHALLENGE_EVERY
        self._credit += AMPLIFICATION * size
        self._challenge_again(source, now)

    def _challenge_again(self, source: AddressT, now: float) -> None:
        """Send a challenge, if it is time for one."""
        if now - self._challenged_at >= CHALLENGE_EVERY:
            self._challenged_at = now
            self._answer(bytes((CHALLENGE,)) + self._challenge, source)

    # Time

    def tick(self, now: float) -> None:
        """Do what is due. Call this about four times a second while the path is in use, else about once; and once at
        the beginning.

        :param now: the time, in seconds.
        """
        self._opener.tick(now)
        self._assembler.tick(now)
        if self._candidate is not None:
            self._challenge_again(self._candidate, now)
        if self.is_open:
            for size in self.mtu.due(now):
                self._send_probe(size)
            if now >= self._probe_at:
                self._ask(now)
        elif not self._is_server and now >= self._probe_at:
            # As large as it may be without asking, so that the server may answer what it likes.
            self._send_probe(BASE)
            self._probe_at = now + self._retry
            self._retry = min(2 * self._retry, MOST_RETRY)

    def _ask(self, now: float) -> None:
        """Ask whether packets get through, or close the path if none does."""
        if not self._unanswered:
            self._asked_at = now
            if self._sent_large:
                # Perhaps they are too large for the way, by now.
                self._sent_large = False
                self.mtu.doubt(now)
        elif self._unanswered >= FEWEST_UNANSWERED and now - self._asked_at >= UNANSWERED_FOR:
            self.is_open = False
            self._unanswered = 0
            self._probe_at = now
            self._probes.clear()
            if self._is_server:
                # Wherever the client speaks from next, it is to answer a challenge.
                self.address = None
            return
        self._unanswered += 1
        self._probe_at = now + PROBE_EVERY
        self._send_probe(OVERHEAD + NUMBER.size)
