"""How the two ends of an invitation get a strong key from a short code (docs/wire.rst, "Invitations").

SPAKE2 (RFC 9382 has its idea; the group, the constants and the transcript are those of the package ``spake2``, which
Magic Wormhole uses). Each end sends one message. Whoever does not know the code learns from it whether one guess is
right, and nothing else; there is nothing to try further guesses on later.

The key confirms the two ends to each other within their TLS session; it protects nothing that is carried. So a quantum
computer that breaks SPAKE2 from a recording finds a code that is spent.

The package computes in plain Python, in a time that depends on the code. So a :class:`Half` does as much as it can
before anybody waits for it, and whoever sends something after :meth:`Half.finish` lets a fixed time pass before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rtunnel.wire.invitations.code import InvitationCode

HOST: Final = b"host"
CLIENT: Final = b"client"

#: The length of a message of SPAKE2 in bytes: the sender's side and a point of Ed25519.
MESSAGE: Final = 33
#: The length of a confirmation, in bytes.
CONFIRM: Final = 32

_ID_CLIENT = b"rtunnel client"


def _other(role: bytes) -> bytes:
    return HOST if role == CLIENT else CLIENT


class BadExchange(ValueError):
    """A message of SPAKE2 that no honest peer sends: reflected, cut, or not a point of the group."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Shows the other end of a TLS session that this end knows the code, and checks that the other one does.

    :ivar key: 32 secret bytes, which both ends have if both have used the same code.
    :ivar role: :data:`HOST` or :data:`CLIENT`, of this end.
    """

    key: bytes = field(repr=False)
    role: bytes

    def mine(self, context: bytes) -> bytes:
        """Return what this end sends: :data:`CONFIRM` bytes.

        :param context: the SHA-256 of the host's identity, of the client's, and of the certificates that the host
            and the client have in DTLS, as this end sees them.
        """
        return digest(self.key, self.role + context, "sha256")

    def check(self, theirs: bytes, context: bytes) -> bool:
        """Return whether the other end has the same key, and sees the same ends and connection."""
        return compare_digest(digest(self.key, _other(self.role) + context, "sha256"), theirs)


def host_in(context: bytes) -> str:
    """Return the fingerprint of the host's identity that a context names, 64 hexadecimal digits."""
    return context[:32].hex()


def client_in(context: bytes) -> str:
    """Return the fingerprint of the client's identity that a context names."""
    return context[32:64].hex()


class Half:
    """One end's half of the exchange. It is good for one exchange.

    :param role: :data:`HOST` or :data:`CLIENT`.
    :ivar message: what this end sends, :data:`MESSAGE` bytes.
    """

    __slots__ = ("_role", "_side", "message")

    def __init__(self, code: InvitationCode, role: bytes) -> None:
        # Most processes never need it, and its constants take 60 ms.
        from spake2 import SPAKE2_A, SPAKE2_B

        kind = SPAKE2_B if role == HOST else SPAKE2_A
        self._role = role
        self._side: Any = kind(str(code).encode(), idA=_ID_CLIENT, idB=code.signaling_id.encode())
        self.message: bytes = self._side.start()

    def finish(self, theirs: bytes, host_id: str) -> Confirmation:
        """Take the other end's message, and return what the two can confirm to each other.

        :param host_id: the ID of the host, as it said it. If the ends have different ones, so are their keys.
        :raises BadExchange: the message cannot be used. Nothing else can be done with this half.
        """
        from spake2 import SPAKEError

        side, self._side = self._side, None
        if side is None:
            raise BadExchange("a second message")
        if not is_point(theirs, _other(self._role)):
            raise BadExchange("a message that is not one of SPAKE2's")
        try:
            shared = side.finish(theirs)
        except SPAKEError as error:
            raise BadExchange("our own message") from error
        info = b"rtunnel invitation" + sha256(host_id.encode()).digest()
        return Confirmation(HKDF(SHA256(), 32, None, info).derive(shared), self._role)


def is_point(message: bytes, role: bytes) -> bool:
    """Return whether this may be a message of SPAKE2, of an end with this role. It says nothing about the code."""
    from spake2.ed25519_basic import NotOnCurve
    from spake2.parameters.ed25519 import ParamsEd25519

    if len(message) != MESSAGE or message[:1] != (b"B" if role == HOST else b"A"):
        return False
    try:
        ParamsEd25519.group.bytes_to_element(message[1:])
    except (ValueError, NotOnCurve):
        return False
    return True
