"""How much may be in flight: CUBIC (RFC 9438) with HyStart++ (RFC 9406), and a window that is used (RFC 7661).

A window that does not limit what is sent proves nothing, so it does not grow. What is in flight when packets are lost
is no measure either of a sender that paused, so the window shrinks from the most that was in flight lately.
"""

from __future__ import annotations

from math import inf

#: The windows of RFC 9438: growth in segments a second cubed, and what remains of the window after a loss.
CUBIC_C, CUBIC_BETA = 0.4, 0.7
#: Growth in segments a round trip that, with :data:`CUBIC_BETA`, gets what Reno gets (section 4.3).
RENO_ALPHA = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)
#: The initial window (RFC 6928): so many segments, if they are not larger than so many bytes together.
INITIAL_SEGMENTS, INITIAL_BYTES = 10, 14_600
#: After so many seconds in which the window did not limit anything, it is halved (RFC 7661, section 4.4).
UNUSED_FOR = 300.0

# HyStart++ (RFC 9406, section 4.3).
_FEWEST_SAMPLES = 8
_LEAST_RISE, _MOST_RISE = 0.004, 0.016
# The RFC has 8. But a paced round begins with an empty queue, which hides the rise for one more round: with 16, slow
# start loses half as many packets at a queue of one bandwidth-delay product, and fills the path as soon.
_RISE_DIVISOR = 16
_GROWTH_DIVISOR = 4
_CAUTIOUS_ROUNDS = 5

#: Shorter round trips, in seconds, are not paced: timers of an event loop cannot tell them.
UNPACED_BELOW = 0.002
_SLOW_START_PACE, _AVOIDANCE_PACE = 2.0, 1.25


