"""Hosts that invite, and clients that have a code, at a signaling server in this process."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.invitations.hosting import Invitations, OpenInvitation, Terms
from rtunnel.rtc.invitations.redeeming import Redeeming
from rtunnel.rtc.settings import SignalClientSettings, SignalUrl
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import Confirmation
from rtunnel.wire.webrtc.signaling import Signal
from tests.reverse.net import HOST, reactor
from tests.rtc.world import ID, World

CONTEXT = bytes(range(128))
#: Which clients hosts have admitted, by which invitation.
ADMITTED: dict[int, list[tuple[OpenInvitation, str]]] = {}
WEB = Terms(frozenset({"web"}), "Anna")


def signal_settings(rtc: World, server: Any) -> SignalClientSettings:
    port = rtc.port_of(server)
    return SignalClientSettings(SignalUrl(f"ws://{HOST}:{port}", False, HOST, port), None, None, 0.05, 0.2)


def invitations(rtc: World, server: Any) -> Invitations:
    """Those of a host."""
    settings = signal_settings(rtc, server)
    admitted: list[tuple[OpenInvitation, str]] = []

    def admit(each: OpenInvitation, fingerprint: str) -> None:
        # Others may be told that it is over only once the client is known.
        assert not each.is_over
        admitted.append((each, fingerprint))

    service: Invitations = rtc.start(Invitations(reactor, settings, ID, LogLimiter(Logger(), reactor), admit))
    ADMITTED[id(service)] = admitted
    return service


@implementer(ISignalUser)
class Invited:
    """A client with a code, up to the point where it would connect.

    :ivar told: the host's ID, or why it failed.
    :ivar confirmation: what it would confirm.
    """

    def __init__(self, rtc: World, server: Any, code: InvitationCode, identity: str = "client") -> None:
        self.told = ""
        self.confirmation: Confirmation | None = None
        self.signals: list[Signal] = []
        self.link = SignalLink(reactor, signal_settings(rtc, server), identity, self, is_host=False)
        self.redeeming = Redeeming(reactor, code, self.link.send, self._known, self._failed)
        rtc.start(self.link)

    def _known(self, host: str, confirmation: Confirmation) -> None:
        assert not self.told
        self.told, self.confirmation = host, confirmation

    def _failed(self, why: str) -> None:
        assert not self.told
        self.told = why

    def signaling_up(self) -> None:
        self.redeeming.signaling_up()

    def signaling_down(self, reason: str) -> None:
        self.redeeming.signaling_down()

    def signal_received(self, signal: object) -> None:
        assert isinstance(signal, Signal)
        self.signals.append(signal)
        self.redeeming.signal_received(signal)

    def confirms(self, each: OpenInvitation) -> tuple[bool, bool]:
        """What the host thinks of the client's confirmation, and the client of the host's."""
        ours, theirs = self.confirmation, each.confirmation
        assert ours is not None
        assert theirs is not None
        of_host = theirs.mine(CONTEXT)
        return theirs.check(ours.mine(CONTEXT), CONTEXT), ours.check(of_host, CONTEXT)


def code_of(each: OpenInvitation) -> InvitationCode:
    assert each.code is not None
    return each.code


def wrong(code: InvitationCode) -> InvitationCode:
    """Another code with the same number."""
    return InvitationCode(code.number, (code.words[0], "zulu" if code.words[1] != "zulu" else "orca"))
