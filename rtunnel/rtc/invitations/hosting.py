"""The invitations of a host that are open.

    Invitations
     +-- rtunnel-invite-7    a SignalLink for each, under the ID of the invitation
     +-- invitations         once a second: whether one is over

Each has a connection to the signaling server of its own, under whose ID it is found. The number in that ID is the first
free one: a short one, and a longer one if others have it. Once the host has answered, that connection is closed. The
client that was answered comes to the host's own ID then, and says which invitation it means.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.errors import BadSignal, ConfigError
from rtunnel.rtc.interfaces import ISignalUser
from rtunnel.rtc.settings import SignalClientSettings
from rtunnel.rtc.signaling.link import SignalLink
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import PeriodicService, do_all
from rtunnel.upkeep.token_bucket import KeyedBuckets, TokenBucket
from rtunnel.wire.invitations.code import MAX_NUMBER, InvitationCode, invitation_id, new_code
from rtunnel.wire.invitations.exchange import Confirmation, client_in
from rtunnel.wire.invitations.invitation import CONNECTS_WITHIN, Invitation, Stage
from rtunnel.wire.messages import clean_text
from rtunnel.wire.webrtc.signaling import ANSWER, ERROR, OFFER, Signal

#: How many invitations may be open at once. Each takes a connection to the signaling server, which allows one address
#: some.
MAX_OPEN = 8
#: How many invitations may fail: an hour, and at once. A guess is right once in 65,536 times.
FAILURES, FAILURES_AT_ONCE = 5 / 3600, 5
#: How many messages about invitations of one sender are looked at, an hour and at once, and of all.
TRIES, TRIES_AT_ONCE = 5 / 3600, 5
ALL_TRIES, ALL_TRIES_AT_ONCE = 60 / 3600, 60
#: Seconds that the signaling server has to accept an invitation.
OPENS_WITHIN = 15.0
#: How many numbers are tried for one invitation.
MAX_NUMBERS = 8


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invitation is for.

    :ivar services: the services that the client may use, by their names; None: all.
    :ivar name: what the host calls the client from then on; empty: nobody has said.
    """

    services: frozenset[str] | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.services is None:
            return "all services"
        return f"service{'s' if len(self.services) > 1 else ''} {', '.join(sorted(self.services))}"


@dataclass(frozen=True, slots=True)
class WatchedConfirmation:
    """A :class:`~rtunnel.wire.invitations.exchange.Confirmation` that tells its invitation what has come of it."""

    _inner: Confirmation
    _open: OpenInvitation

    def mine(self, context: bytes) -> bytes:
        """See :meth:`Confirmation.mine`."""
        return self._inner.mine(context)

    def check(self, theirs: bytes, context: bytes) -> bool:
        """See :meth:`Confirmation.check`. The invitation is over then."""
        # Another connection may have spent it by now.
        is_right = self._open.stage is Stage.ANSWERED and self._inner.check(theirs, context)
        if is_right:
            # Before anybody asks whether this client is known.
            self._open.admit(client_in(context))
        self._open.confirmed(is_right)
        return is_right


