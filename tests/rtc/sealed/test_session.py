"""The control channel: who is accepted, who is not, and that both ends know why."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.trust import Verdict
from rtunnel.errors import Code
from rtunnel.rtc.sealed import session
from rtunnel.rtc.sealed.end import LINGER, TIMEOUT
from rtunnel.wire.webrtc.seal_control import LABEL, PROTOCOL
from rtunnel.wire.webrtc.sealed_keys import Side
from tests.rtc.fakes import FakeChannelUser
from tests.rtc.sealed.parts import DTLS, Pair, Says, identity

Make = Callable[..., Pair]
BETWEEN = "somebody sits between this end and the {}: the {} sees other certificates in DTLS than this end does."


class Code7:
    """Confirms a code, as an invitation does."""

    def __init__(self, code: bytes, role: bytes) -> None:
        self._code = code
        self._role = role
        self.contexts: list[bytes] = []

    def _of(self, role: bytes, context: bytes) -> bytes:
        return hmac.digest(self._code, role + context, hashlib.sha256)

    def mine(self, context: bytes) -> bytes:
        self.contexts.append(context)
        return self._of(self._role, context)

    def check(self, theirs: bytes, context: bytes) -> bool:
        return hmac.compare_digest(theirs, self._of(b"host" if self._role == b"client" else b"client", context))


def codes(host: bytes, client: bytes) -> tuple[Code7, Code7]:
    return Code7(host, b"host"), Code7(client, b"client")


def test_both_ends_know_who_is_there(make_pair: Make) -> None:
    trusts = Says(name="laptop"), Says(name="cottage")
    pair = make_pair(*trusts).connect()
    for end, other, trust in zip(pair.ends, pair.ends[::-1], trusts, strict=True):
        assert end.news == ["ready", "accepted"]
        assert end.end.shown == f"sealed X25519MLKEM768, ML-DSA-65, {trust.verdict.name}"
        [asked] = trust.asked
        assert asked.fingerprint == other.sealing.identity.fingerprint == end.end.session.fingerprint
        assert asked.certificate == other.sealing.identity.certificate
        assert asked.issuers == ()
    assert [trust.asked[0].peer_id for trust in trusts] == ["", "cottage"]


def test_without_a_name_the_fingerprint_is_shown(make_pair: Make) -> None:
    pair = make_pair(Says(name="")).connect()
    assert pair.host.end.name == show_fingerprint(pair.client.sealing.identity.fingerprint)


def test_one_round_trip_until_the_client_is_ready(make_pair: Make) -> None:
    """Turn 1: the connection, and the client's KEYS and hello; 2: the host's; 3: the client has them."""
    pair = make_pair()
    pair.host.connection.connect(pair.client.connection)
    turns = 0
    while pair.client.news != ["ready"]:
        assert pair.network.pump()
        turns += 1
    assert turns == 3
    assert pair.host.news == []


@pytest.mark.parametrize("refuses", ["host", "client"])
def test_a_refusal_is_said_at_both_ends(make_pair: Make, refuses: str) -> None:
    trust = Says("it has a\nbad face")
    pair = make_pair(trust) if refuses == "host" else make_pair(None, trust)
    pair.connect()
    pair.wait(LINGER)
    one, other = (pair.host, pair.client) if refuses == "host" else (pair.client, pair.host)
    assert one.why == "it is refused: it has a\\nbad face"
    assert other.why == f"the {refuses} refuses this {'client' if refuses == 'host' else 'host'}: it has a\\nbad face"
    assert "ready" not in pair.host.news
    # The other end has closed the connection by then.
    assert one.news == ["failed"]


def test_a_refusal_is_not_waited_for_for_ever(make_pair: Make) -> None:
    pair = make_pair(Says("no")).connect()
    pair.client.connection.silent = True
    assert pair.host.news == ["failed"]
    pair.wait(LINGER)
    assert pair.host.why == "it is refused: no"


@pytest.mark.parametrize("side", [0, 1])
def test_whoever_is_not_accepted_any_more(make_pair: Make, side: int) -> None:
    trusts = Says(), Says()
    pair = make_pair(*trusts).connect()
    _, user = pair.client.open()
    pair.settle()
    assert all(end.end.tick() for end in pair.ends)
    trusts[side].verdict = Verdict("its time is over", Code.UNAUTHORIZED)
    assert [end.end.tick() for end in pair.ends] == [side == 1, side == 0]
    assert pair.ends[side].news == ["ready", "accepted", "failed"]
    pair.settle()
    assert user.told == ["opened", "closed"]
    assert pair.host.users[0].told == ["closed"]
    kind, other = (("client", "host"), ("host", "client"))[side]
    assert pair.ends[1 - side].why == f"the {other} refuses this {kind}: its time is over"


@pytest.mark.parametrize("who", ["host", "client"])
def test_somebody_between_them(make_pair: Make, who: str) -> None:
    """One end sees another certificate in DTLS. Their keys differ, and both say so."""
    pair = make_pair()
    end = pair.host if who == "host" else pair.client
    end.connection.fingerprints = end.connection.fingerprints[0], b"m" * 32
    pair.host.connection.connect(pair.client.connection)
    while pair.client.news != ["ready"]:
        assert pair.network.pump()
    channel, _ = pair.client.open()
    channel.send(b"secret")
    pair.settle()
    pair.wait(LINGER)
    assert {end.why.partition("nothing")[0].strip()[:60] for end in pair.ends}
    for end, other in zip(pair.ends, ("client", "host"), strict=True):
        assert BETWEEN.format(other, other) in end.why
    assert pair.host.news == ["failed", "given up"]
    assert pair.host.users == []


def test_somebody_between_who_has_identities_too(make_pair: Make) -> None:
    """Without trust that is not seen; with it, by the fingerprint."""
    trust = Says()
    make_pair(trust, client=identity("somebody else")).connect()
    assert trust.asked[0].fingerprint == identity("somebody else").fingerprint


def test_a_code_that_both_know(make_pair: Make) -> None:
    both = codes(b"orca", b"orca")
    trusts = Says(), Says()
    pair = make_pair(*trusts, both).connect()
    assert [end.news for end in pair.ends] == [["ready", "accepted"]] * 2
    prints = [bytes.fromhex(end.sealing.identity.fingerprint) for end in pair.ends]
    assert both[0].contexts == both[1].contexts == [b"".join([*prints, DTLS[Side.HOST], DTLS[Side.CLIENT]])]
    assert [len(trust.asked) for trust in trusts] == [1, 1]


@pytest.mark.parametrize(
    "both", [codes(b"orca", b"otter"), (Code7(b"orca", b"host"), None), (None, Code7(b"orca", b"client"))]
)
def test_a_code_that_is_wrong_or_missing(make_pair: Make, both: tuple[Code7 | None, Code7 | None]) -> None:
    trusts = Says(), Says()
    pair = make_pair(*trusts, both).connect()
    pair.wait(LINGER)
    wrong = "the code of the invitation is wrong"
    whys = [end.why for end in pair.ends]
    assert f"it is refused: {wrong}" in whys
    assert any(why in (f"the host refuses this client: {wrong}", f"it is refused: {wrong}") for why in whys[1:])
    # Nobody is asked about somebody who does not know it.
    assert [bool(trust.asked) for trust in trusts] == [both[0] is None, both[1] is None]
    if both[1] is not None:
        assert "ready" not in pair.client.news


# Silence, and noise


def test_a_host_that_says_nothing(make_pair: Make) -> None:
    pair = make_pair()
    pair.host.connection.change = lambda _label, _data: None
    pair.connect()
    pair.wait(TIMEOUT - 0.1)
    assert not pair.client.news
    pair.wait(0.1)
    assert pair.client.why == "the host has not come to the end of its handshake within 10 s"


def test_a_client_that_never_begins(make_pair: Make) -> None:
    pair = make_pair()
    pair.client.end.connected = lambda: None  # type: ignore[method-assign]
    pair.connect()
    pair.wait(TIMEOUT)
    assert pair.host.why == "the client has not begun to seal within 10 s, although it announces that it does"


def test_a_client_that_stops_in_the_middle(make_pair: Make) -> None:
    pair = make_pair()
    came: list[bytes] = []
    # KEYS and the hello arrive.
    pair.host.connection.change = lambda _label, data: came.append(data) or (data if len(came) <= 2 else None)  # type: ignore[func-returns-value]
    pair.connect()
    pair.wait(TIMEOUT)
    assert pair.host.why == "the client has not come to the end of its handshake within 10 s"


@pytest.mark.parametrize(
    ("at", "data", "why"),
    [
        (0, b"", "KEYS of 0 bytes where 1217 belong"),
        (0, b"\1" * 5000, "KEYS of 5000 bytes where 1217 belong"),
        (0, b"\0" + bytes(1216), "KEYS without a cipher on a link with TLS"),
        (0, b"\1" + bytes(1216), "KEYS with a bad X25519 key"),
        (0, b"\1" + b"\x09" + bytes(31) + b"\xff" * 1184, "KEYS with a bad ML-KEM key"),
        (1, b"x" * (session.MOST + 1), f"more than {session.MOST} bytes on the control channel"),
    ],
)
def test_noise_in_place_of_keys(make_pair: Make, at: int, data: bytes, why: str) -> None:
    pair = make_pair()
    came: list[bytes] = []
    pair.host.connection.change = lambda _label, was: came.append(was) or (data if len(came) == at + 1 else was)  # type: ignore[func-returns-value]
    pair.connect()
    pair.wait(LINGER)
    assert pair.host.why == f"the client broke the protocol of sealed channels: {why}"
    assert pair.host.users == []
    assert pair.client.why


def test_keys_that_are_reflected(make_pair: Make) -> None:
    pair = make_pair()
    sent: list[bytes] = []
    pair.host.connection.change = lambda _label, data: sent.append(data) or data  # type: ignore[func-returns-value]
    pair.client.connection.change = lambda _label, _data: sent[0]
    pair.connect()
    pair.wait(LINGER)
    assert "ready" not in pair.client.news
    assert pair.client.why.startswith("TLS with the host failed: ")


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("who", [0, 1])
def test_bytes_that_somebody_changes(make_pair: Make, seed: int, who: int) -> None:
    """Whatever is changed, lost or repeated on the control channel: nothing is carried, and both ends end."""
    chance = random.Random(seed)
    pair = make_pair()
    target = chance.randrange(3)
    count = 0

    def change(label: str, data: bytes) -> bytes | None:
        nonlocal count
        count += 1
        if label != LABEL or count != target + 1:
            return data
        what = chance.randrange(4)
        at = chance.randrange(len(data))
        if what == 0:
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        if what == 1:
            return data[:at]
        if what == 2:
            return data + data
        return None

    pair.ends[who].connection.change = change
    pair.connect()
    pair.wait(TIMEOUT)
    pair.wait(LINGER)
    assert pair.host.users == []
    if count > target:
        assert all(end.why for end in pair.ends), [end.why for end in pair.ends]


def test_a_key_that_somebody_has_put_in_place_of_theirs(make_pair: Make) -> None:
    """KEYS that are well-formed, but not those of the other end: the exporter's context has them."""
    other = make_pair()
    taken: list[bytes] = []
    other.host.connection.change = lambda _label, data: taken.append(data) or data  # type: ignore[func-returns-value]
    other.connect()
    pair = make_pair()
    came: list[bytes] = []
    pair.host.connection.change = lambda _label, was: came.append(was) or (taken[0] if len(came) == 1 else was)  # type: ignore[func-returns-value]
    pair.connect()
    channel, _ = pair.client.open()
    channel.send(b"secret")
    pair.settle()
    assert pair.host.users == []
    assert f"it is refused: {session.OTHER_KEYS}" in [end.end.why for end in pair.ends]
    pair.wait(LINGER)
    assert all(session.OTHER_KEYS in end.why for end in pair.ends)


