"""Second keys of the two ends: proved by both, or nothing is carried."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from OpenSSL import crypto
from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure

from rtunnel.access.identities import Identity, ephemeral_identity
from rtunnel.control.rtc import client as client_view, host as host_view
from rtunnel.errors import Code
from rtunnel.pki.authority import make_self_signed
from rtunnel.rtc.sealed.end import LINGER, TIMEOUT
from rtunnel.tls.hedge import liboqs
from rtunnel.tls.hedge.schemes import SCHEMES
from rtunnel.tls.hedge.second import MOST_PROOF, OID, SecondKey
from rtunnel.wire.webrtc.seal_control import MAX_SECOND
from tests.needs import needs_liboqs
from tests.rtc.sealed.parts import MemoryEnd, Pair, Says, identity
from tests.rtc.sealed.test_ends import Both
from tests.rtc.sealed.test_session import codes
from tests.rtc.world import ID, World

pytestmark = needs_liboqs

Make = Callable[..., Pair]
FALCON, MAYO = "Falcon-1024", "MAYO-5"
NAMED = "certificate names a second key"


@cache
def with_second(name: str, who: str) -> Identity:
    """An identity with a second key that is the same in all tests of a process."""
    return ephemeral_identity(name)


def without_key(extension: x509.UnrecognizedExtension) -> Identity:
    """An identity whose certificate names what it has not."""
    made = make_self_signed("x", extension)
    return Identity(made.certificate, (), crypto.load_privatekey(crypto.FILETYPE_PEM, made.key_pem))


class Sends:
    """In place of a second key: what the test wants to send."""

    def __init__(self, prove: Callable[[bytes, str], bytes]) -> None:
        self.prove = prove


@pytest.fixture(params=[0, 1], ids=["host", "client"])
def side(request: pytest.FixtureRequest) -> int:
    """Who has the second key: the host or the client."""
    found: int = request.param
    return found


@pytest.fixture
def make_one(make_pair: Make, side: int) -> Callable[..., tuple[MemoryEnd, MemoryEnd]]:
    """``make_one(identity, prove)``: the end of that side, and the other one, after they have met."""

    def make(
        who: Identity,
        prove: Callable[[bytes, str], bytes] | None = None,
        *,
        closed: bool = True,
        confirm: Any = (None, None),
    ) -> tuple[MemoryEnd, MemoryEnd]:
        trusts: list[Any] = [None, None]
        if closed:
            trusts[1 - side] = Says()
        pair = make_pair(*trusts, confirm, **{("host", "client")[side]: who})
        one, other = pair.ends[side], pair.ends[1 - side]
        if prove is not None:
            one.end.session._second._key = Sends(prove)  # type: ignore[assignment]
        pair.connect()
        pair.wait(LINGER)
        return one, other

    return make


Meet = Callable[..., tuple[MemoryEnd, MemoryEnd]]


@pytest.fixture
def no_liboqs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Call it, and this machine has no liboqs any more."""

    def remove() -> None:
        monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
        liboqs.look.cache_clear()

    yield remove
    liboqs.look.cache_clear()


def is_refused(one: MemoryEnd, other: MemoryEnd, side: int, why: str) -> None:
    """Both say why, and nothing was carried."""
    kinds = ("host", "client")
    assert other.why == f"it is refused: the {kinds[side]}'s {why}"
    assert one.why == f"the {kinds[1 - side]} refuses this {kinds[side]}: the {kinds[side]}'s {why}"
    assert "ready" not in other.news
    assert other.users == []
    assert other.end.session.signature == "ML-DSA-65"


@pytest.mark.parametrize(("host", "client"), [(FALCON, MAYO), (MAYO, FALCON), (FALCON, ""), ("", MAYO)])
def test_both_ends_prove_it(make_pair: Make, host: str, client: str) -> None:
    who = {side: with_second(name, side) for side, name in (("host", host), ("client", client)) if name}
    pair = make_pair(Says(), Says(), **who).connect()
    for end, name in ((pair.host, client), (pair.client, host)):
        assert end.news == ["ready", "accepted"]
        assert end.end.session.signature == (f"ML-DSA-65 + {name}" if name else "ML-DSA-65")
        assert end.end.shown == f"sealed X25519MLKEM768, {end.end.session.signature}, a friend"
        assert end.end.tick()


