"""Watches the server's files: certificates, the revocation list, the clients file.

A change takes effect at once, also for open links.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import Logger

from rtunnel.access.admission import Admission
from rtunnel.errors import ConfigError, Refused
from rtunnel.reverse.door import Door, Incoming
from rtunnel.reverse.server.granted import grant
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.server.roster import Roster
from rtunnel.reverse.server.session import ServerSession
from rtunnel.upkeep.listening import Listener
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.periodic import PeriodicService, do_all

if TYPE_CHECKING:
    from rtunnel.tls.credentials import Loaded
    from rtunnel.tls.listener import TlsListener

#: Seconds between two checks of the files.
LOOK_EVERY = 1.0
#: Seconds between two warnings about a certificate that expires soon.
WARN_EVERY = 86400.0


class IGuarded(Protocol):
    """The server, as its guard sees it."""

    admission: Admission
    control: Listener
    door: Door
    log_limiter: LogLimiter
    memory: Memory
    refusals: Refusals
    sessions: Roster[ServerSession]

    @property
    def links(self) -> list[ServerSession]: ...
    def check_tunnel(self, backend: Backend) -> None: ...


class Guard(PeriodicService):
    """Checks the files regularly, and enforces what they say.

    :param tls: the server's TLS, if it has any.
    """

    log = Logger()

    def __init__(self, reactor: Any, server: IGuarded, tls: TlsListener | None) -> None:
        super().__init__(reactor, "guard", LOOK_EVERY, self.look)
        self._reactor = reactor
        self._server = server
        self._tls = tls
        self._warned_at: float | None = None

    def look(self) -> None:
        """Check the files, and enforce what they say."""
        server = self._server
        do_all(
            [
                server.log_limiter.tick,
                server.refusals.tick,
                server.memory.tick,
                self._look_at_tls,
                self._look_at_rights,
            ]
        )

    def warn_if_open(self) -> None:
        """Warn if anybody may use the server."""
        server = self._server
        if self._tls is None and server.admission.lets_anybody_in and server.control.is_public:
            self.log.warn(
                "ANYBODY WHO REACHES {address} CAN OPEN PORTS ON THIS MACHINE: the control port has neither TLS nor "
                "tokens. Two ways out: give both ends --tls ('rtunnel pki init' makes the certificates), or listen on "
                "loopback only (--control-listen 127.0.0.1:7000) and let clients come through SSH",
                address=server.control.local_address,
            )

    def _look_at_rights(self) -> None:
        try:
            changed = self._server.admission.refresh()
        except ConfigError as error:
            self.log.warn("the clients file cannot be used, and the rights stay as they were: {why}", why=error)
        else:
            if changed:
                self.log.info("the clients file has changed, and is in use now")
                self.enforce_rights()

    def _look_at_tls(self) -> None:
        tls = self._tls
        if tls is None:
            return
        credentials = tls.credentials
        tls.log_limiter.tick()
        now = self._reactor.seconds()
        changed = False
        try:
            changed = credentials.refresh()
        except ConfigError as error:
            self.log.warn("the TLS files cannot be used, and those from before stay in use: {why}", why=error)
        if changed:
            self.log.info("the TLS files have changed; new links use them")
        self._close_void(credentials.now if changed else None)
        if not changed and self._warned_at is not None and now - self._warned_at < WARN_EVERY:
            return
        self._warned_at = now
        for warning in credentials.now.warnings:
            self.log.warn("{warning}", warning=warning)

    def close_revoked(self) -> None:
        """Close the connections of those whose certificates the files revoke, which are others now."""
        if self._tls is not None:
            self._close_void(self._tls.credentials.now)

    def _close_void(self, new: Loaded | None) -> None:
        """Close the connections of those whose certificates have expired, or are revoked by the *new* files."""

        def close(connection: ServerSession | Incoming) -> None:
            identity = connection.identity
            if identity is None:
                return
            why = identity.why_expired or (new.why_revoked(identity) if new is not None else "")
            if not why:
                return
            if isinstance(connection, Incoming):
                connection.refuse(why)
            else:
                connection.expel(why)

        do_all([partial(close, each) for each in (*self._server.links, *self._server.door.incoming)])

    def enforce_rights(self) -> None:
        """Take from every client what it may not have by the rights of now."""
        do_all([partial(self._enforce_rights_of, session) for session in self._server.links])

    def _enforce_rights_of(self, session: ServerSession) -> None:
        if not session.is_asked_for or not session.check_admission():
            return
        for backend in list(session.backends.values()):
            try:
                self._server.check_tunnel(backend)
            except Refused as refusal:
                session.revoke_tunnel(backend, refusal)
            else:
                grant(self._server.admission, backend)