@implementer(ISignalUser)
class OpenInvitation:
    """One invitation, and its connection to the signaling server.

    :ivar number: its number, which is final once :attr:`code` is there.
    :ivar terms: what it is for.
    :ivar link: its connection.
    :ivar invitation: its state; None until it can be found.
    :ivar client: what the host calls the client that has redeemed it; empty before, and if that client could not be
        written down.
    """

    log = Logger()

    def __init__(self, owner: Invitations, number: int, terms: Terms) -> None:
        self.number = number
        self.terms = terms
        self.invitation: Invitation | None = None
        self.client = ""
        self._owner = owner
        self._numbers = 1
        self._waiting: list[Deferred[None]] = []
        self._why = ""
        self.link = SignalLink(owner.reactor, owner.signal, invitation_id(number), self, is_host=True)
        self.link.setName(invitation_id(number))

    @property
    def code(self) -> InvitationCode | None:
        """Its code; None until it can be found."""
        return self.invitation.code if self.invitation is not None else None

    @property
    def stage(self) -> Stage:
        """Where it is."""
        if self.invitation is not None:
            return self.invitation.stage
        return Stage.FAILED if self._why else Stage.WAITING

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more."""
        return bool(self._why) or (self.invitation is not None and self.invitation.is_over)

    @property
    def why(self) -> str:
        """Why nobody can find it; empty if there is no reason, or none yet."""
        return self._why or ("" if self.link.up else self.link.why_down)

    @property
    def confirmation(self) -> WatchedConfirmation | None:
        """What a client that names this invitation is to confirm; None if none is expected."""
        found = self.invitation.confirmation if self.invitation is not None else None
        return WatchedConfirmation(found, self) if found is not None else None

    def admit(self, fingerprint: str) -> None:
        """Let the client with this identity be known from now on: it has confirmed the code."""
        self._owner.admit(self, fingerprint)

    def changed(self) -> Deferred[None]:
        """Return what fires when it can be found, is answered, or is over."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def tell(self) -> None:
        """Fire what waits for a change."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def confirmed(self, is_right: bool) -> None:
        """Take note of what a client has confirmed that names this invitation. Then it is over.

        :param is_right: False also for a client that has confirmed nothing.
        """
        if self.invitation is not None:
            self.invitation.confirmed(is_right)
            self._owner.look_at(self)

    def give_up(self, why: str) -> None:
        """End it before anybody can find it."""
        if not self.is_over:
            self._why = why
            self._owner.look_at(self)

    # Called by signaling

    def signaling_up(self) -> None:
        """See :class:`ISignalUser`: it can be found."""
        if self.invitation is None:
            self.invitation = Invitation(new_code(self.number), self._owner.host_id, self._owner.reactor.seconds())
            self.log.info("invitation {number} is open: {terms}", number=self.number, terms=str(self.terms))
            self.tell()

    def signaling_down(self, reason: str) -> None:
        """See :class:`ISignalUser`. The link dials again, and has its ID again by its key."""

    def signal_received(self, signal: object) -> None:
        """See :class:`ISignalUser`: a client's offer, or an error of the server."""
        assert isinstance(signal, Signal)
        if signal.type == OFFER and self.invitation is not None:
            self._take_offer(self.invitation, signal)
        elif signal.type == ERROR and signal.sender_id in ("", self.link.identity) and not self.link.up:
            # A reference server says about nobody what is meant for us.
            self._refused(clean_text(str(signal.payload)))

    def _take_offer(self, invitation: Invitation, signal: Signal) -> None:
        sender = clean_text(signal.sender_id)
        if not signal.sender_id or not self._owner.may_try(signal.sender_id):
            self._owner.log_limiter.warn("client {sender} tries invitations too often; not answered", sender=sender)
            return
        try:
            answer = invitation.take_offer(signal.payload, self._owner.reactor.seconds())
        except BadSignal as error:
            self._owner.log_limiter.warn(
                "invitation {number}: client {sender} sent {error}", number=self.number, sender=sender, error=str(error)
            )
        else:
            self.link.send(Signal(ANSWER, answer, signal.sender_id))
            self.log.info(
                "invitation {number}: client {sender} is answered, and has to show now that its code is right",
                number=self.number,
                sender=sender,
            )
        self._owner.look_at(self)

    def _refused(self, why: str) -> None:
        """The server does not accept this ID."""
        if self.invitation is not None or self._numbers >= MAX_NUMBERS or "in use" not in why:
            self.give_up(f"the signaling server refuses it: {why}")
            return
        self._numbers += 1
        self.number = self._owner.other_number(self._numbers)
        # The connection is about to be closed, and the link dials again.
        self.link.identity = invitation_id(self.number)
        self.link.hurry()