def test_with_an_invitation(make_pair: Make) -> None:
    who = {"host": with_second(MAYO, "host"), "client": with_second(FALCON, "client")}
    pair = make_pair(None, None, codes(b"orca", b"orca"), **who).connect()
    assert [end.news for end in pair.ends] == [["ready", "accepted"]] * 2
    assert [end.end.session.signature for end in pair.ends] == [f"ML-DSA-65 + {FALCON}", f"ML-DSA-65 + {MAYO}"]


def test_the_client_waits_for_the_proof_of_the_host(make_pair: Make) -> None:
    """One turn longer than without: the third brings the certificate, the fifth the host's BIND."""
    pair = make_pair(host=with_second(FALCON, "host"))
    pair.host.connection.connect(pair.client.connection)
    turns = 0
    while "ready" not in pair.client.news:
        assert pair.network.pump()
        turns += 1
    assert turns == 5
    assert pair.host.news == ["ready", "accepted"]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("closed", [True, False])
def test_no_proof(make_one: Meet, side: int, name: str, closed: bool) -> None:
    kind = ("host", "client")[side]
    one, other = make_one(with_second(name, kind), lambda _exported, _role: b"", closed=closed)
    is_refused(one, other, side, f"{NAMED} ({name}), and the {kind} has not signed with it")


@pytest.mark.parametrize("name", SCHEMES)
def test_proofs_that_are_none(make_one: Meet, side: int, name: str) -> None:
    who = with_second(name, "host")
    key, another = who.second, with_second(name, "another").second
    assert key is not None
    assert another is not None
    wrong = f"second signature ({name}) is wrong"
    foreign = f"second key ({name}) is not the one in its certificate"
    public = struct.pack("!H", len(key.public)) + key.public
    for prove, why in (
        # Of another connection; of the other end of this one; by another key, with and without its public key.
        (lambda exported, role: key.prove(exported[::-1], role), wrong),
        (lambda exported, role: key.prove(exported, "client" if role == "host" else "host"), wrong),
        (another.prove, foreign),
        (lambda exported, role: public + another.prove(exported, role)[len(public) :], wrong),
        # Sizes.
        (lambda exported, role: key.prove(exported, role)[:-1], wrong),
        (lambda exported, role: key.prove(exported, role) + b"\1", wrong),
        (lambda exported, role: public + b"\0", wrong),
        (lambda exported, role: public + bytes(MAX_SECOND - len(public)), wrong),
        (lambda exported, role: public, f"second signature ({name}) is malformed"),
        (lambda exported, role: b"\xff" * MAX_SECOND, f"second signature ({name}) is malformed"),
        (lambda exported, role: public[:2] + bytes(MAX_SECOND - 2), foreign),
    ):
        one, other = make_one(who, prove)
        is_refused(one, other, side, why)


def test_a_proof_of_another_connection(make_one: Meet, side: int) -> None:
    """Whoever has recorded one cannot use it again, as each connection has its own exporter."""
    who = with_second(FALCON, "host")
    assert who.second is not None
    sent: list[bytes] = []
    prove = who.second.prove
    one, _ = make_one(who, lambda exported, role: sent.append(prove(exported, role)) or sent[0])  # type: ignore[func-returns-value]
    assert one.news == ["ready", "accepted"]
    one, other = make_one(who, lambda _exported, _role: sent[0])
    is_refused(one, other, side, f"second signature ({FALCON}) is wrong")


def test_a_proof_that_is_too_long(make_one: Meet, side: int) -> None:
    _, other = make_one(with_second(FALCON, "host"), lambda _exported, _role: bytes(MAX_SECOND + 1))
    kind = ("host", "client")[side]
    assert other.why == (
        f"the {kind} broke the protocol of sealed channels: a bind whose second has more than {MAX_SECOND} bytes"
    )
    assert "ready" not in other.news


def test_a_proof_that_nobody_has_asked_for(make_one: Meet) -> None:
    """It is of no use, and does no harm."""
    one, other = make_one(identity("plain"), lambda _exported, _role: bytes(MOST_PROOF))
    assert [end.news for end in (one, other)] == [["ready", "accepted"]] * 2
    assert other.end.session.signature == "ML-DSA-65"


