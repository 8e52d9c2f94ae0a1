"""The other end of a link that is not there yet: what must be known of it, so that its visitors may stay."""

from __future__ import annotations

from base64 import b64decode
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rtunnel.access.admission import Admission, Claim
from rtunnel.upkeep.memory import Memory
from rtunnel.wire.data.frozen import Fields, State, text_of
from rtunnel.wire.limits import LinkLimits

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: The most certificates in a chain, and the longest of them as text.
MOST_CERTIFICATES, LONGEST = 16, 1 << 20


def write_identity(peer: Peer | None) -> State | None:
    """Return an identity as JSON has it."""
    if peer is None:
        return None
    from cryptography.hazmat.primitives.serialization import Encoding

    chain = (peer.certificate, *peer.issuers)
    return {"group": peer.group, "chain": [text_of(each.public_bytes(Encoding.DER)) for each in chain]}


def read_identity(state: Fields, name: str) -> Peer | None:
    """Return what :func:`write_identity` was given.

    :raises ValueError: this is not from it.
    """
    if not state.has(name):
        return None
    # Most processes have no TLS, or nothing to read here.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    from rtunnel.tls.identity import Peer

    found = state.fields(name)
    chain = found.all("chain")
    if not 1 <= len(chain) <= MOST_CERTIFICATES or any(len(each) > LONGEST for each in chain):
        raise ValueError("no chain of certificates")
    try:
        first, *issuers = (x509.load_der_x509_certificate(b64decode(each, validate=True)) for each in chain)
        return Peer.of(first, found.text("group"), tuple(issuers))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error


class AbsentLink:
    """As much of a link as data connections need while there is none."""

    def __init__(self, limits: LinkLimits) -> None:
        self.limits = self.data_limits = limits
        self.streams: dict[int, Any] = {}
        self.stream_count = self.direct_streams = 0
        self.peer = None
        self.capabilities: frozenset[str] = frozenset()
        self.windows = SimpleNamespace(is_full=False)


class AbsentClient:
    """A client that is expected back: a stand-in for its session.

    :ivar known_as: see :class:`~rtunnel.reverse.server.carrying.CarryingSession`, also for what follows.
    """

    wants_visitors = False
    node = ""

    def __init__(self, state: Fields, admission: Admission, memory: Memory, limits: LinkLimits) -> None:
        """Read it.

        :raises ValueError: :func:`write_client` has not written this.
        """
        names = state.all("known_as")
        if len(names) != 2 or not all(isinstance(each, str) for each in names):
            raise ValueError("the client has no name")
        self.known_as: tuple[str, str] = names[0], names[1]
        self.identity = read_identity(state, "identity")
        self.peer_name, self.payer = state.text("peer"), state.text("payer")
        self.claim = Claim(
            certificate=self.identity.name if self.identity is not None else None,
            token=state.text("token") if state.has("token") else None,
            is_local=state.flag("is_local"),
        )
        self.memory = memory
        self.link: Any = AbsentLink(limits)
        self.backends: dict[int, Any] = {}
        self._admission = admission

    @property
    def may_stay(self) -> bool:
        """Whether the client would be let in now."""
        return self._admission.decide(self.claim).why_not is None

    def flush(self) -> None:
        """Do nothing: there is no link."""

    def count_streams(self) -> None:
        """Do nothing: they count once there is a link."""

    def leave(self, pool: Any) -> None:
        """Do nothing: who keeps the pool sees that it is over."""

    def send_tickets(self, first: int, count: int, expires: float) -> None:
        """Do nothing: no more data connections are wanted."""


def write_client(session: Any) -> State:
    """Return what another process must know of a client.

    :param session: its session, or an :class:`AbsentClient`.
    """
    claim: Claim = session.claim
    return {
        "known_as": list(session.known_as),
        "identity": write_identity(session.identity),
        "peer": session.peer_name,
        "payer": session.payer,
        "token": claim.token,
        "is_local": claim.is_local,
    }