class Congestion:
    """The congestion window of one path.

    Packets are numbered in the order of their sending, with numbers that only grow.

    :param segment: the payload of a full packet, in bytes.
    :ivar segment: the same; it may be set when the path MTU becomes another.
    :ivar window: how many bytes may be in flight.
    :ivar threshold: below this window there is slow start.
    """

    __slots__ = (
        "_cautious_round",
        "_cautious_trip",
        "_curve_rate",
        "_fraction",
        "_has_timed_out",
        "_limited_at",
        "_most_in_flight",
        "_most_in_last_round",
        "_pause_began",
        "_reno",
        "_round_ends",
        "_round_trip",
        "_round_trip_before",
        "_samples",
        "_stage_began",
        "_time_to_plateau",
        "_window_before",
        "_window_plateau",
        "segment",
        "threshold",
        "window",
    )

    def __init__(self, segment: int) -> None:
        self.segment = segment
        self.window = min(INITIAL_SEGMENTS * segment, max(2 * segment, INITIAL_BYTES))
        self.threshold: float = inf
        # The round trip under way: the number of its last packet, what was in flight in it and in the one before.
        self._round_ends = -1
        self._most_in_flight = self._most_in_last_round = 0
        # HyStart++: the shortest round trips, how many were measured, and the cautious part of slow start.
        self._round_trip = self._round_trip_before = inf
        self._samples = 0
        self._cautious_round = 0
        self._cautious_trip = inf
        # CUBIC: W_max, cwnd_prior, W_est, t_epoch and K of the RFC, in bytes and seconds.
        self._window_plateau = 0.0
        self._window_before = 0.0
        self._reno = 0.0
        self._stage_began: float | None = None
        self._time_to_plateau = 0.0
        self._curve_rate = 0.0
        # Growth that is not a whole byte yet.
        self._fraction = 0.0
        # When the window last limited what was sent, and since when it has not.
        self._limited_at = inf
        self._pause_began: float | None = None
        self._has_timed_out = False

    def acked(
        self,
        count: int,
        in_flight: int,
        acked_to: int,
        sent_to: int,
        round_trip: float | None,
        smoothed: float,
        limited: bool,
        now: float,
    ) -> None:
        """Take an acknowledgement of what was not acknowledged before.

        Do not call this in fast recovery: until all is acknowledged that was in flight at :meth:`congested`. After
        :meth:`timed_out` there is no such time.

        :param count: how many bytes.
        :param in_flight: how many were in flight before it.
        :param acked_to: the highest number of a packet acknowledged by now.
        :param sent_to: the number of the packet sent last.
        :param round_trip: that of the newest packet, in seconds; None if it was sent twice.
        :param smoothed: the smoothed round trip.
        :param limited: whether the window, or pacing, kept data from being sent since the last acknowledgement.
        """
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        self._has_timed_out = False
        window = self.window
        in_slow_start = window < self.threshold
        if in_slow_start and self.threshold == inf:
            self._listen(round_trip)
        if acked_to >= self._round_ends:
            self._next_round(sent_to)
        # Whoever uses less than half of the window is held back by pacing at most (RFC 7661, section 4.3). In slow
        # start half of it is enough, as the window has just doubled (RFC 9438, section 5.8).
        is_used = 2 * max(in_flight, self._most_in_last_round) >= window
        if not (is_used and (limited or in_slow_start)):
            self._unused(now)
            return
        self._limited_at = now
        if window < self.threshold:
            self.window = window + (count // _GROWTH_DIVISOR if self._cautious_round else count)
            return
        self._avoid(count, smoothed, now)

    def _next_round(self, sent_to: int) -> None:
        self._round_ends = sent_to
        self._most_in_last_round, self._most_in_flight = self._most_in_flight, 0
        self._round_trip_before, self._round_trip = self._round_trip, inf
        if self._cautious_round:
            self._cautious_round += 1
            if self._cautious_round > _CAUTIOUS_ROUNDS:
                self._leave_slow_start()
        self._samples = 0

    def _listen(self, round_trip: float | None) -> None:
        """Take the round trips of slow start: do they grow (RFC 9406, section 4.2)?"""
        if round_trip is None:
            return
        self._samples += 1
        shortest = self._round_trip = min(self._round_trip, round_trip)
        if self._samples < _FEWEST_SAMPLES:
            return
        if self._cautious_round:
            if shortest < self._cautious_trip:
                self._cautious_round = 0
        elif self._round_trip_before < inf:
            before = self._round_trip_before
            if shortest >= before + min(max(before / _RISE_DIVISOR, _LEAST_RISE), _MOST_RISE):
                self._cautious_trip = shortest
                self._cautious_round = 1

    def _leave_slow_start(self) -> None:
        self._cautious_round = 0
        self.threshold = self._window_before = self._window_plateau = float(self.window)
        self._stage_began = None

    def _unused(self, now: float) -> None:
        """Note that the window limits nothing: CUBIC's time stands still, and a window unused for long is halved."""
        if self._pause_began is None:
            self._pause_began = now
        if self._limited_at > now:
            self._limited_at = now
        elif now - self._limited_at > UNUSED_FOR:
            self._limited_at = now
            self.threshold = max(self.threshold, 0.75 * self.window)
            self.window = max(self.window // 2, min(self.window, INITIAL_BYTES))
            self._stage_began = None

    def _avoid(self, count: int, smoothed: float, now: float) -> None:
        """Grow in congestion avoidance (RFC 9438, sections 4.2 to 4.5)."""
        window = self.window
        began = self._stage_began
        if began is None:
            self._begin_stage(now)
            began = now
        elif self._pause_began is not None:
            self._stage_began = began = began + now - self._pause_began
        self._pause_began = None
        elapsed = now - began - self._time_to_plateau
        ahead = elapsed + smoothed
        target = self._window_plateau + self._curve_rate * ahead * ahead * ahead
        alpha = RENO_ALPHA if self._reno < self._window_before else 1.0
        self._reno += alpha * count * min(self.segment / window, 1.0)
        if self._reno > window and self._reno > self._window_plateau + self._curve_rate * elapsed * elapsed * elapsed:
            self.window = int(self._reno)
        elif target > window:
            grown = self._fraction + count * (min(target, 1.5 * window) - window) / window
            whole = int(grown)
            self.window = window + whole
            self._fraction = grown - whole

    def _begin_stage(self, now: float) -> None:
        """Begin a stage of congestion avoidance at the present window."""
        window = self.window
        self._stage_began = now
        self._reno = float(window)
        self._fraction = 0.0
        self._curve_rate = CUBIC_C * self.segment
        if self._window_plateau > window:
            self._time_to_plateau = ((self._window_plateau - window) / self._curve_rate) ** (1 / 3)
        else:
            self._window_plateau = float(window)
            self._time_to_plateau = 0.0

    def congested(self, in_flight: int, now: float) -> None:
        """Shrink the window after a loss. Call it once for all losses of what was in flight at one time.

        :param in_flight: bytes in flight before the loss was known, lost ones included.
        """
        self._shrink(in_flight)
        self.window = int(self.threshold)

    def timed_out(self, in_flight: int, now: float) -> None:
        """Begin anew with one segment: nothing was acknowledged within the retransmission time-out.

        :param in_flight: bytes in flight before.
        """
        if not self._has_timed_out:
            self._shrink(in_flight)
        self._has_timed_out = True
        # Growth begins at the window at which slow start will have ended (RFC 9438, section 4.8).
        self._window_plateau = 0.0
        self.window = self.segment

    def _shrink(self, in_flight: int) -> None:
        window = self.window
        used = min(window, max(in_flight, self._most_in_flight, self._most_in_last_round))
        # Fast convergence (RFC 9438, section 4.7): one that has less than before leaves more to others.
        self._window_plateau = used * (1 + CUBIC_BETA) / 2 if used < self._window_plateau else float(used)
        self._window_before = float(window)
        self.threshold = float(max(int(used * CUBIC_BETA), 2 * self.segment))
        self._cautious_round = 0
        self._stage_began = self._pause_began = None

    def limit(self, window: int, threshold: int | None = None) -> None:
        """Make the window smaller though nothing was lost.

        :param threshold: below which it may double again every round trip; None: *window*.
        """
        if window < self.window:
            self.window = window
            self.threshold = float(window if threshold is None else threshold)
            self._window_plateau = self._window_before = self.threshold
            self._cautious_round = 0
            self._stage_began = None

    def pacing_rate(self, smoothed: float) -> float:
        """Return how many bytes to send in a second; infinity if nothing has to be spread.

        It is more than a window in a round trip, so that pacing does not become what limits the window.

        :param smoothed: the smoothed round trip in seconds; 0.0 if unknown.
        """
        if smoothed < UNPACED_BELOW:
            return inf
        return (_SLOW_START_PACE if self.window < self.threshold else _AVOIDANCE_PACE) * self.window / smoothed