@pytest.mark.parametrize("closed", [True, False])
def test_a_certificate_that_names_something_odd(make_one: Meet, side: int, closed: bool) -> None:
    one, other = make_one(without_key(x509.UnrecognizedExtension(OID, b"odd")), closed=closed)
    is_refused(one, other, side, f"{NAMED} in an unknown way")


class TestWithoutTheMeans:
    """The other end's second key cannot be checked here. None of these proofs is one."""

    def prove(self, exported: bytes, role: str) -> bytes:
        key = with_second(FALCON, "host").second
        assert key is not None
        return struct.pack("!H", len(key.public)) + key.public + b"junk"

    def test_a_closed_end_refuses(self, make_one: Meet, side: int, no_liboqs: Callable[[], None]) -> None:
        who = with_second(FALCON, "host")
        no_liboqs()
        one, other = make_one(who, self.prove)
        kinds = ("host", "client")
        why = f"the {kinds[side]}'s {NAMED} ({FALCON}), which"
        assert other.why.startswith(f"it is refused: {why} this {kinds[1 - side]} cannot check: needs the native ")
        assert other.why.endswith("see 'liboqs, for --hedge' in docs/installing.rst")
        # Nothing about this machine.
        assert one.why == f"the {kinds[1 - side]} refuses this {kinds[side]}: {why} the {kinds[1 - side]} cannot check"
        assert "ready" not in other.news

    def test_so_does_one_with_an_invitation(self, make_one: Meet, side: int, no_liboqs: Callable[[], None]) -> None:
        who = with_second(FALCON, "host")
        no_liboqs()
        _, other = make_one(who, self.prove, closed=False, confirm=codes(b"orca", b"orca"))
        assert f"{NAMED} ({FALCON}), which this " in other.why
        assert "ready" not in other.news

    def test_an_open_end_goes_on_until_it_is_closed(
        self, make_one: Meet, side: int, no_liboqs: Callable[[], None]
    ) -> None:
        who = with_second(FALCON, "host")
        no_liboqs()
        one, other = make_one(who, self.prove, closed=False)
        kinds = ("host", "client")
        assert other.news == ["ready", "accepted"]
        # What was not checked is not shown.
        assert other.end.session.signature == "ML-DSA-65"
        assert other.end.tick()
        other.sealing.trust = Says()
        assert not other.end.tick()
        assert other.end.why == f"it is refused: the {kinds[1 - side]} cannot check the second key of the {kinds[side]}"
        assert one.news == ["ready", "accepted"]

    @pytest.mark.parametrize("closed", [True, False])
    def test_a_kind_of_a_later_version(self, make_one: Meet, side: int, closed: bool) -> None:
        later = without_key(x509.UnrecognizedExtension(OID, b"SNOVA\x1b[2J " + sha256(b"").digest()))
        one, other = make_one(later, lambda _exported, _role: b"junk", closed=closed)
        kinds = ("host", "client")
        if not closed:
            assert other.news == ["ready", "accepted"]
            return
        assert other.why == (
            f"it is refused: the {kinds[side]}'s {NAMED} of a newer kind, which this {kinds[1 - side]} cannot check: "
            "this rtunnel knows no such kind; update it"
        )
        assert one.why.endswith(f"{NAMED} of a newer kind, which the {kinds[1 - side]} cannot check")


class Slow:
    """In place of a thread: what is to be computed waits until the test lets it."""

    def __init__(self, end: MemoryEnd) -> None:
        self.waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()
        end.end.session._second._run = self._run

    def _run(self, work: Callable[[], Any]) -> Deferred[Any]:
        self.waiting.append((work, Deferred()))
        return self.waiting[-1][1]

    def compute(self) -> None:
        work, done = self.waiting.popleft()
        execute(work).chainDeferred(done)


