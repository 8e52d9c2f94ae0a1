"""What is ordered when, with a clock of our own and no CA."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.logger import formatEvent

from rtunnel.acme import authority
from rtunnel.acme.authority import Obtained, OrderFailed
from rtunnel.acme.orders import LONGEST_ORDER, WRITE_AGAIN, Orders
from rtunnel.acme.renewal import DAY
from rtunnel.acme.settings import CHALLENGES, HTTP_01, AcmeSettings
from rtunnel.acme.state import State
from rtunnel.errors import PkiError
from rtunnel.tls.hosts import Host
from tests.leftovers import TestLog

NAME = "app.example.org"


class World:
    """A CA that does what a test says, and time that passes when it says so."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, challenge: str) -> None:
        self.now = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
        self.settings = AcmeSettings("a@b", directory, "https://ca.test/dir", challenge=challenge)
        self.asked: list[str] = []
        self.looked = 0
        self.waiting: list[Callable[[], None]] = []
        self.days = 90.0
        self.error: Exception | None = None
        self.content = b""
        self.note = ""
        self.renewal: tuple[float | None, float] | Exception = (None, 0.0)
        self.answers: Any = None
        self.begin()
        monkeypatch.setattr(authority, "obtain", self.obtain)
        monkeypatch.setattr(authority, "suggested_renewal", self.suggested)

    @property
    def is_shown(self) -> bool:
        """Whether a CA would find what it looks for, in the place where it looks."""
        is_by_http = self.settings.challenge == HTTP_01
        other = self.host.challenge if is_by_http else self.host.key_authorization
        assert not other
        return bool(self.host.key_authorization if is_by_http else self.host.challenge)

    def begin(self) -> None:
        """Start the process, again or for the first time."""
        self.host = Host(NAME)
        self.orders = Orders(self, self.settings, [self.host], lambda: self.now, self.waiting.append)
        self.orders.start()

    # The reactor

    def seconds(self) -> float:
        return self.now

    def callFromThread(self, call: Callable[..., None], *arguments: object) -> None:
        call(*arguments)

    # The CA

    def obtain(self, settings: AcmeSettings, state: State, name: str, answers: Any) -> Obtained:
        self.asked.append(name)
        self.answers = answers
        answers.show("token.thumbprint")
        assert self.is_shown
        if self.error is not None:
            raise self.error
        return Obtained(self.content or self.issue(), "https://ca.test/account/1", ("ca.test",), self.note)

    def suggested(self, settings: AcmeSettings, certificate: x509.Certificate) -> tuple[float | None, float]:
        self.looked += 1
        if isinstance(self.renewal, Exception):
            raise self.renewal
        return self.renewal

    def issue(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        begin = datetime.fromtimestamp(self.now, UTC)
        builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), x509.random_serial_number())
        certificate = (
            builder.not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=self.days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            .sign(key, SHA256())
        )
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(
            Encoding.PEM
        )

    # Time

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass, and the threads do their work."""
        self.now += seconds
        self.orders.tick()
        while self.waiting:
            self.waiting.pop(0)()
            self.orders.tick()

    def publish(self, is_published: bool = True) -> None:
        self.orders.published(self.host, is_published)

    def days_until_asked(self, most: int = 200) -> float:
        """How many days pass until the next order, looking twice an hour."""
        before = len(self.asked)
        for half_hours in range(48 * most):
            self.tick(1800.0)
            if len(self.asked) > before:
                return (half_hours + 1) / 48
        raise AssertionError("nothing was ordered")


@pytest.fixture(params=CHALLENGES)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "state", monkeypatch, request.param)


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    return _nothing_left_behind


def lines(log: TestLog, text: str) -> list[str]:
    return [line for event in log.events if text in (line := formatEvent(event))]


def test_nothing_is_ordered_before_a_ca_can_reach_the_name(world: World, log: TestLog) -> None:
    world.tick(1000)
    assert world.asked == []
    world.publish()
    world.tick()
    assert world.asked == [NAME]
    assert world.host.context is not None
    assert not world.is_shown
    assert lines(log, f"{NAME}: a certificate is being obtained from ca.test; visitors are turned away")
    assert lines(log, f"{NAME}: certificate from ca.test, valid until 2026-08-30 ")


def test_the_record_that_keeps_others_out(world: World, log: TestLog) -> None:
    world.note = "a new account was made: https://ca.test/account/1"
    world.publish()
    world.tick()
    record = f'"ca.test; accounturi=https://ca.test/account/1; validationmethods={world.settings.challenge}"'
    assert lines(log, f"publish for each name: {NAME}. CAA 0 issue {record}")


def test_renewed_a_month_ahead(world: World) -> None:
    world.publish()
    world.tick()
    first = world.host.context
    assert 56 < world.days_until_asked() < 61
    assert world.host.context is not first


def test_kept_over_a_restart(world: World) -> None:
    world.publish()
    world.tick()
    world.begin()
    assert world.host.context is not None
    world.publish()
    world.tick(10 * DAY)
    assert world.asked == [NAME]


def test_failures_wait_ever_longer_and_over_restarts_too(world: World, log: TestLog) -> None:
    world.error = OrderFailed("unauthorized: no")
    world.publish()
    world.tick()
    for _ in range(20):
        world.begin()
        world.publish()
        world.tick(10.0)
    assert len(world.asked) == 1
    assert lines(log, f"{NAME}: a certificate will be asked for in ")
    for _ in range(24 * 60):
        world.tick(60.0)
    assert 7 <= len(world.asked) <= 10
    assert len(lines(log, f"{NAME}: no new certificate, visitors are turned away: ca.test: unauthorized: no; ")) == len(
        world.asked
    )
    world.error = None
    assert world.days_until_asked() < 1.3
    assert world.host.context is not None
    assert world.orders._state.read_attempts(NAME, world.now).failures == 0


def test_a_process_that_dies_in_an_order_does_not_ask_at_once(world: World) -> None:
    world.publish()
    world.orders.tick()
    assert len(world.waiting) == 1
    world.waiting.clear()
    world.begin()
    world.publish()
    world.tick(100.0)
    assert world.asked == []
    world.tick(300.0)
    assert world.asked == [NAME]


def test_a_ca_that_wants_us_to_wait(world: World) -> None:
    world.error = OrderFailed("rateLimited: too many", 3 * DAY)
    world.publish()
    world.tick()
    assert 2.99 < world.days_until_asked() < 3.1


@pytest.mark.parametrize("content", [b"garbage", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_used(content: bytes, world: World, log: TestLog) -> None:
    world.content = content
    world.publish()
    world.tick()
    assert len(lines(log, f"{NAME}: no new certificate, visitors are turned away: ca.test: ")) == 1
    world.tick(100.0)
    assert world.asked == [NAME]


def test_the_former_certificate_stays(world: World, log: TestLog) -> None:
    world.publish()
    world.tick()
    first = world.host.context
    world.error = OrderFailed("serverInternal: oops")
    world.days_until_asked()
    assert world.host.context is first
    assert lines(log, "no new certificate, the old one stays in use, which is good until 2026-08-30: ca.test: serverIn")


def test_a_full_disk(world: World, log: TestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = State.write

    def full(state: State, path: Path, content: bytes) -> None:
        raise PkiError(f"cannot write {path}: no space left on device")

    monkeypatch.setattr(State, "write", full)
    world.publish()
    for _ in range(50):
        world.tick(100.0)
    assert world.asked == [], "what cannot be written down is not done"
    assert len(lines(log, "none is ordered, since that cannot be written down")) == 1
    monkeypatch.setattr(State, "write", write)
    world.tick(100.0)
    assert world.asked == [NAME]


def test_a_disk_that_fills_in_an_order(world: World, log: TestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    write = State.write

    def full(state: State, path: Path, content: bytes) -> None:
        if path.suffix == ".pem":
            raise PkiError(f"cannot write {path}: no space left on device")
        write(state, path, content)

    monkeypatch.setattr(State, "write", full)
    world.publish()
    for _ in range(10):
        world.tick(WRITE_AGAIN)
    assert world.asked == [NAME]
    assert world.host.context is not None
    assert len(lines(log, "it is in use, but not kept: cannot write")) == 1
    monkeypatch.setattr(State, "write", write)
    world.tick(WRITE_AGAIN)
    assert world.orders._state.certificate(NAME).exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 1000])
def test_a_certificate_that_cannot_be_read(content: bytes, world: World, log: TestLog) -> None:
    world.publish()
    world.tick()
    world.orders._state.certificate(NAME).write_bytes(content)
    world.begin()
    assert len(lines(log, "the certificate of before cannot be used")) == 1
    world.publish()
    world.tick()
    assert len(world.asked) == 2
    assert world.host.context is not None


def test_a_lost_state(world: World) -> None:
    world.publish()
    world.tick()
    shutil.rmtree(world.settings.state_dir)
    assert 56 < world.days_until_asked() < 61


def test_a_ca_that_never_comes_to_an_end(world: World, log: TestLog) -> None:
    world.publish()
    world.orders.tick()
    late = world.waiting.pop()
    world.now += LONGEST_ORDER + 1
    world.orders.tick()
    assert lines(log, "it takes too long; next attempt in")
    late()
    assert world.host.context is None
    assert not world.is_shown, "what comes late shows nothing"


def test_a_ca_that_says_when_to_renew(world: World) -> None:
    world.renewal = (world.now + 3 * DAY, world.now + 0.25 * DAY)
    world.publish()
    world.tick()
    assert not world.looked, "a process that is started again and again does not ask each time"
    assert 2.9 < world.days_until_asked() < 3.1
    assert world.looked > 1


def test_a_ca_that_does_not_say_when_to_renew(world: World) -> None:
    world.renewal = OrderFailed("nonsense")
    world.publish()
    world.tick()
    assert 56 < world.days_until_asked() < 61
    assert 50 < world.looked < 65


def test_a_ca_that_always_wants_it_renewed_at_once(world: World) -> None:
    world.renewal = (0.0, 0.0)
    world.publish()
    for _ in range(60):
        world.tick(60.0)
    assert len(world.asked) <= 2


def test_a_ca_that_never_wants_it_renewed(world: World) -> None:
    world.renewal = (world.now + 1e9, world.now + 1e9)
    world.publish()
    world.tick()
    assert 82 < world.days_until_asked() < 83.1


def test_stopped(world: World) -> None:
    world.publish()
    world.orders.tick()
    world.orders.stop()
    world.waiting.pop()()
    assert world.host.context is None


def test_a_host_that_comes_later_and_one_that_goes(world: World) -> None:
    other = Host("other.example.org")
    world.orders.add(other)
    world.orders.published(other, True)
    world.publish()
    world.orders.remove(world.host)
    world.host = other
    world.tick()
    assert world.asked == ["other.example.org"]
    assert other.context is not None
    # It is there again, and its certificate with it.
    world.orders.remove(other)
    again = world.host = Host("other.example.org")
    world.orders.add(again)
    world.orders.published(again, True)
    world.tick()
    assert again.context is not None
    assert len(world.asked) == 1


def test_a_host_that_goes_while_its_certificate_is_ordered(world: World) -> None:
    world.publish()
    world.orders.tick()
    world.orders.remove(world.host)
    world.tick()
    assert world.asked == [NAME]
    assert world.host.challenge is None
    world.tick()
    assert world.asked == [NAME]