class Invitations(MultiService):
    """The invitations of a host.

    :param reactor: provides TCP, time and name resolution.
    :param signal: how the signaling server is reached.
    :param host_id: the host's ID.
    :param log_limiter: for log lines that strangers can cause.
    :param admit: is given an invitation, and the fingerprint of the client that has confirmed its code.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        signal: SignalClientSettings,
        host_id: str,
        log_limiter: LogLimiter,
        admit: Callable[[OpenInvitation, str], None],
    ) -> None:
        super().__init__()
        self.setName("invitations")
        self.reactor = reactor
        self.signal = signal
        self.host_id = host_id
        self.log_limiter = log_limiter
        self.admit = admit
        self._all: dict[int, OpenInvitation] = {}
        #: Those that are over, for whoever asks what has become of one.
        self._over: dict[int, OpenInvitation] = {}
        self._leaving: list[Deferred[Any]] = []
        now = reactor.seconds()
        self._failures = TokenBucket(FAILURES, FAILURES_AT_ONCE, now)
        self._tries = KeyedBuckets(TRIES, TRIES_AT_ONCE, ALL_TRIES, ALL_TRIES_AT_ONCE, now)
        PeriodicService(reactor, "watch", 1.0, self._watch).setServiceParent(self)

    @property
    def open(self) -> Collection[OpenInvitation]:
        """Those that are not over."""
        return [each for each in self._all.values() if not each.is_over]

    @property
    def latest(self) -> Collection[OpenInvitation]:
        """Those that are open, and the last ones that are over."""
        return [*self._over.values(), *self.open]

    def use(self, signal: SignalClientSettings) -> None:
        """Reach the signaling server in another way, or another one."""
        self.signal = signal
        for each in self.open:
            each.link.use(signal)

    async def invite(self, terms: Terms) -> OpenInvitation:
        """Open an invitation, and return it once it can be found.

        :raises ConfigError: that is not possible now; the message says why.
        """
        if not self.running:
            raise ConfigError("this host is about to end")
        if len(self.open) >= MAX_OPEN:
            raise ConfigError(f"{MAX_OPEN} invitations are open, and there may be no more; withdraw one, or wait")
        now = self.reactor.seconds()
        if not self._failures.left(now):
            minutes = round((1 - self._failures.level(now)) / FAILURES / 60) + 1
            raise ConfigError(
                f"{FAILURES_AT_ONCE} invitations have failed; somebody may be guessing codes, so there is no new one "
                f"for {minutes} min"
            )
        new = OpenInvitation(self, self._free_number(), terms)
        self._all[id(new)] = new
        timer = self.reactor.callLater(OPENS_WITHIN, lambda: new.give_up(_no_signaling(new)))
        new.link.setServiceParent(self)
        while new.code is None and not new.is_over:
            await new.changed()
        if timer.active():
            timer.cancel()
        if new.code is None:
            raise ConfigError(new.why or "it is withdrawn")
        return new

    def find(self, number: int) -> OpenInvitation | None:
        """Return the invitation with this number, which may be over; None if there is none."""
        found = [each for each in self._all.values() if each.number == number and not each.is_over]
        return found[0] if found else self._over.get(number)

    def answered(self, number: str) -> OpenInvitation | None:
        """Return the invitation that a client names and that was answered; None if there is none.

        :param number: as the client has written it.
        """
        for each in self.open:
            if str(each.number) == number and each.stage is Stage.ANSWERED:
                return each
        return None

    def withdraw(self, each: OpenInvitation) -> None:
        """End an invitation."""
        if each.invitation is None:
            each.give_up("it is withdrawn")
        else:
            each.invitation.withdraw()
            self.look_at(each)

    # Called by the invitations

    def may_try(self, sender: str) -> bool:
        """Count a message of a client; return whether it may be looked at."""
        return self._tries.take(sender, 1, self.reactor.seconds())

    def other_number(self, attempt: int) -> int:
        """Return another number, which gets longer with each attempt."""
        highest = min(10**attempt - 1, MAX_NUMBER)
        return secrets.randbelow(highest) + 1

    def look_at(self, each: OpenInvitation) -> None:
        """Take note of what has become of an invitation."""
        if (each.is_over or each.stage is Stage.ANSWERED) and each.link.parent is not None:
            # What was sent goes out before the connection is closed.
            leaving = maybeDeferred(each.link.disownServiceParent)
            self._leaving.append(leaving)
            leaving.addBoth(lambda _: self._leaving.remove(leaving))
        if each.is_over and self._all.pop(id(each), None) is not None:
            self._remember(each)
            self._say_end(each)
        each.tell()

    def _remember(self, each: OpenInvitation) -> None:
        self._over.pop(each.number, None)
        self._over[each.number] = each
        while len(self._over) > MAX_OPEN:
            del self._over[next(iter(self._over))]

    def _say_end(self, each: OpenInvitation) -> None:
        if each.stage is Stage.FAILED and each.invitation is not None:
            self._failures.level(self.reactor.seconds())
            self._failures.spend(1)
            self.log.warn(
                "invitation {number} is spent: {why}; nobody was let in; make a new one ('rtunnel host invite')",
                number=each.number,
                why="somebody has tried a wrong code"
                if each.invitation.was_wrong
                else f"whoever was answered has not shown a code within {CONNECTS_WITHIN:.0f} s",
            )
        elif each.code is not None:
            self.log.info("invitation {number} is {stage}", number=each.number, stage=each.stage.value)

    def _free_number(self) -> int:
        taken = {each.number for each in self._all.values()}
        return next(number for number in range(1, MAX_OPEN + 2) if number not in taken)

    def _watch(self) -> None:
        do_all([lambda each=each: self._tick(each) for each in self.open])  # type: ignore[misc]

    def _tick(self, each: OpenInvitation) -> None:
        if each.invitation is not None:
            each.invitation.tick(self.reactor.seconds())
            if each.is_over:
                self.look_at(each)

    def stopService(self) -> Deferred[None]:
        """Withdraw all invitations, and wait until their connections are closed. May be called again."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for each in self.open:
            self.withdraw(each)
        await maybeDeferred(super().stopService)
        await gatherResults(list(self._leaving))


def _no_signaling(each: OpenInvitation) -> str:
    return f"the signaling server has not accepted it within {OPENS_WITHIN:.0f} s: {each.link.why_down or 'no answer'}"