class TestThreads:
    def test_nothing_is_lost_meanwhile(self, make_pair: Make) -> None:
        """The client's BIND comes while the host still signs, and data while it checks."""
        pair = make_pair(host=with_second(MAYO, "host"), client=with_second(MAYO, "client"))
        host, client = Slow(pair.host), Slow(pair.client)
        pair.connect()
        assert [len(each.waiting) for each in (host, client)] == [1, 1]
        client.compute()
        pair.settle()
        # The host does not check before it has signed.
        assert [len(each.waiting) for each in (host, client)] == [1, 0]
        host.compute()
        pair.settle()
        assert [len(each.waiting) for each in (host, client)] == [1, 1]
        assert pair.host.news == pair.client.news == []
        client.compute()
        assert pair.client.news == ["ready", "accepted"]
        channel, _ = pair.client.open()
        channel.send(b"early")
        pair.settle()
        assert pair.host.news == []
        host.compute()
        pair.settle()
        assert pair.host.news == ["ready", "accepted"]
        assert pair.host.users[0].told == [b"early"]

    def test_it_may_be_too_late(self, make_pair: Make) -> None:
        pair = make_pair(host=with_second(MAYO, "host"))
        slow = Slow(pair.host)
        pair.connect()
        pair.wait(TIMEOUT)
        pair.wait(LINGER)
        late = "has not come to the end of its handshake within 10 s"
        assert pair.host.why == f"it is refused: the client {late}"
        slow.compute()
        pair.settle()
        assert "ready" not in pair.host.news + pair.client.news

    def test_what_fails_lets_nobody_in(
        self, make_pair: Make, flush_logged_errors: Callable[..., list[Failure]]
    ) -> None:
        pair = make_pair(host=with_second(MAYO, "host"))
        slow = Slow(pair.client)
        pair.connect()
        _, done = slow.waiting.popleft()
        done.errback(Failure(MemoryError("no stack")))
        pair.wait(TIMEOUT)
        assert pair.client.why.endswith("the host has not come to the end of its handshake within 10 s")
        assert "ready" not in pair.client.news
        assert [each.type for each in flush_logged_errors()] == [MemoryError]

    def test_a_second_bind(self, make_pair: Make) -> None:
        pair = make_pair(host=with_second(MAYO, "host"))
        slow = Slow(pair.host)
        pair.connect()
        pair.client.end.session._send_bind(b"")
        pair.settle()
        assert pair.host.why == "the client broke the protocol of sealed channels: a second bind"
        slow.compute()
        assert "ready" not in pair.host.news

    def test_a_refusal_does_not_wait(self, make_pair: Make) -> None:
        pair = make_pair(host=with_second(MAYO, "host"))
        slow = Slow(pair.host)
        pair.connect()
        pair.client.end.session.refuse(Code.UNAUTHORIZED, "no")
        pair.settle()
        assert pair.host.why == "the client refuses this host: no"
        slow.compute()


@pytest_twisted.ensureDeferred
async def test_real_peers(rtc: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    prove = SecondKey.prove

    def proves(key: SecondKey, exported: bytes, role: str) -> bytes:
        threads.append(threading.current_thread())
        return prove(key, exported, role)

    monkeypatch.setattr(SecondKey, "prove", proves)
    both = await Both.make(rtc, "host", "client")
    both.host.sealing.use(with_second(FALCON, "host"))
    both.client.sealing.use(with_second(MAYO, "client"))
    await rtc.connected(both.client)
    await both.echo()
    await rtc.lines.wait_for(f"connected to host '{ID}': direct, .*; sealed X25519MLKEM768, ML-DSA-65 \\+ {FALCON}, ")
    await rtc.lines.wait_for(f"client .* connected: direct, .*; sealed X25519MLKEM768, ML-DSA-65 \\+ {MAYO}, ")
    at_host, at_client = host_view.look(both.host)["peers"][0], client_view.look(both.client)["peer"]
    assert at_host["sealed"]["signature"] == f"ML-DSA-65 + {MAYO}"
    assert at_client["sealed"]["signature"] == f"ML-DSA-65 + {FALCON}"
    assert len(threads) == 2
    assert threading.current_thread() not in threads


@pytest_twisted.ensureDeferred
async def test_a_real_host_without_its_second_key(rtc: World) -> None:
    """Somebody who can forge ML-DSA, but has not the second key: what is his is another key of the same kind."""
    both = await Both.make(rtc, "client")
    real, forged = with_second(FALCON, "host"), SecondKey.make(FALCON)
    both.host.sealing.use(Identity(real.certificate, (), real.key, forged))
    why = f"the host's second key \\({FALCON}\\) is not the one in its certificate"
    await rtc.lines.wait_for(f"it is refused: {why}")
    await rtc.lines.wait_for(f"the client refuses this host: {why}")
    assert "connected to host" not in rtc.lines.text
    assert both.client.history.connected.total() == 0
    assert not both.service.peers
