"""TLS of one connection: bytes from the network in, bytes of the link out, and vice versa. No I/O.

    handshake -> up -> ended        (the peer has sent close_notify)
        |         |
        +---------+--> failed       (:attr:`TlsEngine.failure` says why)

Twisted has a TLS of its own; a link needs three things more. Nobody above hears of a connection before its peer is
authenticated. Both ends can tell the operator in a sentence why a connection is refused. And all that a link writes at
one time becomes records in one call, and one write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from rtunnel.pki.certificates import classical_problem, is_post_quantum
from rtunnel.tls import explanations, openssl
from rtunnel.tls.identity import Peer, show_subject
from rtunnel.tls.policy import CLASSICAL_OPTION, GROUPS, Role

#: Bytes that TLS adds to each record: header, content type, tag.
RECORD_OVERHEAD = 22
#: Bytes to read from OpenSSL beyond those that must be there: a close_notify, the answer to a KeyUpdate.
_SLACK = 512
_READ = 32768
_reader = openssl.Reader(256 * 1024)
_HANDSHAKE = 32768

TOO_MANY_MESSAGES = "it asks for new keys again and again"

#: Takes the peer's certificate; returns why it is not accepted, or None.
Judge = Callable[[x509.Certificate], str | None]


class Presented(Protocol):
    """What one connection presents, and who is not accepted any more; see :class:`~rtunnel.tls.credentials.Loaded`."""

    @property
    def context(self) -> SSL.Context: ...
    @property
    def certificate(self) -> x509.Certificate: ...
    def is_revoked(self, certificate: x509.Certificate) -> bool: ...
    def why_revoked(self, peer: Peer) -> str: ...


class OwnCredentials(Protocol):
    """What an engine is made with: :class:`~rtunnel.tls.credentials.Credentials`, or another
    without CAs.

    :ivar role: which end this is.
    :ivar needs_ca: whether a CA must vouch for the peer. If not, the peer has only proved that it has the key of its
        certificate, and whoever uses the engine decides whether that is enough.
    :ivar allow_classical: whether a certificate may have a key that a quantum computer can forge.
    :ivar now: what new connections present.
    """

    role: Role

    @property
    def needs_ca(self) -> bool: ...
    @property
    def allow_classical(self) -> bool: ...
    @property
    def now(self) -> Presented: ...
    def saw_issuer(self, ca: x509.Certificate) -> None: ...


class TlsEngine:
    """One end of one connection.

    :param credentials: the connection uses those of this moment.
    :param judge: a further check of the peer's certificate, once it is valid and from a trusted CA. A server needs
        none: it checks later, by name, what a client may do.
    :param server_name: for a client, the SNI to send; empty: none.
    :ivar connection: the connection.
    :ivar role: which end this is.
    :ivar peer: who is at the other end; None until that is authenticated.
    :ivar messages: counts what the peer says after the handshake, beside its data; None before that.
    :ivar failure: why the connection cannot go on; empty while it can.
    :ivar ended: whether the peer has sent close_notify.
    """

    __slots__ = (
        "_allow_classical",
        "_credentials",
        "_judge",
        "_loaded",
        "_refusal",
        "_shook_hands",
        "_waiting",
        "connection",
        "ended",
        "failure",
        "messages",
        "peer",
        "role",
    )

    def __init__(
        self,
        credentials: OwnCredentials,
        judge: Judge | None = None,
        server_name: str = "",
    ) -> None:
        self._credentials = credentials
        self._loaded = credentials.now
        self.role = credentials.role
        self._allow_classical = credentials.allow_classical
        self._judge = judge
        self._refusal = ""
        self._waiting = _HANDSHAKE
        self._shook_hands = False
        self.peer: Peer | None = None
        self.failure = ""
        self.ended = False
        self.connection = SSL.Connection(self._loaded.context, None)
        self.messages: openssl.Messages | None = None
        if self.role is Role.SERVER:
            self.connection.set_accept_state()
            return
        self.connection.set_connect_state()
        if server_name:
            self.connection.set_tlsext_host_name(server_name.encode("ascii"))

    @property
    def certificate(self) -> x509.Certificate:
        """Our own certificate."""
        return self._loaded.certificate

    @property
    def shown(self) -> tuple[x509.Certificate, ...]:
        """The other certificates that the peer has shown beside its own. Nobody has verified them."""
        chain = self.connection.get_peer_cert_chain(as_cryptography=True) or ()
        return tuple(each for each in chain if self.peer is None or each != self.peer.certificate)

    def export(self, label: bytes, length: int, context: bytes) -> bytes:
        """Return what TLS's exporter derives for this connection (RFC 8446, section 7.5), once :attr:`peer` is known.

        :param length: how many bytes.
        """
        return self.connection.export_keying_material(label, length, context)

    def start(self) -> None:
        """Begin the handshake, which the client does; see :meth:`output`."""
        if self.role is Role.CLIENT:
            self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the network; return the link's bytes in them. Look for :meth:`output` afterwards."""
        if self.failure or self.ended or not data:
            return b""
        connection = self.connection
        connection.bio_write(data)
        if self.peer is None:
            self._shake_hands()
            if self.peer is None:
                return b""
        received = []
        try:
            while True:
                received.append(_reader.read(connection))
                received.append(connection.recv(_READ))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            self._fail(error)
        if self.messages is not None and self.messages.are_too_many:
            self.failure = self.failure or TOO_MANY_MESSAGES
        # One piece costs the link less than one for each record.
        return received[0] if len(received) == 1 else b"".join(received)

    def send(self, data: bytes) -> None:
        """Encrypt bytes of the link, once :attr:`peer` is known; they become part of :meth:`output`."""
        if self.failure or not data:
            return
        try:
            self.connection.send(data)
        except SSL.Error as error:
            self._fail(error)
        else:
            self._waiting += len(data) + (len(data) // openssl.RECORD + 1) * RECORD_OVERHEAD

    def say_goodbye(self) -> None:
        """Send close_notify."""
        if not self.failure:
            try:
                self.connection.shutdown()
            except SSL.Error as error:
                self._fail(error)

    def output(self) -> bytes:
        """Return the bytes that are to go to the network."""
        size = self._waiting + _SLACK
        self._waiting = 0
        pieces = []
        try:
            while True:
                piece = self.connection.bio_read(size)
                pieces.append(piece)
                if len(piece) < size:
                    break
        except SSL.Error:
            # WantReadError: there is no more.
            pass
        if self._shook_hands:
            self._shook_hands = False
            openssl.renew_memory(self.connection)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _shake_hands(self) -> None:
        self._waiting = _HANDSHAKE
        connection = self.connection
        # For the verification, and no longer: a reference cycle would keep OpenSSL's memory until the collector comes.
        connection.set_app_data(self)
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self._fail(error)
            return
        finally:
            connection.set_app_data(None)
        # Only what is allowed was offered; check the outcome all the same.
        group = connection.get_group_name() or "none"
        certificate = connection.get_peer_certificate(as_cryptography=True)
        version = connection.get_protocol_version_name()
        if version != "TLSv1.3" or group not in GROUPS:
            self.failure = f"{version} with key exchange {group} was agreed on, which is not post-quantum TLS 1.3"
        elif certificate is None:
            self.failure = f"the {self.role.other.value} has no certificate"
        elif openssl.is_resumed(connection):
            # OpenSSL would have verified no certificate.
            self.failure = f"the {self.role.other.value} resumes a TLS session, which is not allowed"
        else:
            chain = connection.get_verified_chain(as_cryptography=True) if self._credentials.needs_ca else None
            peer = Peer.of(certificate, group, tuple(chain[1:]) if chain else ())
            # The peer may have waited for a new revocation list after its certificate was verified.
            if why := self._credentials.now.why_revoked(peer):
                self.failure = f"the {self.role.other.value}'s certificate is refused: {why}"
                return
            self._shook_hands = True
            self.peer = peer
            self.messages = openssl.Messages(connection)

    def _fail(self, error: SSL.Error) -> None:
        if self._refusal:
            self.failure = self._refusal
        else:
            self.failure = explanations.explain_failure(
                error, self.role, self._allow_classical, in_handshake=self.peer is None
            )

    def accepts(self, certificate: x509.Certificate, error: int, depth: int) -> bool:
        """See :class:`~rtunnel.tls.policy.Verifier`."""
        if error in explanations.NOT_AN_ERROR:
            return True
        if not self._credentials.needs_ca:
            error = 0
        why: str | None = None
        now = self._credentials.now
        try:
            if error:
                why = explanations.explain_certificate(certificate, error)
            elif not self._allow_classical and not is_post_quantum(certificate):
                why = f"{show_subject(certificate)} {classical_problem(certificate)}; {CLASSICAL_OPTION} would allow it"
            elif (depth or now is not self._loaded) and now.is_revoked(certificate):
                # OpenSSL has looked in the lists as they were when the handshake began, and it does not look up CAs if
                # --tls-ca has an intermediate CA without its root.
                why = f"{show_subject(certificate)} is revoked"
            elif not depth and self._judge is not None:
                why = self._judge(certificate)
        except ValueError as problem:
            why = f"it cannot be read: {problem}"
        if why:
            self._refusal = f"the {self.role.other.value}'s certificate is refused: {why}"
        elif depth and self._credentials.needs_ca:
            self._credentials.saw_issuer(certificate)
        return not why
