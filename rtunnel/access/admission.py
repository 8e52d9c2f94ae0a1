"""Who may use the server, and for what: asked when a client says HELLO, for each tunnel, and for each visitor.

Facts go in, a decision comes out. Nothing is decided once and kept: the rights are looked up by the client's name
whenever it wants something, so a change of the clients file counts from then on, and what a client has and may no
longer have is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtunnel.access.public import Public
from rtunnel.access.rights import Rights, read_clients
from rtunnel.access.tokens import Token, find_token
from rtunnel.errors import Code, Refused
from rtunnel.upkeep.watched_files import WatchedFiles

_EVERYTHING = Rights()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client has shown of itself.

    :ivar certificate: the name in its certificate, empty if there is none in it; None: it has no certificate.
    :ivar token: from its HELLO.
    :ivar is_local: it is on this machine.
    """

    certificate: str | None
    token: str | None
    is_local: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may stay.

    :ivar name: by which the operator says what it may do; empty where nothing tells it.
    :ivar why_not: why the client must be refused; None: it may stay.
    """

    name: str
    why_not: str | None = None


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
        """Read the clients file again if it has changed; return whether it says something else now.

        :raises ConfigError: it cannot be used, and the rights stay as they were; raised once for each change.
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
        """Whether a client without certificate and token may use the server."""
        return not self._tokens and (self._clients is None or self._clients.rights_of("") is not None)

    def needs_hello(self, *, has_certificate: bool) -> bool:
        """Whether a client must say HELLO, because only HELLO can tell who it is."""
        if has_certificate:
            return bool(self._settings.tokens)
        return self._clients is not None or bool(self._settings.tokens)

    def decide(self, claim: Claim) -> Decision:
        """Decide about a client that has said HELLO, or never will."""
        name = claim.certificate or ""
        if claim.certificate is not None:
            wanted = list(self._settings.tokens)
            if self._clients is not None:
                wanted += [each for each in self._clients.tokens if each.name == name]
        else:
            wanted = list(self._tokens)
        if wanted:
            found = find_token(wanted, claim.token)
            if found is None:
                return Decision(
                    name, "it has no token, and needs one" if claim.token is None else "its token is not valid"
                )
            if claim.certificate is None:
                if not self._settings.token_over_plain_tcp and not claim.is_local:
                    why = "its token came over plain TCP; use --tls, or allow it with --token-over-plain-tcp"
                    return Decision(name, why)
                name = found.name
        if self._rights_of(name) is None:
            who = f"'{name}'" if name else "a client without a name"
            return Decision(name, f"the clients file does not let {who} in")
        return Decision(name)

    def _rights_of(self, name: str) -> Rights | None:
        return _EVERYTHING if self._clients is None else self._clients.rights_of(name)

    def check_tunnel(self, name: str, public: Public, tunnels: int) -> None:
        """See whether the client *name* may have its tunnels, of which one is at *public*.

        :param tunnels: how many it has together with this one, over all its links.
        :raises Refused: it may not.
        """
        rights = self._rights_for(name, public)
        if rights.tunnels is not None and tunnels > rights.tunnels:
            raise Refused(Code.LIMIT, f"this client may have {rights.tunnels} tunnels")

    def check_stream(self, name: str, public: Public, streams: int) -> None:
        """See whether the client *name* may serve one more visitor of *public*.

        :param streams: how many it serves now, over all its links.
        :raises Refused: it may not.
        """
        if self._clients is None:
            return
        rights = self._rights_for(name, public)
        if rights.streams is not None and streams >= rights.streams:
            raise Refused(Code.LIMIT, f"this client may serve {rights.streams} visitors at once")

    def _rights_for(self, name: str, public: Public) -> Rights:
        rights = self._rights_of(name)
        if rights is None:
            raise Refused(Code.UNAUTHORIZED, "this client is not let in")
        if public.port is None:
            if not rights.shared:
                raise Refused(Code.PORT_NOT_ALLOWED, "this client may not serve the shared public port")
        elif rights.ports is not None and public.port not in rights.ports:
            text = f"port {public.port} is not among those allowed to this client: {rights.ports}"
            raise Refused(Code.PORT_NOT_ALLOWED, text)
        return rights