def test_the_control_channel_ends(make_pair: Make) -> None:
    pair = make_pair().connect()
    for channel in list(pair.client.connection.channels.values()):
        channel.close()
    pair.settle()
    assert {end.why for end in pair.ends} >= {"the host has closed the control channel"}


def test_the_whole_connection_ends(make_pair: Make) -> None:
    """Then that is the reason, and not its control channel."""
    pair = make_pair().connect()
    pair.client.connection.lose("the peer no longer answers")
    pair.settle()
    assert pair.client.why == "the peer no longer answers"


@pytest.mark.parametrize("what", ["second", "text"])
def test_another_control_channel_or_text(make_pair: Make, what: str) -> None:
    pair = make_pair().connect()
    if what == "second":
        pair.client.connection.open_channel(LABEL, PROTOCOL).use(FakeChannelUser())
        why = "it is refused: the client broke the protocol of sealed channels: a second control channel"
    else:
        [control] = pair.client.connection.channels.values()
        control.send_text("hello")
        why = "the client broke the protocol of sealed channels: a text message on the control channel"
    pair.settle()
    assert pair.host.end.why == why
    pair.wait(LINGER)
    assert pair.client.why


def test_a_control_channel_of_a_later_version_is_closed(make_pair: Make) -> None:
    pair = make_pair().connect()
    user = FakeChannelUser()
    pair.client.connection.open_channel(LABEL, "news").use(user)
    pair.settle()
    assert user.told[-1] == "closed"
    assert [end.news for end in pair.ends] == [["ready", "accepted"]] * 2


