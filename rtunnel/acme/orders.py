"""Orders certificates, one at a time, and renews them in time.

Nothing here waits for the CA: what does runs in a thread of its own, which nobody waits for when the process ends. Each
attempt is written down before it is made, so that a process that is started again and again does not ask the CA again
and again. Whatever fails, the certificate that there is stays in use.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography import x509
from OpenSSL import crypto
from twisted.logger import Logger

from rtunnel.acme.challenge import challenge_context
from rtunnel.acme.renewal import DAY, Attempts, latest_renewal, renewal_time
from rtunnel.acme.settings import HTTP_01, AcmeSettings
from rtunnel.acme.state import State
from rtunnel.errors import RtunnelError, one_line
from rtunnel.pki import pem
from rtunnel.tls.hosts import Host, host_files

if TYPE_CHECKING:
    from rtunnel.acme.authority import Obtained

HOUR = 3600.0
#: Seconds after which a CA that has not come to an end is given up.
LONGEST_ORDER = 600.0
#: Seconds between two attempts to write a file.
WRITE_AGAIN = 60.0
#: Bounds of the seconds after which the CA is asked again when to renew.
LOOK_AGAIN = (HOUR, DAY)
#: The same of the first time.
FIRST_LOOK = (60.0, 600.0)


def in_thread(work: Callable[[], None]) -> None:
    """Do *work* in a thread that does not keep the process from ending."""
    threading.Thread(target=work, name="acme", daemon=True).start()


class Answers:
    """What the CA is shown while an order lasts. Used from the order's thread.

    :param challenge: how it looks; see :data:`~rtunnel.acme.settings.CHALLENGES`.
    """

    def __init__(self, host: Host, challenge: str) -> None:
        self._host = host
        self._challenge = challenge
        self._is_over = False

    def show(self, key_authorization: str) -> None:
        """See :class:`~rtunnel.acme.authority.IAnswers`."""
        if self._is_over:
            return
        if self._challenge == HTTP_01:
            self._host.key_authorization = key_authorization
        else:
            self._host.challenge = challenge_context(self._host.pattern, key_authorization)

    def clear(self) -> None:
        """Show nothing any more."""
        self._is_over = True
        self._host.challenge, self._host.key_authorization = None, ""


class _Wanted:
    """One host, and how it stands with its certificate. Times are seconds since the epoch."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.pattern
        self.certificate: x509.Certificate | None = None
        self.renew_at = 0.0
        self.look_at = 0.0
        self.attempts = Attempts()
        self.is_published = False
        # Not yet on the disk, as it could not be written.
        self.unwritten = b""
        self.write_at = 0.0
        self.problem = ""


