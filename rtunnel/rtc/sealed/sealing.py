"""What all sealed peer connections of a process have in common, and what one by an invitation has of its own."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import execute

from rtunnel.access.identities import Identity
from rtunnel.access.trust import Trust
from rtunnel.rtc.sealed.second import Run
from rtunnel.rtc.sealed.self_signed import SelfSigned
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.tls.policy import Role
from rtunnel.wire.webrtc.sealed_keys import Side


class Confirmation(Protocol):
    """Shows the other end that this one knows the code of an invitation, and checks that it does.

    The context names both identities, and both certificates of DTLS as this end sees them.
    """

    def mine(self, context: bytes) -> bytes:
        """Return what this end sends, 32 bytes."""

    def check(self, theirs: bytes, context: bytes) -> bool:
        """Return whether the other end has sent what belongs to the code. Called once."""


_NO_HEDGES = Hedges(None, ())


class Sealing:
    """What all sealed connections of a process have in common.

    :param side: which end it is.
    :param identity: who it is.
    :param trust: whom it accepts.
    :param hedges: what it mixes into the keys beside X25519 and ML-KEM; the other end must have the same.
    :param run: calls in a thread what takes long; by default at once.
    :raises rtunnel.errors.ConfigError: TLS cannot use the identity.
    """

    def __init__(
        self, side: Side, identity: Identity, trust: Trust, hedges: Hedges = _NO_HEDGES, run: Run = execute
    ) -> None:
        self.side = side
        self.run = run
        self.trust = trust
        self.hedges = hedges
        self.use(identity)

    @property
    def needs_seals(self) -> bool:
        """Whether an end that does not seal is refused: this one knows whom it trusts, or has hedges to mix in."""
        return self.trust.is_closed or bool(self.hedges)

    def use(self, identity: Identity) -> None:
        """Be this one in later connections.

        :raises rtunnel.errors.ConfigError: TLS cannot use the identity.
        """
        self.identity = identity
        role = Role.SERVER if self.side is Side.HOST else Role.CLIENT
        self.credentials = SelfSigned(role, identity.certificate, identity.chain, identity.key)
