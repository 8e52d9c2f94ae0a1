"""The control channel of a sealed peer connection: who is at the other end, and the root of all keys.

    client   KEYS, ClientHello -->                                host
             <-- KEYS, ServerHello ... Finished
             certificate ... Finished, BIND -->                   the client seals from here on
             <-- BIND, or a refusal                               so does the host, once it has taken the client's BIND

    waiting --begin--> greeting --TLS--> binding --BIND--> bound        (:attr:`SealedSession.state`)
       +------------------+-----------------+-------------> over

KEYS go beside TLS, so that the client need not wait a second time; see :mod:`rtunnel.rtc.sealed.key_exchange`. TLS's
exporter, whose context has both of them, binds them to it; see :mod:`rtunnel.wire.webrtc.sealed_keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.access.trust import PeerIdentity, Verdict
from rtunnel.errors import Code, one_line
from rtunnel.rtc.interfaces import IChannel, IChannelUser
from rtunnel.rtc.sealed.key_exchange import KeyExchange
from rtunnel.rtc.sealed.sealing import Confirmation, Sealing
from rtunnel.rtc.sealed.second import SecondSignatures, Why
from rtunnel.rtc.sealed.session_user import SessionUser
from rtunnel.tls.engine import TlsEngine
from rtunnel.wire.data.keys import Root
from rtunnel.wire.webrtc.seal_control import Bind, Messages, Refusal, encode_bind, encode_refusal
from rtunnel.wire.webrtc.sealed_keys import EXPORTER_LABEL, EXPORTER_LENGTH, SECOND_LABEL, Ends, Side, bind_key

#: The most bytes that come on a control channel in the life of a connection. A handshake with the largest certificates
#: of ML-DSA and two CAs above them has 40 KiB. With hedges there are as many more as KEYS has more.
MOST = 256 * 1024
#: The most messages in TLS; two are known, and later versions may have more.
MOST_MESSAGES = 64
#: The size of the pieces in which bytes of TLS are sent.
_PIECE = 16384

#: What the parser of certificates raises; see :mod:`cryptography.x509` and :mod:`OpenSSL.crypto`.
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    crypto.Error,
)

IN_BETWEEN = (
    "somebody sits between this end and the {other}: the {other} sees other certificates in DTLS than this end does. "
    "Whoever runs the signaling server can do that; nothing was carried"
)
OTHER_KEYS = "the two ends have different keys: somebody on the way has changed what they agree on; nothing was carried"


State = Enum("State", "WAITING GREETING BINDING BOUND OVER")
"""The state of a session; see the diagram at the top of the module."""


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@implementer(IChannelUser)
class SealedSession:
    """One end of a control channel.

    :param peer_id: the host's ID; empty at a host.
    :param confirm: for an invitation; None: there is none.
    :ivar state: see the diagram at the top of the module.
    :ivar verdict: what is said of the other end; None: nothing yet.
    :ivar group: the group of the key exchange, such as ``X25519MLKEM768``; empty before TLS is up.
    :ivar signature: the algorithms with which the other end has signed, such as ``ML-DSA-65``; after its BIND with that
        of its second key, such as ``ML-DSA-65 + Falcon-1024``.
    :ivar fingerprint: of that certificate.
    """

    log = Logger()

    def __init__(
        self, sealing: Sealing, user: SessionUser, peer_id: str, confirm: Callable[[], Confirmation | None]
    ) -> None:
        self._sealing = sealing
        self._user = user
        self._peer_id = peer_id
        self._make_confirm = confirm
        self._confirm: Confirmation | None = None
        self._channel: IChannel | None = None
        self._engine = TlsEngine(sealing.credentials)
        self._exchange = KeyExchange(sealing.side, sealing.hedges, self)
        self._second = SecondSignatures(sealing.side, sealing.identity.second, sealing.run)
        self._digests = b"", b""
        self._ends: Ends | None = None
        self._root: Root | None = None
        self._bind: Bind | None = None
        self._is_bind_sent = False
        self._messages = Messages()
        self._identity: PeerIdentity | None = None
        self._came = self._said = 0
        self.state = State.WAITING
        self.verdict: Verdict | None = None
        self.group = self.signature = self.fingerprint = ""

    @property
    def _side(self) -> Side:
        return self._sealing.side

    @property
    def _other(self) -> Side:
        return self._side.other

    def begin(self, channel: IChannel, own: bytes, peers: bytes) -> None:
        """Use the control channel, which was just opened or has just arrived.

        :param own: the SHA-256 of this end's certificate in DTLS.
        :param peers: that of the other end's.
        """
        assert self.state is State.WAITING
        self.state = State.GREETING
        self._channel = channel
        self._digests = own, peers
        self._confirm = self._make_confirm()
        channel.use(self)
        self._exchange.begin()

    @property
    def held(self) -> int:
        """How many bytes the other end has made this one hold for KEYS."""
        return self._exchange.held

    # From the exchange of KEYS

    def send_keys(self, message: bytes) -> None:
        """See :class:`~rtunnel.rtc.sealed.key_exchange.ExchangeUser`."""
        assert self._channel is not None
        self._channel.send(message)

    def keys_sent(self, waiting: list[bytes]) -> None:
        """See :class:`~rtunnel.rtc.sealed.key_exchange.ExchangeUser`."""
        if self.state is State.OVER:
            return
        if self._side is Side.CLIENT:
            self._engine.start()
            self._flush()
        for data in waiting:
            self._take(data)

    def keys_failed(self, why: str, *, is_ours: bool) -> None:
        """See :class:`~rtunnel.rtc.sealed.key_exchange.ExchangeUser`."""
        self._end(why if is_ours else f"the {self._other} broke the protocol of sealed channels: {why}")

    def _flush(self) -> None:
        assert self._channel is not None
        data = self._engine.output()
        for start in range(0, len(data), _PIECE):
            self._channel.send(data[start : start + _PIECE])

    # From the channel

    def channel_opened(self) -> None:
        """Do nothing: what is sent goes out behind the message that opens the channel."""

    def message_received(self, data: bytes) -> None:
        """Take KEYS or bytes of TLS."""
        self._came += len(data)
        self._take(data)

    def _take(self, data: bytes) -> None:
        if self.state is State.OVER:
            return
        most = MOST + self._exchange.longer
        try:
            if self._came > most:
                raise ValueError(f"more than {most} bytes on the control channel")
            if not self._exchange.take(data):
                self._take_tls(data)
        except ValueError as error:
            self._end(f"the {self._other} broke the protocol of sealed channels: {error}")

    def text_received(self, text: bytes) -> None:
        """End the connection: there are no text messages."""
        if self.state is not State.OVER:
            self._end(f"the {self._other} broke the protocol of sealed channels: a text message on the control channel")

    def channel_closed(self) -> None:
        """Find out whether it is the whole connection that is lost."""
        if self.state is not State.OVER:
            self._user.control_closed()

    def control_is_closed(self) -> None:
        """End the connection: without its control channel it cannot be sealed."""
        if self.state is State.GREETING and not self._exchange.has_come:
            self._end(
                f"the {self._other} does not seal, although it announces it: somebody on the way has changed what "
                "the ends announce to each other, or its rtunnel is being stopped"
            )
        elif self.state is not State.OVER:
            self._end(f"the {self._other} has closed the control channel")

    def _take_tls(self, data: bytes) -> None:
        engine = self._engine
        try:
            plain = engine.receive(data)
        except UNREADABLE as error:
            raise ValueError(f"a certificate that cannot be read ({type(error).__name__})") from None
        self._flush()
        if engine.peer is not None and self._root is None:
            self._shook_hands()
        if self.state is not State.OVER and plain:
            for message in self._messages.feed(plain):
                self._take_message(message)
        if self.state is State.OVER:
            return
        if engine.failure:
            failure = engine.failure.replace("the server", "the host")
            self._end(f"TLS with the {self._other} failed: {failure}", linger=engine.peer is None)
        elif engine.ended:
            self._end(f"the {self._other} has ended TLS")

    # TLS is up

    def _shook_hands(self) -> None:
        engine = self._engine
        peer = engine.peer
        assert peer is not None
        digests = {
            self._side: sha256(_der(engine.certificate)).digest(),
            self._other: sha256(_der(peer.certificate)).digest(),
        }
        dtls = dict(zip((self._side, self._other), self._digests, strict=True))
        ends = self._ends = Ends(digests[Side.HOST], digests[Side.CLIENT], dtls[Side.HOST], dtls[Side.CLIENT])
        context = ends.exporter_context(self._exchange.digest)
        self._root = self._exchange.finish(engine.export(EXPORTER_LABEL, EXPORTER_LENGTH, context))
        self.group, self.signature, self.fingerprint = peer.group, peer.signature, peer.fingerprint
        self._identity = PeerIdentity(peer.certificate, peer.fingerprint, engine.shown, self._peer_id)
        self._second.begin(peer.certificate, engine.export(SECOND_LABEL, EXPORTER_LENGTH, context))
        self.state = State.BINDING
        # With an invitation, whoever knows the code is accepted from then on.
        if self._confirm is None and not self._judge():
            return
        self._second.prove(self._send_bind)

    def _send_bind(self, second: bytes) -> None:
        ends, root = self._ends, self._root
        if self.state is not State.BINDING or ends is None or root is None:
            return
        confirm = b"" if self._confirm is None else self._confirm.mine(ends.context)
        keys = bind_key(root.root, self._side)
        self._say(encode_bind(Bind(ends.host_dtls, ends.client_dtls, keys, confirm, second)))
        self._is_bind_sent = True
        if not self._needs_bind:
            self._user.sealed(root)
        if self._bind is not None:
            self._take_bind(self._bind)

    @property
    def _needs_bind(self) -> bool:
        """Whether nothing is carried before the other end's BIND is taken."""
        return self._side is Side.HOST or self._confirm is not None or self._second.is_awaited

    def _say(self, message: bytes) -> None:
        self._engine.send(message)
        self._flush()

    def _judge(self) -> bool:
        """Return whether the other end is accepted; tell it if it is not."""
        assert self._identity is not None
        verdict = self.verdict = self._sealing.trust.judge(self._identity)
        if verdict.refusal:
            self.refuse(verdict.code, verdict.refusal)
        return not verdict.refusal

    def judge_again(self) -> bool:
        """Return whether the other end is still accepted; if it is not, the connection is over."""
        if self.state not in (State.BINDING, State.BOUND) or self.verdict is None:
            return True
        if self._second.is_unchecked and self._sealing.trust.is_closed:
            self.refuse(Code.UNAUTHORIZED, f"the {self._side} cannot check the second key of the {self._other}")
            return False
        return self._judge()

    def _take_message(self, message: Bind | Refusal | None) -> None:
        if self.state is State.OVER:
            return
        self._said += 1
        if self._said > MOST_MESSAGES:
            raise ValueError(f"more than {MOST_MESSAGES} messages on the control channel")
        if isinstance(message, Refusal):
            self._end(f"the {self._other} refuses this {self._side}: {message.message or message.code}")
        elif isinstance(message, Bind):
            if self._bind is not None:
                raise ValueError("a second bind")
            self._bind = message
            if self._is_bind_sent:
                self._take_bind(message)

    def _take_bind(self, bind: Bind) -> None:
        ends, root = self._ends, self._root
        assert ends is not None
        assert root is not None
        if (bind.host, bind.client) != (ends.host_dtls, ends.client_dtls):
            self._refuse(Code.UNAUTHORIZED, IN_BETWEEN.format(other=self._side), IN_BETWEEN.format(other=self._other))
            return
        if not compare_digest(bind.keys, bind_key(root.root, self._other)):
            self.refuse(Code.UNAUTHORIZED, OTHER_KEYS)
            return
        # Whoever comes by an invitation is trusted by his fingerprint from then on.
        is_open = not self._sealing.trust.is_closed and self._confirm is None
        self._second.check(bind.second, is_open, self._checked_second)

    def _checked_second(self, why: Why | None) -> None:
        ends, root, bind = self._ends, self._root, self._bind
        if self.state is not State.BINDING or ends is None or root is None or bind is None:
            return
        if why is not None:
            self._refuse(Code.UNAUTHORIZED, *why)
            return
        if self._second.name:
            self.signature += f" + {self._second.name}"
        if self._confirm is not None:
            if not bind.confirm or not self._confirm.check(bind.confirm, ends.context):
                self.refuse(Code.UNAUTHORIZED, "the code of the invitation is wrong")
                return
            if not self._judge():
                return
        self.state = State.BOUND
        self._user.bound()
        if self._needs_bind:
            self._user.sealed(root)

    # Ends

    def refuse(self, code: Code, why: str) -> None:
        """End the connection, and tell the other end why."""
        self._refuse(code, why, f"it is refused: {one_line(why)}")

    def _refuse(self, code: Code, theirs: str, ours: str) -> None:
        if self._engine.peer is not None and self.state is not State.OVER:
            self._say(encode_refusal(code, theirs))
        self._end(ours, linger=True)

    def _end(self, reason: str, *, linger: bool = False) -> None:
        if self.state is not State.OVER:
            self.state = State.OVER
            self._exchange.forget()
            self._user.session_over(reason, linger=linger)

    def close(self) -> None:
        """Say nothing more: the connection is over."""
        self.state = State.OVER
        self._exchange.forget()
        self._root = self._channel = self._confirm = self._bind = None
        # No reference cycles.
        forgotten: Any = None
        self._user = self._make_confirm = forgotten
