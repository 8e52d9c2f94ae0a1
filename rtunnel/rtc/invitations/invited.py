"""A client that was invited: it finds its host by the code, and knows it from then on.

    code --signaling--> the host's ID, a key --peer connection--> confirmed, and written down

Until then it trusts nobody, and after that the host which has shown that it knows the code, for as long as it runs.
When it is started again it finds the host in ``known_hosts``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.logger import Logger

from rtunnel.access.invited import InvitedTrust
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.known_hosts import add_host
from rtunnel.access.trust import Trust
from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations.redeeming import Redeeming
from rtunnel.rtc.rights.trusted import hosts_file
from rtunnel.rtc.settings import ClientSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import Confirmation, host_in
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import Signal

#: Seconds from the host's answer to a connection that confirms the code. The host has no more patience either.
CONFIRMS_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class _HostConfirmation:
    """A :class:`Confirmation` whose host is trusted once it has confirmed the code."""

    _inner: Confirmation
    _invited: Invited

    def mine(self, context: bytes) -> bytes:
        """See :meth:`Confirmation.mine`."""
        return self._inner.mine(context)

    def check(self, theirs: bytes, context: bytes) -> bool:
        """See :meth:`Confirmation.check`."""
        is_right = self._inner.check(theirs, context)
        if is_right:
            self._invited.confirmed(host_in(context))
        return is_right


class Client(Protocol):
    """What is needed of :class:`~rtunnel.rtc.client.RtcClient`."""

    reactor: Any
    settings: ClientSettings
    signaling: SignalLink

    def host_found(self, host: str) -> None: ...


class Attempt(Protocol):
    """What is needed of :class:`~rtunnel.rtc.peers.client_peer.ClientPeer`."""

    is_refused: bool


class Invited:
    """The way of one client from its code to its host.

    :param trust: whom the client trusts.
    :ivar on_known: is given the host's ID, once it is known, and again once the host has confirmed the code.
    :ivar on_failure: is given the reason if the code leads nowhere.
    """

    log = Logger()

    def __init__(self, client: Client, code: InvitationCode, trust: Trust) -> None:
        self.on_known: Callable[[str, bool], object] = lambda host, is_confirmed: None
        self.on_failure: Callable[[str], object] = lambda why: self.log.error("{why}", why=why)
        self._client = client
        self._trust = trust
        self._redeeming = Redeeming(client.reactor, code, client.signaling.send, self._is_known, self._fail)
        self._confirmation: Confirmation | None = None
        self._until = 0.0
        self._is_over = False

    @property
    def number(self) -> str:
        """The number of the invitation for the offer of the next connection; empty: none is to be confirmed."""
        return self._redeeming.number if self._confirmation is not None else ""

    @property
    def confirmation(self) -> _HostConfirmation | None:
        """What the next connection is to confirm; None: nothing."""
        return _HostConfirmation(self._confirmation, self) if self._confirmation is not None else None

    def signaling_up(self) -> None:
        """See :meth:`Redeeming.signaling_up`."""
        self._redeeming.signaling_up()

    def signaling_down(self) -> None:
        """See :meth:`Redeeming.signaling_down`."""
        self._redeeming.signaling_down()

    def signal_received(self, signal: Signal) -> bool:
        """See :meth:`Redeeming.signal_received`."""
        return self._redeeming.signal_received(signal)

    def _is_known(self, host: str, confirmation: Confirmation) -> None:
        self._confirmation = confirmation
        self._until = self._client.reactor.seconds() + CONFIRMS_WITHIN
        self.log.info(
            "invitation {number} is from host '{host}', which has to show now that it knows the code",
            number=self.number,
            host=clean_text(host),
        )
        self.on_known(host, False)
        self._client.host_found(host)

    def confirmed(self, fingerprint: str) -> None:
        """Trust the host from now on, and at later starts: it has confirmed the code.

        :param fingerprint: of its identity, 64 hexadecimal digits.
        """
        number, self._confirmation = self.number, None
        host = self._client.settings.id
        if isinstance(self._trust, InvitedTrust):
            self._trust.fingerprint = fingerprint
        self.log.info(
            "invitation {number}: host '{host}' knows the code; its fingerprint is {short}",
            number=number,
            host=clean_text(host),
            short=show_fingerprint(fingerprint),
        )
        self._write_down(host, fingerprint)
        self.on_known(host, True)

    def _write_down(self, host: str, fingerprint: str) -> None:
        path = hosts_file(self._client.settings)
        try:
            if path is None:
                raise ConfigError("there is no place for known_hosts; give --state-dir")
            add_host(path, host, fingerprint)
        except ConfigError as error:
            self.log.warn("this connection is safe, but the host is not known at the next start: {error}", error=error)
        else:
            self.log.info(
                "the host is in {path} now; the next time no code is needed: --id {id}", path=path, id=shlex.quote(host)
            )

    def connection_failed(self, peer: Attempt, reason: str) -> bool:
        """Take note of a connection that has ended. Return whether it was the last attempt."""
        if self._confirmation is not None and (peer.is_refused or self._client.reactor.seconds() >= self._until):
            self._fail(f"invitation {self.number} is spent: {reason}; ask for a new code")
        return self._is_over

    def _fail(self, why: str) -> None:
        if not self._is_over:
            self.stop()
            self.on_failure(why)

    def stop(self) -> None:
        """End it."""
        self._is_over = True
        self._redeeming.stop()