def test_messages_that_nobody_asked_for(make_pair: Make) -> None:
    """Messages of a later version are ignored, up to a number."""
    pair = make_pair().connect()
    client = pair.client.end.session
    for _ in range(session.MOST_MESSAGES - 1):
        client._say(b"\0\0\0\2{}")
    pair.settle()
    assert pair.host.news == ["ready", "accepted"]
    client._say(b"\0\0\0\2{}")
    pair.settle()
    assert pair.host.end.why.endswith(f"more than {session.MOST_MESSAGES} messages on the control channel")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        UnsupportedAlgorithm("odd"),
        x509.InvalidVersion("odd", 7),
        x509.DuplicateExtension("odd", NameOID.COMMON_NAME),
        x509.UnsupportedGeneralNameType("odd"),
        crypto.Error([]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_certificate_that_cannot_be_read(make_pair: Make, error: Exception) -> None:
    pair = make_pair()
    raises(pair, error)
    pair.connect()
    assert pair.host.why == (
        f"the client broke the protocol of sealed channels: a certificate that cannot be read ({type(error).__name__})"
    )


def test_our_own_mistakes_are_not_called_a_certificates(make_pair: Make) -> None:
    pair = make_pair()
    raises(pair, KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        pair.connect()


def raises(pair: Pair, error: Exception) -> None:
    """Let the host fail at what it gets in TLS."""

    class Failing:
        def __init__(self, engine: Any) -> None:
            self._engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def receive(self, data: bytes) -> bytes:
            raise error

    session: Any = pair.host.end.session
    session._engine = Failing(session._engine)