class Orders:
    """The certificates of some hosts.

    :param hosts: get the certificates.
    :param wall: tells the time of day.
    :param run: does work somewhere else; see :func:`in_thread`.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: AcmeSettings,
        hosts: Sequence[Host],
        wall: Callable[[], float] = time.time,
        run: Callable[[Callable[[], None]], None] = in_thread,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._state = State(settings.directory)
        self._wall = wall
        self._run = run
        self._wanted = [_Wanted(host) for host in hosts]
        # What is being done, and since when.
        self._task: object = None
        self._since = 0.0
        self._given_up: Callable[[], None] | None = None

    def start(self) -> None:
        """Read what is there from before."""
        for wanted in self._wanted:
            self._read(wanted)

    def _read(self, wanted: _Wanted) -> None:
        try:
            wanted.attempts = self._state.read_attempts(wanted.name, self._wall())
            path = self._state.certificate(wanted.name)
            content = self._state.read(path)
            if content is not None:
                self._use(wanted, content)
        except (RtunnelError, OSError, ValueError) as error:
            self._say(wanted, f"the certificate of before cannot be used: {error}")

    def add(self, host: Host) -> None:
        """Get a certificate for one more host."""
        wanted = _Wanted(host)
        self._wanted.append(wanted)
        self._read(wanted)

    def remove(self, host: Host) -> None:
        """Do nothing more for a host. An order that is under way comes to its end."""
        self._wanted = [wanted for wanted in self._wanted if wanted.host is not host]

    def stop(self) -> None:
        """Take no notice any more of what is being done."""
        self._task = self._given_up = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being done."""
        return self._task is not None

    def published(self, host: Host, is_published: bool) -> None:
        """Take note whether a CA can reach *host*."""
        for wanted in self._wanted:
            if wanted.host is host and wanted.is_published != is_published:
                wanted.is_published = is_published
                if is_published and wanted.certificate is None:
                    wait = wanted.attempts.not_before - self._wall()
                    what = "is being obtained" if wait <= 0 else f"will be asked for in {_show(wait)}"
                    self.log.info(
                        "{host}: a certificate {what} from {ca}; visitors are turned away until it is there",
                        host=wanted.name,
                        what=what,
                        ca=self._settings.ca_name,
                    )

    def tick(self) -> None:
        """Do what is due. Call this every second or so."""
        now = self._wall()
        for wanted in self._wanted:
            if wanted.unwritten and now >= wanted.write_at:
                self._write(wanted, now)
        if self._task is not None:
            if self._reactor.seconds() - self._since > LONGEST_ORDER and self._given_up is not None:
                self._given_up()
            return
        for wanted in self._wanted:
            if now >= max(wanted.renew_at, wanted.attempts.not_before) and wanted.is_published:
                self._order(wanted, now)
                return
        for wanted in self._wanted:
            if wanted.certificate is not None and now >= wanted.look_at:
                self._look(wanted, wanted.certificate, now)
                return

    # An order

    def _order(self, wanted: _Wanted, now: float) -> None:
        """Order a certificate. What cannot be written down is not done, lest it be done again and again."""
        before = wanted.attempts
        attempts = before.failed(now)
        try:
            self._state.write_attempts(wanted.name, attempts)
        except (RtunnelError, OSError) as error:
            wanted.attempts = Attempts(before.failures, now + WRITE_AGAIN)
            self._say(wanted, f"none is ordered, since that cannot be written down: {error}")
            return
        wanted.attempts = attempts
        settings, state, name = self._settings, self._state, wanted.name
        answers = Answers(wanted.host, settings.challenge)

        def work() -> Obtained:
            from rtunnel.acme.authority import obtain

            return obtain(settings, state, name, answers)

        def done(obtained: Obtained | None, error: Exception | None) -> None:
            answers.clear()
            if obtained is not None:
                try:
                    self._obtained(wanted, obtained)
                    return
                except ValueError as problem:
                    error = problem
            self._failed(wanted, before, error)

        self._begin(work, done)

    def _begin(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        task = self._task = object()
        self._since = self._reactor.seconds()

        def ended(result: Any, error: Exception | None) -> None:
            # It may have been given up, or all of this may be over.
            if self._task is task:
                self._task = self._given_up = None
                done(result, error)

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                self._reactor.callFromThread(ended, None, error)
            else:
                self._reactor.callFromThread(ended, result, None)

        self._given_up = partial(ended, None, TimeoutError("it takes too long"))
        self._run(run)

    def _obtained(self, wanted: _Wanted, obtained: Obtained) -> None:
        now = self._wall()
        if obtained.note:
            self.log.info(
                "ACME: {note}; to keep others from obtaining certificates, publish for each name: "
                "{host}. CAA 0 issue {record}",
                note=obtained.note,
                host=wanted.name,
                record=f'"{next(iter(obtained.identities), self._settings.ca_name)}; accounturi={obtained.account}; '
                f'validationmethods={self._settings.challenge}"',
            )
        self._use(wanted, obtained.content)
        assert wanted.certificate is not None
        # Whatever the CA says about renewal, it is not asked for one after the other.
        lifetime = wanted.certificate.not_valid_after_utc.timestamp() - now
        wanted.attempts = Attempts(0, now + min(HOUR, lifetime / 3))
        wanted.unwritten = obtained.content
        self._write(wanted, now)
        self.log.info(
            "{host}: certificate from {ca}, valid until {end}",
            host=wanted.name,
            ca=self._settings.ca_name,
            end=f"{wanted.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        )

    def _failed(self, wanted: _Wanted, before: Attempts, error: Exception | None) -> None:
        now = self._wall()
        asked, is_reached = getattr(error, "asked", 0.0), getattr(error, "is_reached", True)
        wanted.attempts = before.failed(now, asked, is_reached=is_reached)
        try:
            self._state.write_attempts(wanted.name, wanted.attempts)
        except (RtunnelError, OSError):
            pass  # what was written before the attempt is about the same
        wait = wanted.attempts.not_before - now
        self._say(wanted, f"{self._settings.ca_name}: {error}; next attempt in {_show(wait)}", again=True)

    def _say(self, wanted: _Wanted, why: str, *, again: bool = False) -> None:
        """Log why there is no new certificate; unless *again*, once for each reason."""
        if why == wanted.problem and not again:
            return
        wanted.problem = why
        if wanted.certificate is None:
            kept = "visitors are turned away"
        else:
            end = wanted.certificate.not_valid_after_utc
            is_good = end.timestamp() > self._wall()
            kept = f"the old one stays in use, which {'is good until' if is_good else 'expired on'} {end:%Y-%m-%d}"
        self.log.warn("{host}: no new certificate, {kept}: {why}", host=wanted.name, kept=kept, why=one_line(why))

    # The certificate

    def _write(self, wanted: _Wanted, now: float) -> None:
        try:
            self._state.write(self._state.certificate(wanted.name), wanted.unwritten)
            self._state.write_attempts(wanted.name, Attempts())
        except (RtunnelError, OSError) as error:
            wanted.write_at = now + WRITE_AGAIN
            why = f"it is in use, but not kept: {error}"
            if why != wanted.problem:
                wanted.problem = why
                self.log.warn("{host}: {why}", host=wanted.name, why=why)
        else:
            wanted.unwritten, wanted.problem = b"", ""

    def _use(self, wanted: _Wanted, content: bytes) -> None:
        """Let new connections use a certificate.

        :raises ValueError: it cannot be used.
        """
        path = self._state.certificate(wanted.name)
        try:
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, content)
        except crypto.Error as error:
            raise ValueError(f"{path} has no key") from error
        files = host_files(pem.load_certificates(content), key, path, path)
        wanted.host.context, wanted.certificate = files.context, files.certificate
        wanted.renew_at, wanted.problem = renewal_time(files.certificate), ""
        # Not at once: a process may be started again and again.
        wanted.look_at = self._wall() + random.uniform(*FIRST_LOOK)

    # When the CA wants it renewed

    def _look(self, wanted: _Wanted, certificate: x509.Certificate, now: float) -> None:
        wanted.look_at = now + LOOK_AGAIN[1]
        settings = self._settings

        def work() -> tuple[float | None, float]:
            from rtunnel.acme.authority import suggested_renewal

            return suggested_renewal(settings, certificate)

        def done(found: tuple[float | None, float] | None, _error: Exception | None) -> None:
            # Without an answer, the certificate's own times decide.
            if found is None or wanted.certificate is not certificate:
                return
            when, again = found
            wanted.look_at = now + min(max(again - now, LOOK_AGAIN[0]), LOOK_AGAIN[1])
            if when is not None:
                wanted.renew_at = min(when, latest_renewal(certificate))

        self._begin(work, done)


def _show(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
