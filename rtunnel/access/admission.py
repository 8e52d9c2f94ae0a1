"""Decide who may use the server, and for what: at HELLO, for each tunnel, and for each visitor.

Facts go in, a decision comes out. No decision is kept: the rights are looked up by the client's name each time, so a
change of the clients file takes effect at once, and a client loses what it may no longer have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtunnel.access.amounts import Amounts
from rtunnel.access.public import Public
from rtunnel.access.rights import Rights, read_clients
from rtunnel.access.rules import Rules
from rtunnel.access.tokens import Token, find_token
from rtunnel.errors import Code, Refused
from rtunnel.host_names import covers
from rtunnel.upkeep.watched_files import WatchedFiles

_EVERYTHING = Rights()


@dataclass(frozen=True, slots=True)
class Claim:
    """The facts about a client that admission depends on.

    :ivar certificate: the name in its certificate, empty if the certificate has no usable name; None: no certificate.
    :ivar token: the token in its HELLO, or None.
    :ivar is_local: the client is on this machine.
    """

    certificate: str | None
    token: str | None
    is_local: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may stay.

    :ivar name: the client's name, to which the operator gives rights; empty if unknown.
    :ivar why_not: why the client must be refused; None if it may stay.
    """

    name: str
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """The operator's settings of admission.

    :ivar clients: the file with the rights; None: every admitted client may do all that the server's options allow.
    :ivar tokens: if there are any, each link must present one of them.
    :ivar token_over_plain_tcp: whether a token may come over a network without TLS.
    """

    clients: Path | None = None
    tokens: tuple[Token, ...] = ()
    token_over_plain_tcp: bool = False


class Admission:
    """The rules, and the file that they come from.

    :ivar clients: what the file says; None: there is none.
    :raises ConfigError: the clients file cannot be used.
    """

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        path = settings.clients
        self._file = WatchedFiles([path], lambda: read_clients(path)) if path is not None else None
        self.clients = self._file.now if self._file is not None else None

    # The file

    def refresh(self) -> bool:
        """Read the clients file again if it has changed. Return whether its content differs.

        :raises ConfigError: the file cannot be used, and the rights stay as they were; raised once for each change.
        """
        if self._file is None or not self._file.refresh():
            return False
        self.clients = self._file.now
        return True

    # The rules

    @property
    def _tokens(self) -> Sequence[Token]:
        return (*self._settings.tokens, *(self.clients.tokens if self.clients is not None else ()))

    @property
    def lets_anybody_in(self) -> bool:
        """Whether a client without certificate and token may use the server."""
        return not self._tokens and (self.clients is None or self.clients.rights_of("") is not None)

    def needs_hello(self, *, has_certificate: bool) -> bool:
        """Return whether a client must say HELLO, because only HELLO can identify it."""
        if has_certificate:
            return bool(self._settings.tokens)
        return self.clients is not None or bool(self._settings.tokens)

    def decide(self, claim: Claim) -> Decision:
        """Decide whether a client may stay, once it has said HELLO or will not say it."""
        name = claim.certificate or ""
        if claim.certificate is not None:
            wanted = list(self._settings.tokens)
            if self.clients is not None:
                wanted += [each for each in self.clients.tokens if each.name == name]
        else:
            wanted = list(self._tokens)
        if wanted:
            found = find_token(wanted, claim.token)
            if found is None:
                why = "client has no token, and needs one" if claim.token is None else "client's token is not valid"
                return Decision(name, f"the {why}")
            if claim.certificate is None:
                if not self._settings.token_over_plain_tcp and not claim.is_local:
                    why = "the client's token came over plain TCP; use --tls, or allow it with --token-over-plain-tcp"
                    return Decision(name, why)
                name = found.name
        if self._rights_of(name) is None:
            who = f"'{name}'" if name else "a client without a name"
            return Decision(name, f"the clients file does not let {who} in")
        return Decision(name)

    def _rights_of(self, name: str) -> Rights | None:
        return _EVERYTHING if self.clients is None else self.clients.rights_of(name)

    def amounts_of(self, name: str) -> Amounts:
        """Return how much the client *name* may carry, over all its tunnels together."""
        rights = self._rights_of(name)
        return Amounts() if rights is None else rights.amounts

    def check_link(self, name: str, others: int) -> None:
        """Check whether the client *name* may have one more link.

        :param others: how many it has besides this one.
        :raises Refused: it may not.
        """
        rights = self._rights_of(name)
        if rights is not None and rights.links is not None and others >= rights.links:
            raise Refused(Code.LIMIT, f"this client may have {rights.links} links")

    def limits_of(self, name: str) -> Rules:
        """Return what visitors of the client *name* may do at each of its tunnels, as the clients file has it."""
        return (self._rights_of(name) or _EVERYTHING).limits

    def check_tunnel(self, name: str, public: Public, tunnels: int) -> None:
        """Check whether the client *name* may have its tunnels, one of which is at *public*.

        :param tunnels: how many it has over all its links, this one included.
        :raises Refused: it may not.
        """
        rights = self._rights_for(name, public)
        if rights.tunnels is not None and tunnels > rights.tunnels:
            raise Refused(Code.LIMIT, f"this client may have {rights.tunnels} tunnels")

    def check_stream(self, name: str, public: Public, streams: int) -> None:
        """Check whether the client *name* may serve one more visitor of *public*.

        :param streams: how many it serves now, over all its links.
        :raises Refused: it may not.
        """
        if self.clients is None:
            return
        rights = self._rights_for(name, public)
        if rights.streams is not None and streams >= rights.streams:
            raise Refused(Code.LIMIT, f"this client may serve {rights.streams} visitors at once")

    def _rights_for(self, name: str, public: Public) -> Rights:
        rights = self._rights_of(name)
        if rights is None:
            raise Refused(Code.UNAUTHORIZED, "this client is not let in")
        if public.host:
            if rights.hosts is not None and not any(covers(pattern, public.host) for pattern in rights.hosts):
                text = f"{public.host} is not among the host names of this client: {', '.join(rights.hosts) or 'none'}"
                raise Refused(Code.HOST_NOT_ALLOWED, text)
        elif public.port is None:
            if not rights.shared:
                raise Refused(Code.PORT_NOT_ALLOWED, "this client may not serve the shared public port")
        elif rights.ports is not None and public.port not in rights.ports:
            text = f"{public} is not among those allowed to this client: {rights.ports}"
            raise Refused(Code.PORT_NOT_ALLOWED, text)
        return rights
