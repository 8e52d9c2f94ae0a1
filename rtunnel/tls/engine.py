"""TLS of one connection: bytes from the network in, bytes of the link out, and the other way round. No I/O.

    handshake -> up -> ended        (the peer said goodbye)
        |         |
        +---------+--> failed       (:attr:`TlsEngine.failure` says why)

Twisted has a TLS of its own; this one differs in what a link needs. Nobody is told of a connection before its other end
is proved. Why one is refused is a sentence for the operator, at both ends. And what a link writes at a time becomes
records in one call, and one write.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from OpenSSL import SSL

from rtunnel.pki.certificates import is_post_quantum, key_kind
from rtunnel.tls import explanations, openssl
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.identity import Peer, show_subject
from rtunnel.tls.policy import CLASSICAL_OPTION, GROUPS, Role
from rtunnel.tls.sessions import Session

#: Bytes of one record that are not the link's: header, type, tag.
RECORD_OVERHEAD = 22
#: What is asked of OpenSSL beyond what must be there: a goodbye, an answer to a change of keys.
_SLACK = 512
_READ = 32768
_reader = openssl.Reader(256 * 1024)
_HANDSHAKE = 32768

#: Given the other end's certificate: why it is not accepted, or None.
Judge = Callable[[x509.Certificate], str | None]


def accept_anybody(_certificate: x509.Certificate) -> str | None:
    """The judge at a server: who may do what is asked later, by name."""
    return None


class TlsEngine:
    """One end of one connection.

    :param credentials: the files that it uses are those of this moment.
    :param judge: what it takes beyond a valid certificate of a trusted CA for the right purpose.
    :param server_name: at a client: what it asks for by SNI; empty: nothing.
    :param session: at a client: what to go on from, if both ends still may. Else the handshake is a whole one.
    :ivar role: which end this is.
    :ivar peer: who is at the other end; None before that is proved.
    :ivar is_resumed: whether that was proved by a session.
    :ivar failure: why nothing more can be done; empty while it can.
    :ivar ended: the peer has said that nothing more comes.
    """

    __slots__ = (
        "_allow_classical",
        "_before_ticket",
        "_connection",
        "_credentials",
        "_judge",
        "_loaded",
        "_offered",
        "_refusal",
        "_shook_hands",
        "_waiting",
        "ended",
        "failure",
        "is_resumed",
        "peer",
        "role",
    )

    def __init__(
        self,
        credentials: Credentials,
        judge: Judge = accept_anybody,
        server_name: str = "",
        session: Session | None = None,
    ) -> None:
        self._credentials = credentials
        self._loaded = credentials.now
        self.role = credentials.role
        self._allow_classical = credentials.settings.allow_classical_certs
        self._judge = judge
        self._refusal = ""
        self._waiting = _HANDSHAKE
        self._shook_hands = False
        self.peer: Peer | None = None
        self.failure = ""
        self.ended = False
        self.is_resumed = False
        self._before_ticket: SSL.Session | None = None
        self._offered: Session | None = None
        self._connection = SSL.Connection(self._loaded.context, None)
        self._connection.set_app_data(self)
        may_resume = not self._loaded.sessions.are_over
        if self.role is Role.SERVER:
            self._connection.set_accept_state()
            if not may_resume:
                self._connection.set_options(SSL.OP_NO_TICKET)
            return
        self._connection.set_connect_state()
        if server_name:
            self._connection.set_tlsext_host_name(server_name.encode("ascii"))
        if session is not None and may_resume and session.context is self._loaded.context:
            self._offered = session
            session.offer(self._connection)

    @property
    def session(self) -> Session | None:
        """At a client, after a whole handshake, once the server's ticket has come: for further connections."""
        if self._before_ticket is None:
            return None
        session = self._connection.get_session()
        if session is None or openssl.is_same_session(session, self._before_ticket):
            return None
        return Session(self._loaded.context, openssl.write_session(session))

    @property
    def connection(self) -> SSL.Connection:
        """For :class:`~rtunnel.tls.socket.TlsSocket`."""
        return self._connection

    @property
    def was_ended(self) -> bool:
        """Whether the peer has said that nothing more comes, to whoever was told."""
        return bool(self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)

    def start(self) -> None:
        """Begin, where this end speaks first; see :meth:`output`."""
        if self.role is Role.CLIENT:
            self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the network; those of the link that they hold. There may be :meth:`output` then."""
        if self.failure or self.ended or not data:
            return b""
        connection = self._connection
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
        # The link has less to do with one piece than with one for each record.
        return received[0] if len(received) == 1 else b"".join(received)

    def send(self, data: bytes) -> None:
        """Take bytes of the link, once :attr:`peer` is known; they are then part of :meth:`output`."""
        if self.failure or not data:
            return
        try:
            self._connection.send(data)
        except SSL.Error as error:
            self._fail(error)
        else:
            self._waiting += len(data) + (len(data) // openssl.RECORD + 1) * RECORD_OVERHEAD

    def say_goodbye(self) -> None:
        """Tell the peer that nothing more comes."""
        if not self.failure:
            try:
                self._connection.shutdown()
            except SSL.Error as error:
                self._fail(error)

    def close(self) -> None:
        """The connection is over, in whichever way."""
        self._connection.set_app_data(None)
        if self.peer is not None:
            openssl.end(self._connection)

    def output(self) -> bytes:
        """What is to go to the network."""
        size = self._waiting + _SLACK
        self._waiting = 0
        pieces = []
        try:
            while True:
                piece = self._connection.bio_read(size)
                pieces.append(piece)
                if len(piece) < size:
                    break
        except SSL.Error:
            # WantReadError: there is no more.
            pass
        if self._shook_hands:
            self._shook_hands = False
            openssl.renew_memory(self._connection)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _shake_hands(self) -> None:
        self._waiting = _HANDSHAKE
        connection = self._connection
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            if self.role is Role.SERVER and openssl.is_resumed(connection):
                # OpenSSL sends one more ticket; without its content, as a session is to become no younger.
                connection.set_options(SSL.OP_NO_TICKET)
            return
        except SSL.Error as error:
            self._fail(error)
            return
        # What was offered was right; what was agreed on is looked at all the same.
        group = connection.get_group_name() or "none"
        certificate = connection.get_peer_certificate(as_cryptography=True)
        version = connection.get_protocol_version_name()
        if version != "TLSv1.3" or group not in GROUPS:
            self.failure = f"{version} with key exchange {group} was agreed on, which is not post-quantum TLS 1.3"
        elif certificate is None:
            self.failure = f"the {self.role.other.value} has no certificate"
        elif openssl.is_resumed(connection) and not self._accepts_again(certificate):
            self.failure = self._refusal
        else:
            # Nothing is verified from here on, and a circle would only be freed by a search for circles.
            connection.set_app_data(None)
            self._shook_hands = True
            self.is_resumed = openssl.is_resumed(connection)
            if self._offered is not None and not self.is_resumed:
                self._offered.was_refused()
            self.peer = Peer.of(certificate, group)
            if self.role is Role.CLIENT and not self.is_resumed:
                self._before_ticket = connection.get_session()

    def _accepts_again(self, certificate: x509.Certificate) -> bool:
        """Whether what was right in the handshake of a session still is; OpenSSL does not look at it again."""
        now = datetime.now(UTC)
        error = 0
        if now > certificate.not_valid_after_utc:
            error = explanations.EXPIRED
        elif now < certificate.not_valid_before_utc:
            error = explanations.NOT_YET
        elif self._credentials.now.is_revoked(certificate):
            error = explanations.REVOKED
        return self.accepts(certificate, error, 0)

    def _fail(self, error: SSL.Error) -> None:
        if self._refusal:
            self.failure = self._refusal
        else:
            self.failure = explanations.explain(error, self.role, self._allow_classical, in_handshake=self.peer is None)

    def accepts(self, certificate: x509.Certificate, error: int, depth: int) -> bool:
        """See :class:`~rtunnel.tls.policy.Verifier`."""
        if error in explanations.NOT_AN_ERROR:
            return True
        try:
            why = self._why_not(certificate, error, depth)
        except ValueError as problem:
            why = f"it cannot be read: {problem}"
        if why:
            self._refusal = f"the {self.role.other.value}'s certificate is refused: {why}"
        elif depth:
            self._loaded.sessions.saw_issuer(certificate)
        return not why

    def _why_not(self, certificate: x509.Certificate, error: int, depth: int) -> str | None:
        if error:
            return explanations.explain_certificate(certificate, error)
        if not self._allow_classical and not is_post_quantum(certificate):
            return (
                f"{show_subject(certificate)} has a key of {key_kind(certificate)}, which a quantum computer can "
                f"forge; {CLASSICAL_OPTION} would allow it"
            )
        return None if depth else self._judge(certificate)
