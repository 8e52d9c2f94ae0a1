"""Who is limited to how much, and what is said and done when a quota is used up."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from rtunnel.access.admission import Admission
from rtunnel.access.amounts import Amounts
from rtunnel.access.public import Public
from rtunnel.acme.settings import default_state_dir
from rtunnel.reverse.metering.meter import Allowance, Budget
from rtunnel.reverse.metering.quotas import Count, Key, Quotas
from rtunnel.reverse.metering.reports import Hearer, Reporter
from rtunnel.reverse.web.answers import Answer
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all

#: Seconds between two looks at the month, and at what is to be written or reported.
LOOK_EVERY = 1.0
#: Seconds that the last report may take.
LAST_MOMENT = 1.0


class IServer(Protocol):
    """The server, as this needs it."""

    reactor: Any
    admission: Admission
    log_limiter: LogLimiter

    @property
    def sessions(self) -> Iterable[Any]: ...


class Metering(PeriodicService):
    """The limits of all tunnels and clients.

    :param directory: where the quotas are kept; None: where systemd says, or the user's.
    :param now: returns the time, in seconds since 1970.
    """

    def __init__(self, server: IServer, directory: Path | None, now: Callable[[], float] = time.time) -> None:
        super().__init__(server.reactor, "quotas", LOOK_EVERY, self._look)
        self._server = server
        self._clock = server.reactor
        self.quotas = Quotas(directory or default_state_dir(os.environ), now, server.reactor.seconds, self._marked)
        self._rests = False
        self._hearers: list[Hearer] = []
        self._reporter: Reporter | None = None
        self._marks: set[Count] = set()
        self._allowances: WeakValueDictionary[Key, Allowance] = WeakValueDictionary()

    def _look(self) -> None:
        if not self._rests:
            self.quotas.tick()
        elif self._reporter is not None:
            self._reporter.report()

    # At an upgrade

    def hear(self, sock: socket.socket) -> None:
        """Count what is used at another process; see :mod:`rtunnel.reverse.metering.reports`."""
        hearer = Hearer(self._server.reactor, sock, self.quotas, self._hearers.remove)
        self._hearers.append(hearer)
        hearer.go_on()

    def report(self) -> Iterator[int]:
        """Yield sockets for :meth:`hear` of another process, which will hear of what is used here and elsewhere."""
        self._forget_reporter()
        with suppress(OSError):
            self._reporter = Reporter(self.quotas)
            yield self._reporter.theirs.fileno()
        for hearer in self._hearers:
            yield hearer.fileno()

    def rest(self) -> None:
        """Write what was used, and then nothing more: the file is another process's from now on."""
        if self._rests:
            return
        self._rests = True
        self.quotas.write()
        for hearer in self._hearers:
            hearer.pause()
        if self._reporter is not None:
            self._reporter.begin()

    def go_on(self) -> None:
        """Write again."""
        self._rests = False
        self._forget_reporter()
        for hearer in self._hearers:
            hearer.go_on()

    def _forget_reporter(self) -> None:
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            reporter.close()

    def stopService(self) -> None:
        """See :class:`PeriodicService`. Write or report what was used."""
        super().stopService()
        self.rest()
        for hearer in self._hearers:
            hearer.close()
        if self._reporter is not None:
            self._reporter.report(LAST_MOMENT)
        self._forget_reporter()

    def budget_of(self, backend: Any, public: Public) -> Budget | None:
        """Return what the visitors of *backend* may use; None: there is no limit.

        :param backend: a tunnel; see :class:`~rtunnel.reverse.server.interfaces.Backend`.
        :param public: where its visitors connect.
        """
        rules, name = backend.rules, " ".join(backend.session.holder).strip()
        whole = self._server.admission.amounts_of(backend.session.client_name)
        own = Amounts(rules.bandwidth, rules.visitor_bandwidth, rules.quota)
        kind, whose = ("group", rules.group) if rules.group else ("client", name)
        allowances = [
            self._allowance(Key(kind, whose, str(public)), own),
            self._allowance(Key("client", name, ""), whole),
        ]
        if whole == own == Amounts():
            return None
        rates = [each for each in (own.visitor_bandwidth, whole.visitor_bandwidth) if each is not None]
        budget = Budget(
            self._clock, [each for each in allowances if each is not None], min(rates) / 8 if rates else None
        )
        if backend.budget is None:
            for count in budget.counts:
                if count.is_nearly_used_up:
                    self._clock.callLater(0, self._tell, count, backend)
        return budget

    def _allowance(self, key: Key, amounts: Amounts) -> Allowance | None:
        if amounts.bandwidth is None and amounts.quota is None and key not in self._allowances:
            return None
        rate = None if amounts.bandwidth is None else amounts.bandwidth / 8
        count = None if amounts.quota is None else self.quotas.count(key, amounts.quota)
        found = self._allowances.get(key)
        if found is None:
            found = self._allowances[key] = Allowance(self._clock, rate, count)
        else:
            found.change(rate, count)
        return found

    def answer(self, what: str) -> Answer:
        """Return the answer to requests that a quota leaves no room for.

        :param what: the service, for the page.
        """
        text = f"the traffic that {what} may have in this month is used up; it is back on {self.quotas.begins_anew}"
        return Answer(503, text, [("Retry-After", str(self.quotas.seconds_left))])

    # Marks of quotas

    def _marked(self, count: Count) -> None:
        # Bytes are passing just now, and may reach the next mark too.
        if count not in self._marks:
            self._marks.add(count)
            self._clock.callLater(0, self._settle, count)

    def _settle(self, count: Count) -> None:
        self._marks.discard(count)
        self._server.log_limiter.warn("{whose}: {what}", whose=str(count.key), what=self.quotas.warning(count))
        do_all([partial(self._tell_session, count, session) for session in list(self._server.sessions)])
        if count.is_used_up:
            do_all([meter.abort for meter in list(count.meters)])

    def _tell_session(self, count: Count, session: Any) -> None:
        for backend in session.backends.values():
            if backend.budget is not None and count in backend.budget.counts:
                self._tell(count, backend)
                if not count.key.place:
                    break  # it is about all of them

    def _tell(self, count: Count, backend: Any) -> None:
        session = backend.session
        if session.is_live:
            session.link.send_notice(backend.number, self.quotas.warning(count))
            session.flush()
