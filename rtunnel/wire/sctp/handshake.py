"""How an association begins: INIT, INIT ACK, COOKIE ECHO, COOKIE ACK (RFC 9260, section 5).

    CLOSED --start--> COOKIE_WAIT --INIT ACK--> COOKIE_ECHOED --COOKIE ACK--> ESTABLISHED
       \\____________________\\______________________\\_________COOKIE ECHO________/

Most stacks start from both ends at once, which section 5.2 allows: whoever gets an INIT answers it, whatever it has
sent itself. An INIT costs this end nothing but its answer: what it said travels in the cookie, with a seal that only
this end can make.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import Enum, auto
from struct import Struct

from rtunnel.wire.sctp.chunks import COOKIE_ECHO, INIT, INIT_ACK, Init, ProtocolError
from rtunnel.wire.sctp.codec import OUR_EXTENSIONS, chunk, decode_init, encode_init

#: Seconds after which a packet of the handshake is sent again; each time twice as long, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.5, 3.0
#: How many seconds a cookie is good for (RFC 9260, section 16: Valid.Cookie.Life).
COOKIE_LIFE = 60.0
#: The longest INIT that is answered, in bytes. Those of browsers have about 100.
MAX_INIT = 1024

_TIME = Struct("!d")
_SEAL = 16


class Stage(Enum):
    """How far the handshake has come."""

    CLOSED = auto()
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()


class Handshake:
    """The handshake of one association.

    :param window: our receive window, in bytes.
    :param streams: how many streams we take, and would send on.
    :param entropy: returns as many random bytes as it is asked for.
    :ivar stage: how far it has come.
    :ivar ours: what we say.
    :ivar peer: what the peer said; None before that is known.
    :ivar next_time: when :meth:`take` has something; None: not by itself.
    """

    def __init__(self, window: int, streams: int, entropy: Callable[[int], bytes]) -> None:
        numbers = entropy(8)
        tag = int.from_bytes(numbers[:4], "big") or 1
        tsn = int.from_bytes(numbers[4:], "big")
        self.ours = Init(
            tag, window, streams, streams, tsn, b"", frozenset(OUR_EXTENSIONS), forward_tsn=True, zero_checksum=True
        )
        self.stage = Stage.CLOSED
        self.peer: Init | None = None
        self.next_time: float | None = None
        self._secret = entropy(32)
        self._wait = FIRST_WAIT
        self._echo = b""

    def start(self, now: float) -> None:
        """Begin, unless the peer has."""
        if self.stage is Stage.CLOSED:
            self._enter(Stage.COOKIE_WAIT, now)

    def take(self, now: float) -> tuple[int, bytes] | None:
        """Return the tag of the packet to send now, and its chunk, if one is due."""
        if self.next_time is None or now < self.next_time:
            return None
        self.next_time = now + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        if self.stage is Stage.COOKIE_WAIT:
            return 0, encode_init(INIT, self.ours)
        assert self.peer is not None
        return self.peer.tag, self._echo

    def answer(self, body: bytes, now: float) -> tuple[int, bytes] | None:
        """Return the tag to which an INIT wants its INIT ACK, and that chunk; None if it is not answered.

        :raises ProtocolError: it is malformed.
        """
        if len(body) > MAX_INIT:
            return None
        peer = decode_init(body)
        stamped = _TIME.pack(now) + body
        ours = self.ours
        answer = Init(
            ours.tag,
            ours.window,
            ours.outbound,
            ours.inbound,
            ours.tsn,
            self._seal(stamped) + stamped,
            ours.extensions,
            ours.forward_tsn,
            ours.zero_checksum,
            peer.unknown,
        )
        return peer.tag, encode_init(INIT_ACK, answer)

    def acknowledged(self, body: bytes, now: float) -> None:
        """Take an INIT ACK.

        :raises ProtocolError: it is malformed.
        """
        if self.stage is not Stage.COOKIE_WAIT:
            return
        peer = decode_init(body)
        if not peer.cookie:
            raise ProtocolError("an INIT ACK without a cookie")
        self.peer = peer
        self._echo = chunk(COOKIE_ECHO, peer.cookie)
        self._enter(Stage.COOKIE_ECHOED, now)

    def echoed(self, cookie: bytes, now: float) -> bool:
        """Take a COOKIE ECHO. Return whether it wants its COOKIE ACK; then the association is established."""
        seal, stamped = cookie[:_SEAL], cookie[_SEAL:]
        if len(stamped) < _TIME.size or not hmac.compare_digest(seal, self._seal(stamped)):
            return False
        peer = decode_init(stamped[_TIME.size :])
        if self.stage is Stage.ESTABLISHED:
            # Our COOKIE ACK was lost, or this is a copy. Data channels know no restart: DTLS would begin anew too.
            return self.peer is not None and peer.tag == self.peer.tag
        if now - _TIME.unpack_from(stamped)[0] > COOKIE_LIFE:
            return False
        self.peer = peer
        self._establish()
        return True

    def completed(self) -> None:
        """Take a COOKIE ACK."""
        if self.stage is Stage.COOKIE_ECHOED:
            self._establish()

    def _enter(self, stage: Stage, now: float) -> None:
        self.stage = stage
        self.next_time, self._wait = now, FIRST_WAIT

    def _establish(self) -> None:
        self.stage = Stage.ESTABLISHED
        self.next_time = None
        self._echo = b""

    def _seal(self, stamped: bytes) -> bytes:
        return hmac.digest(self._secret, stamped, "sha256")[:_SEAL]
