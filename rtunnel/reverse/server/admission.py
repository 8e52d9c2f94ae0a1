"""Who may use the server, and for what: asked when a client says HELLO, for each tunnel, and for each visitor.

Nothing is decided once and kept: the rights are looked up by the client's name whenever it wants something, so a change
of the clients file counts from then on, and what a client has and may no longer have is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rtunnel.access.rights import Rights, read_clients
from rtunnel.access.tokens import Token, find_token
from rtunnel.errors import Code, TunnelRefused
from rtunnel.relay.sockets import is_local
from rtunnel.upkeep.watched_files import WatchedFiles

if TYPE_CHECKING:
    from rtunnel.reverse.server.roster import Roster
    from rtunnel.reverse.server.session import ServerSession

_EVERYTHING = Rights()


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """What the operator decided.

    :ivar clients: the file with the rights; None: everybody who is let in may do all that the server's options allow.
    :ivar tokens: of which each link must bring one, where there are any.
    :ivar token_over_plain_tcp: whether a token may come over a network without TLS.
    """

    clients: Path | None = None
    tokens: tuple[Token, ...] = ()
    token_over_plain_tcp: bool = False


class Admission:
    """The rules, and the file that they come from.

    :raises ConfigError: the clients file cannot be used.
    """

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        path = settings.clients
        self._file = WatchedFiles([path], lambda: read_clients(path)) if path is not None else None
        self._clients = self._file.now if self._file is not None else None

    # The file

    def refresh(self) -> bool:
        """Read the clients file again if it has changed; whether it says something else now.

        :raises ConfigError: it cannot be used, and the rights stay as they were; said once.
        """
        if self._file is None or not self._file.refresh():
            return False
        self._clients = self._file.now
        return True

    # The rules

    @property
    def _tokens(self) -> Sequence[Token]:
        return (*self._settings.tokens, *(self._clients.tokens if self._clients is not None else ()))

    @property
    def lets_anybody_in(self) -> bool:
        """A client without certificate and token may use the server."""
        return not self._tokens and (self._clients is None or self._clients.rights_of("") is not None)

    def needs_hello(self, *, has_certificate: bool) -> bool:
        """Whether a client must say HELLO, because only there it can say who it is."""
        if has_certificate:
            return bool(self._settings.tokens)
        return self._clients is not None or bool(self._settings.tokens)

    def why_not(self, session: ServerSession) -> str | None:
        """Why a client that has said HELLO, or will never, may not stay. Sets its ``client_name``."""
        token = session.link.peer.token if session.link.peer is not None else None
        if session.identity is not None:
            session.client_name = session.identity.name
            wanted = list(self._settings.tokens)
            if self._clients is not None:
                wanted += [each for each in self._clients.tokens if each.name == session.client_name]
        else:
            session.client_name = ""
            wanted = list(self._tokens)
        if wanted:
            found = find_token(wanted, token)
            if found is None:
                return "it has no token, and needs one" if token is None else "its token is not valid"
            if session.identity is None:
                if not self._settings.token_over_plain_tcp and not is_local(session.transport.getPeer()):
                    return "its token came over plain TCP; use --tls, or allow it with --token-over-plain-tcp"
                session.client_name = found.name
        if self.rights_of(session) is None:
            who = f"'{session.client_name}'" if session.client_name else "a client without a name"
            return f"the clients file does not let {who} in"
        return None

    def rights_of(self, session: ServerSession) -> Rights | None:
        """What the client may do; None: nothing."""
        return _EVERYTHING if self._clients is None else self._clients.rights_of(session.client_name)

    def check_tunnel(self, session: ServerSession, port: int, roster: Roster) -> None:
        """See whether the client may have the tunnels that it has, of which one is at public *port*; 0: the shared one.

        :raises TunnelRefused: it may not.
        """
        rights = self._rights_for(session, port)
        if rights.tunnels is not None and roster.tunnels_of(session) > rights.tunnels:
            raise TunnelRefused(Code.LIMIT, f"this client may have {rights.tunnels} tunnels")

    def check_stream(self, session: ServerSession, port: int, roster: Roster) -> None:
        """See whether the client may serve one more visitor of public *port*; 0: the shared one.

        :raises TunnelRefused: it may not.
        """
        rights = self._rights_for(session, port)
        if rights.streams is not None and roster.streams_of(session) >= rights.streams:
            raise TunnelRefused(Code.LIMIT, f"this client may serve {rights.streams} visitors at once")

    def _rights_for(self, session: ServerSession, port: int) -> Rights:
        rights = self.rights_of(session)
        if rights is None:
            raise TunnelRefused(Code.UNAUTHORIZED, "this client is not let in")
        if port == 0 and not rights.shared:
            raise TunnelRefused(Code.PORT_NOT_ALLOWED, "this client may not serve the shared public port")
        if port and rights.ports is not None and port not in rights.ports:
            text = f"port {port} is not among those allowed to this client: {rights.ports}"
            raise TunnelRefused(Code.PORT_NOT_ALLOWED, text)
        return rights
