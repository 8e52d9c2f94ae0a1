"""A stream to a service that carries requests, and whose bytes are measured.

What has to wait for its turn is kept here, undelivered, so that no more of it comes than a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from rtunnel.errors import Code
from rtunnel.reverse.metering.meter import Budget, Meter
from rtunnel.reverse.web.upstream import IExchange, Upstream


class MeteredUpstream(Upstream):
    """See :class:`Upstream`.

    :ivar budget: of the tunnel. A visitor is known by his connection.
    """

    def __init__(self, budget: Budget, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.budget = budget
        self._meter: Meter | None = None
        self._is_finishing = False
        # Towards the service, and from it.
        self._unsent: deque[bytes] = deque()
        self._untaken: deque[Callable[[], None]] = deque()

    def begin(self, exchange: IExchange, head: bytes, *, is_head: bool, is_all: bool = False) -> None:
        """See :class:`Upstream`."""
        self._meter = meter = self.budget.meter(exchange.visitor)
        meter.attach(self._go_up, self._go_down, partial(self._end, Code.LIMIT, "the quota is used up"))
        meter.up.may_pass()
        meter.down.may_pass()
        if meter.up.is_waiting:
            exchange.upstream_is_full(True)
        super().begin(exchange, head, is_head=is_head, is_all=is_all)

    def _lost(self, code: str, message: str) -> None:
        self._leave()
        super()._lost(code, message)

    def _leave(self) -> None:
        self._unsent.clear()
        self._untaken.clear()
        if self._meter is not None:
            self._meter.close()
            self._meter = None

    # To the service

    def write(self, data: bytes) -> None:
        """See :class:`Upstream`."""
        if self._unsent or (self._meter is not None and self._meter.up.is_waiting):
            self._unsent.append(data)
            self._tell_full()
        else:
            super().write(data)
            if self._meter is not None and not self._meter.up.passed(len(data)):
                self._tell_full()

    @property
    def _must_wait(self) -> bool:
        return super()._must_wait or (self._meter is not None and self._meter.up.is_waiting)

    def _go_up(self) -> bool:
        while self._unsent and self._meter is not None and not self._meter.up.is_waiting:
            data = self._unsent.popleft()
            super().write(data)
            self._meter.up.passed(len(data))
        if self._is_finishing and not self._unsent:
            super().finish()
        self._tell_full()
        return False

    def finish(self) -> None:
        """See :class:`Upstream`."""
        self._is_finishing = True
        if not self._unsent:
            super().finish()

    def part(self) -> None:
        """See :class:`Upstream`."""
        for data in self._unsent:
            super().write(data)
        super().part()

    # From the service

    def data_received(self, data: bytes) -> None:
        """See :class:`IStreamUser`."""
        piece = len(data) if self._meter is None else self._meter.piece
        for start in range(0, len(data), piece):
            self._in_turn(partial(self._take_in, data[start : start + piece]))

    def finished(self) -> None:
        """See :class:`IStreamUser`."""
        self._in_turn(super().finished)

    def was_reset(self, code: str, message: str) -> None:
        """See :class:`IStreamUser`. What has come before goes out at once."""
        self._let_pass(lambda: True)
        super().was_reset(code, message)

    def _in_turn(self, call: Callable[[], None]) -> None:
        self._untaken.append(call)
        self._let_pass(lambda: self._meter is None or not self._meter.down.is_waiting)

    def _let_pass(self, may_pass: Callable[[], bool]) -> None:
        while self._untaken and may_pass():
            self._untaken.popleft()()

    def _take_in(self, data: bytes) -> None:
        if self._meter is not None:
            self._meter.down.passed(len(data))
        super().data_received(data)

    def _go_down(self) -> bool:
        self._let_pass(lambda: self._meter is None or not self._meter.down.is_waiting)
        return True

    def _ended(self, exchange: IExchange) -> None:
        if self._unsent:
            # It has not even read the whole request.
            self._is_asked = False
        # Behind an answer, nothing may come.
        self._keeps_alive = self._keeps_alive and not self._untaken
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.close()
        self._unsent.clear()
        super()._ended(exchange)
