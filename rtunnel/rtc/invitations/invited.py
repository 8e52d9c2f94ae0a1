"""A client that was invited: it finds its host by the code, and knows it from then on.

    code --signaling--> the host's ID, a key --peer connection--> confirmed, and written down

Until then it trusts nobody, and after that the host which has shown that it knows the code, for as long as it runs.
When it is started again it finds the host in ``known_hosts``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger

from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.known_hosts import add_host
from rtunnel.access.trust import PeerIdentity, Verdict
from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations.redeeming import Redeeming
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import Confirmation, host_in
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import Signal

#: Seconds from the host's answer to a connection that confirms the code. The host has no more patience either.
CONFIRMS_WITHIN = 60.0


class InvitedTrust:
    """Trusts the host that has confirmed the code, and nobody else.

    :ivar fingerprint: of that host; empty: none has.
    """

    is_closed = True

    def __init__(self) -> None:
        self.fingerprint = ""

    def judge(self, peer: PeerIdentity) -> Verdict:
        """See :class:`rtunnel.access.trust.Trust`."""
        if peer.fingerprint == self.fingerprint:
            return Verdict(name=peer.peer_id)
        short = show_fingerprint(peer.fingerprint)
        if not self.fingerprint:
            return Verdict("the host has not shown that it knows the code", name=short)
        return Verdict(
            "THE HOST HAS ANOTHER IDENTITY THAN THE ONE THAT KNEW THE CODE. Somebody may sit in between, or the host "
            f"has a new key; its fingerprint is now {short}. Ask for a new code",
            name=short,
        )


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


class Invited:
    """The way of one client from its code to its host.

    :param send: sends a message to the signaling server.
    :param trust: whom the client trusts.
    :param known: is given the host's ID, once it is known: the client may connect.
    :param failed: is given the reason if the code leads nowhere.
    :param write_down: is given the host's fingerprint, once it is confirmed.
    :ivar host: the host's ID; empty: not known yet.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        code: InvitationCode,
        send: Callable[[Signal], bool],
        known: Callable[[str], None],
        failed: Callable[[str], None],
        write_down: Callable[[str, str], None],
    ) -> None:
        self.host = ""
        self._clock = clock
        self._redeeming = Redeeming(clock, code, send, self._is_known, self._fail)
        self._known = known
        self._failed = failed
        self._write_down = write_down
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
        self.host, self._confirmation = host, confirmation
        self._until = self._clock.seconds() + CONFIRMS_WITHIN
        self.log.info(
            "invitation {number} is from host '{host}', which has to show now that it knows the code",
            number=self.number,
            host=clean_text(host),
        )
        self._known(host)

    def confirmed(self, fingerprint: str) -> None:
        """Take note that the host has confirmed the code.

        :param fingerprint: of its identity, 64 hexadecimal digits.
        """
        number, self._confirmation = self.number, None
        self.log.info(
            "invitation {number}: host '{host}' knows the code; its fingerprint is {short}. From now on this needs no "
            "code: rtunnel connect --id {host}",
            number=number,
            host=clean_text(self.host),
            short=show_fingerprint(fingerprint),
        )
        self._write_down(self.host, fingerprint)

    def connection_failed(self, reason: str, *, is_refused: bool) -> bool:
        """Take note of a connection that has ended. Return whether it was the last attempt.

        :param is_refused: one of the two ends does not accept the other.
        """
        if self._confirmation is None:
            return self._is_over
        if is_refused or self._clock.seconds() >= self._until:
            self._fail(f"invitation {self.number} is spent: {reason}; ask for a new code")
        return self._is_over

    def _fail(self, why: str) -> None:
        if not self._is_over:
            self.stop()
            self._failed(why)

    def stop(self) -> None:
        """End it."""
        self._is_over = True
        self._redeeming.stop()


def write_down(path: Any, trust: InvitedTrust, host: str, fingerprint: str) -> None:
    """Trust a host from now on, and at later starts.

    :param path: the file ``known_hosts``; None: there is no place for one.
    """
    trust.fingerprint = fingerprint
    try:
        if path is None:
            raise ConfigError("there is no place for known_hosts; give --state-dir")
        add_host(path, host, fingerprint)
    except ConfigError as error:
        Invited.log.error("the host is not known at the next start: {error}", error=error)
