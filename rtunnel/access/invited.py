"""Whom a client trusts that was invited."""

from __future__ import annotations

from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.trust import PeerIdentity, Verdict


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
