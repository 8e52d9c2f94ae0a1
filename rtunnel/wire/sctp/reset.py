"""Streams that begin anew: RE-CONFIG chunks with requests to reset outgoing streams, and their answers (RFC 6525).

That is how a data channel is closed (RFC 8831, section 6.7): each end resets its outgoing stream. Nothing else of RFC
6525 is used with data channels; such requests are denied.

One request of ours is under way at a time. Some peers (Pion) have several under way, which then come out of order; so
the answers to the last few are remembered. A request that is ahead of its turn is not answered: it will be repeated.
Others (Chromium before 2025) repeat a request that waits under a new number; it must not reset a stream twice, as that
may carry the next channel by then.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import filterfalse, islice
from struct import Struct

from rtunnel.wire.sctp.chunks import ProtocolError
from rtunnel.wire.sctp.codec import PARAMETER, parameters_of
from rtunnel.wire.sctp.serial import unwrap

# The types of parameters (section 4).
OUTGOING_RESET, INCOMING_RESET, ASSOCIATION_RESET, RESPONSE, ADD_OUTGOING, ADD_INCOMING = range(13, 19)
# Results (section 4.4).
NOTHING_TO_DO, PERFORMED, DENIED, WRONG_STREAM, ALREADY_IN_PROGRESS, BAD_NUMBER, IN_PROGRESS = range(7)

#: How many streams one request of ours names.
MAX_STREAMS = 256
#: How many parameters a chunk has at most (section 3.1).
MAX_PARAMETERS = 2
#: How many answers are remembered, and how many requests of the peer may wait for data.
MAX_REMEMBERED = 64
MAX_DEFERRED = 16
#: How many answers wait to be sent. Beyond that the oldest are left out: the peer repeats its request.
MAX_ANSWERS = 4
#: The longest time between two copies of a request, in seconds: that of data, after which ICE has moved the path.
MAX_INTERVAL = 3.0

_OUTGOING = Struct("!III")
_RESPONSE = Struct("!II")
_NUMBER = Struct("!I")
_STREAM = Struct("!H")
_MASK = 0xFFFFFFFF
_FEWEST = {OUTGOING_RESET: 12, INCOMING_RESET: 4, ASSOCIATION_RESET: 4, RESPONSE: 8, ADD_OUTGOING: 8, ADD_INCOMING: 8}


class Resets:
    """The resets of streams of one association.

    :param first_tsn: our initial TSN, which is the number of our first request as well.
    :param peer_first_tsn: the peer's.
    :param streams: how many incoming streams there are.
    :ivar by_peer: streams that the peer has reset, all of whose data is here; the caller takes and clears it.
    :ivar all_by_peer: whether these were all streams; the caller clears it.
    :ivar confirmed: outgoing streams whose next number is 0 again; see :meth:`take_done`.
    :ivar refused: streams that the peer will not reset; see :meth:`take_done`.
    :ivar waiting: outgoing streams that are to be reset, and are in no request yet.
    :ivar deferred_to: the TSN up to which data must come before :meth:`arrived` does anything; None: there is nothing.
    :ivar next_time: when to call :meth:`take` for a copy of a request; None if none is under way.
    """

    __slots__ = (
        "_answers",
        "_deferred",
        "_interval",
        "_last_tsn",
        "_number",
        "_peer_number",
        "_put_off",
        "_remembered",
        "_requested",
        "_streams",
        "all_by_peer",
        "by_peer",
        "confirmed",
        "deferred_to",
        "next_time",
        "refused",
        "waiting",
    )

    def __init__(self, first_tsn: int, peer_first_tsn: int, streams: int) -> None:
        self._streams = streams
        self.by_peer: list[int] = []
        self.all_by_peer = False
        self.confirmed: list[int] = []
        self.refused: list[int] = []
        # A dict keeps the order, and finds a stream quickly.
        self.waiting: dict[int, None] = {}
        self.deferred_to: int | None = None
        self.next_time: float | None = None
        # Ours: the request under way, and the number of that or the next.
        self._number = first_tsn
        self._requested: list[int] = []
        self._last_tsn = 0
        self._interval = 0.0
        # The peer's: the number of the next request, results of those before, what waits for data (and what the last
        # of them named, if it had to wait), answers to send.
        self._peer_number = peer_first_tsn
        self._remembered: dict[int, int] = {}
        self._deferred: dict[int, tuple[int, bytes]] = {}
        self._put_off: bytes | None = None
        self._answers: dict[int, int] = {}

    # Ours

    def request(self, stream: int) -> None:
        """Reset an outgoing stream as soon as nothing waits on it."""
        if stream not in self._requested:
            self.waiting[stream] = None

    def take(self, is_busy: Callable[[int], bool], last_tsn: int, timeout: float, now: float) -> list[bytes]:
        """Return the values of the RE-CONFIG chunks to send now.

        :param is_busy: tells streams on which something waits, or is not cumulatively acknowledged: they are not reset
            yet, though RFC 6525 allows it, because some peers (werift) would drop what is under way. It is asked only
            if no request is under way.
        :param last_tsn: the TSN that the peer has to have before the reset: the one that is cumulatively acknowledged.
            RFC 6525 has the last one assigned here; but nothing of these streams lies between, and some peers (Chromium
            before 2025) repeat for ever that they put such a request off.
        :param timeout: the retransmission time-out, in seconds.
        """
        bodies = [_parameter(RESPONSE, _RESPONSE.pack(each & _MASK, self._answers[each])) for each in self._answers]
        self._answers.clear()
        if self._requested:
            if self.next_time is not None and now >= self.next_time:
                self._interval = min(max(2 * self._interval, timeout), MAX_INTERVAL)
                bodies.append(self._encode(now))
        elif self.waiting:
            self._requested = list(islice(filterfalse(is_busy, self.waiting), MAX_STREAMS))
            if self._requested:
                for stream in self._requested:
                    del self.waiting[stream]
                self._last_tsn = last_tsn
                self._interval = timeout
                bodies.append(self._encode(now))
        return bodies

    def _encode(self, now: float) -> bytes:
        self.next_time = now + self._interval
        head = _OUTGOING.pack(self._number & _MASK, (self._peer_number - 1) & _MASK, self._last_tsn & _MASK)
        return _parameter(OUTGOING_RESET, head + b"".join(map(_STREAM.pack, self._requested)))

    def confirm(self, stream: int) -> None:
        """Note that the peer opened a channel on *stream*: if we asked for its reset, the answer was lost."""
        if stream in self._requested:
            self._finish(self.confirmed)

    def take_done(self) -> tuple[list[int], list[int]]:
        """Return :attr:`confirmed` and :attr:`refused`, and clear both."""
        confirmed, refused = self.confirmed, self.refused
        self.confirmed, self.refused = [], []
        return confirmed, refused

    def _finish(self, ended: list[int]) -> None:
        ended += self._requested
        self._requested = []
        self._number += 1
        self.next_time = None

    def _answered(self, number: int, result: int) -> None:
        if not self._requested or number != self._number:
            return
        if result in (NOTHING_TO_DO, PERFORMED):
            self._finish(self.confirmed)
        elif result in (IN_PROGRESS, ALREADY_IN_PROGRESS):
            # It is repeated after a time-out. The peer is there, so nothing is backed off.
            self._interval = 0.0
        else:
            self._finish(self.refused)

    # The peer's

    def receive(self, body: bytes, cumulative: int) -> None:
        """Take the value of a RE-CONFIG chunk.

        :param cumulative: the TSN up to which everything was received.
        :raises ProtocolError: it is malformed.
        """
        for count, (kind, content) in enumerate(parameters_of(body)):
            if count == MAX_PARAMETERS:
                break
            fewest = _FEWEST.get(kind)
            if fewest is None:
                continue
            if len(content) < fewest:
                raise ProtocolError("a parameter of RE-CONFIG that is too short")
            if kind == RESPONSE:
                number, result = _RESPONSE.unpack_from(content)
                self._answered(unwrap(number, self._number), result)
            else:
                self._asked(kind, content, cumulative)

    def arrived(self, cumulative: int) -> None:
        """Perform what waited for data. Call it when *cumulative* has reached :attr:`deferred_to`."""
        for number, (last_tsn, streams) in list(self._deferred.items()):
            if last_tsn <= cumulative:
                del self._deferred[number]
                self._perform(streams)
                self._answer(number, PERFORMED)
        self._defer()

    def _asked(self, kind: int, content: bytes, cumulative: int) -> None:
        """Take a request of the peer."""
        number = unwrap(_NUMBER.unpack_from(content)[0], self._peer_number)
        if number == self._peer_number:
            put_off, self._put_off = self._put_off, None
            result = self._reset(number, content, put_off, cumulative) if kind == OUTGOING_RESET else DENIED
            if result is not None:
                self._peer_number = number + 1
                self._answer(number, result)
        elif number in self._remembered:
            # A copy is answered as it was. One that is ahead, or far behind, is not answered at all.
            self._answer(number, self._remembered[number])

    def _reset(self, number: int, content: bytes, put_off: bytes | None, cumulative: int) -> int | None:
        """Reset the peer's streams, now or later.

        :param put_off: what the request before named, if it had to wait for data.
        :return: the result; None to wait for a copy of the request.
        """
        if len(content) % 2:
            raise ProtocolError("a request to reset half a stream")
        what, streams = content[8:], content[12:]
        if what == put_off:
            # The same under a new number.
            self._put_off = what
            if number - 1 in self._deferred:
                self._deferred[number] = self._deferred.pop(number - 1)
            return self._remembered[number - 1]
        if any(stream >= self._streams for (stream,) in _STREAM.iter_unpack(streams)):
            return WRONG_STREAM
        last_tsn = unwrap(_OUTGOING.unpack_from(content)[2], cumulative)
        if last_tsn > cumulative and len(self._deferred) >= MAX_DEFERRED:
            return None
        if last_tsn <= cumulative:
            self._perform(streams)
            return PERFORMED
        self._put_off = what
        self._deferred[number] = last_tsn, streams
        self._defer()
        return IN_PROGRESS

    def _perform(self, streams: bytes) -> None:
        if streams:
            self.by_peer += dict.fromkeys(stream for (stream,) in _STREAM.iter_unpack(streams))
        else:
            self.all_by_peer = True

    def _defer(self) -> None:
        self.deferred_to = min((last_tsn for last_tsn, _ in self._deferred.values()), default=None)

    def _answer(self, number: int, result: int) -> None:
        for answers, most in (self._remembered, MAX_REMEMBERED), (self._answers, MAX_ANSWERS):
            answers[number] = result
            if len(answers) > most:
                del answers[next(iter(answers))]


def _parameter(kind: int, content: bytes) -> bytes:
    """Return the last parameter of a chunk, whose padding is the chunk's."""
    return PARAMETER.pack(kind, 4 + len(content)) + content
