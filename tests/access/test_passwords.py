"""Passwords of visitors: hashes, what is remembered, and how guesses are slowed."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from rtunnel.access import passwords
from rtunnel.access.passwords import (
    GUESS_RATE,
    GUESSES,
    MOST_PASSWORD,
    MOST_WAITING,
    Passwords,
    PasswordThreads,
    Verdict,
    check_hash,
    make_hash,
    verify,
)
from rtunnel.errors import ConfigError
from tests.examples import examples

RIGHT, WRONG, LATER = Verdict.RIGHT, Verdict.WRONG, Verdict.LATER


def quick_hash(password: str) -> str:
    """A hash of the lowest cost, by hashlib alone."""
    key = hashlib.scrypt(password.encode(), salt=b"0123456789abcdef", n=1024, r=8, p=1, dklen=32)
    salt, found = (b64encode(each).decode().rstrip("=") for each in (b"0123456789abcdef", key))
    return f"$scrypt$ln=10,r=8,p=1${salt}${found}"


ALICE, BOB = quick_hash("wonderland"), quick_hash("tools")
USERS = (("alice", ALICE), ("bob", BOB))
HERE = "192.0.2.0"


def basic(user: str, password: str, scheme: str = "Basic") -> bytes:
    return f"{scheme} ".encode() + b64encode(f"{user}:{password}".encode())


class World:
    """Passwords with a clock and a thread by hand.

    :ivar work: what waits for the thread.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.work: list[tuple[Callable[[], bool], Deferred[bool]]] = []
        self.done = 0
        self.passwords = Passwords(self._run, lambda: self.now)

    def _run(self, work: Callable[[], bool]) -> Deferred[bool]:
        result: Deferred[bool] = Deferred()
        self.work.append((work, result))
        return result

    def ask(self, authorization: bytes | None, address: str = HERE, users: object = USERS) -> list[Verdict]:
        """Ask; the verdict is in the list as soon as it is there."""
        found: list[Verdict] = []
        answer = self.passwords.check(users, authorization, address)  # type: ignore[arg-type]
        if isinstance(answer, Deferred):
            answer.addCallback(found.append)
        else:
            found.append(answer)
        return found

    def compute(self) -> int:
        """Do all that waits; return how much that was."""
        count = len(self.work)
        for work, result in self.work[:count]:
            result.callback(work())
        del self.work[:count]
        return count

    def verdict(self, authorization: bytes | None, address: str = HERE, users: object = USERS) -> Verdict:
        found = self.ask(authorization, address, users)
        self.done = self.compute()
        (verdict,) = found
        return verdict


@pytest.fixture
def world() -> World:
    return World()


# Hashes


def test_a_hash_there_and_back() -> None:
    hashed, other = make_hash(b"wonderland"), make_hash(b"wonderland")
    assert hashed != other
    assert hashed.startswith("$scrypt$ln=15,r=8,p=1$")
    check_hash(hashed, "alice")
    assert verify(b"wonderland", hashed)
    assert not verify(b"wonderlanD", hashed)


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=examples(20))
def test_other_programs_hashes(password: str, other: str) -> None:
    assert verify(password.encode(), quick_hash(password))
    assert verify(other.encode(), quick_hash(password)) == (password == other)


def test_the_highest_cost_can_be_computed() -> None:
    key = hashlib.scrypt(b"x", salt=b"01234567", n=1 << 17, r=8, p=1, dklen=16, maxmem=1 << 28)
    hashed = f"$scrypt$ln=17,r=8,p=1$MDEyMzQ1Njc${b64encode(key).decode().rstrip('=')}"
    assert verify(b"x", hashed)


@pytest.mark.parametrize(
    ("hashed", "what"),
    [
        ("", "is not the hash of a password"),
        ("secret", "is not the hash of a password"),
        ("$2y$10$abcdefghijklmnopqrstuv", "is a hash of another kind"),
        ("{SHA}x", "is a hash of another kind"),
        (ALICE + "\n", "is a hash of another kind"),
        (ALICE + "=", "is a hash of another kind"),
        (ALICE.replace("p=1", "p=4"), "is a hash of another kind"),
        (ALICE.replace("r=8", "r=1000000"), "is a hash of another kind"),
        (ALICE.replace("ln=10", "ln=18"), "has ln=18, and 10 to 17 is allowed"),
        (ALICE.replace("ln=10", "ln=99"), "has ln=99, and 10 to 17 is allowed"),
        (ALICE.replace("ln=10", "ln=1"), "has ln=1, and 10 to 17 is allowed"),
        (ALICE[:-2], "is cut off"),
        (ALICE[:-30], "is a hash of another kind"),
        (ALICE + "A" * 100, "is a hash of another kind"),
    ],
)
def test_what_is_no_hash(hashed: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_hash(hashed, "alice")
    assert str(caught.value) == f"what stands behind 'alice:' {what}; write what 'rtunnel passwd alice' prints"


# Who may pass


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (basic("alice", "wonderland"), RIGHT),
        (basic("bob", "tools"), RIGHT),
        (basic("alice", "wonderland", "bAsIc"), RIGHT),
        (basic("alice", "wonderland", "Basic  "), RIGHT),
        (basic("alice", "wonderland").rstrip(b"="), RIGHT),
        (basic("alice", "tools"), WRONG),
        (basic("carol", "wonderland"), WRONG),
        (basic("", "wonderland"), WRONG),
        (basic("Alice", "wonderland"), WRONG),
    ],
)
def test_a_user(world: World, authorization: bytes, expected: Verdict) -> None:
    """An unknown name costs as much as a known one."""
    assert world.verdict(authorization) is expected
    assert world.done == 1


def test_international_names_and_passwords(world: World) -> None:
    users = (("Zo\u00eb", quick_hash("p\u00e4ss\u2603")),)
    assert world.verdict(basic("Zo\u00eb", "p\u00e4ss\u2603"), users=users) is RIGHT
    latin1 = b"Basic " + b64encode("Zo\u00eb:p\u00e4ss".encode("latin-1"))
    assert world.verdict(latin1, users=users) is WRONG


def test_a_password_with_colons(world: World) -> None:
    assert world.verdict(basic("eve", "a:b:"), users=(("eve", quick_hash("a:b:")),)) is RIGHT


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Basic",
        b"Basic ",
        b"Basic =",
        b"Basic A",
        b"Basic !!!!",
        b"Basic YWxpY2U=",
        b"Bearer YWxpY2U6d29uZGVybGFuZA==",
        b"Basic YWxpY2U6d29uZGVybGFuZA== x",
        b"\xff\xfe",
        basic("alice", ""),
        basic("alice", "x" * (MOST_PASSWORD + 1)),
        basic("alice", "x" * 1_000_000),
    ],
)
def test_no_credentials_cost_nothing(world: World, authorization: bytes | None) -> None:
    assert world.verdict(authorization) is WRONG
    assert world.done == 0


def test_nobody_may_pass(world: World) -> None:
    assert world.verdict(basic("alice", "wonderland"), users=()) is WRONG
    assert world.done == 0


# What is remembered


def test_right_credentials_are_computed_once(world: World) -> None:
    assert world.verdict(basic("alice", "wonderland")) is RIGHT
    for _ in range(100):
        assert world.verdict(basic("alice", "wonderland")) is RIGHT
        assert world.done == 0
    assert world.verdict(basic("alice", "wonderlanD")) is WRONG
    assert world.done == 1


def test_another_hash_is_another_password(world: World) -> None:
    """The operator has changed it, or it is another tunnel's."""
    assert world.verdict(basic("alice", "wonderland")) is RIGHT
    assert world.verdict(basic("alice", "wonderland"), users=(("alice", BOB),)) is WRONG
    assert world.verdict(basic("alice", "wonderland"), users=(("bob", ALICE),)) is WRONG
    assert world.verdict(basic("alice", "wonderland"), users=()) is WRONG


def test_the_first_users_password_is_nobody_elses(world: World) -> None:
    assert world.verdict(basic("alice", "wonderland")) is RIGHT
    assert world.verdict(basic("carol", "wonderland")) is WRONG
    assert world.verdict(basic("carol", "wonderland")) is WRONG


def test_no_more_is_remembered_than_fits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MOST_REMEMBERED", 1)
    for user, password in (("alice", "wonderland"), ("bob", "tools"), ("alice", "wonderland")):
        assert world.verdict(basic(user, password)) is RIGHT
        assert world.done == 1


def test_the_same_credentials_at_once_are_computed_once(world: World) -> None:
    """A browser has several connections."""
    answers = [world.ask(basic("alice", "wonderland")) for _ in range(50)]
    assert world.compute() == 1
    assert answers == [[RIGHT]] * 50


def test_a_request_that_is_gone(world: World) -> None:
    first = world.passwords.check(USERS, basic("alice", "wonderland"), HERE)
    second = world.ask(basic("alice", "wonderland"))
    assert isinstance(first, Deferred)
    ends: list[object] = []
    first.addErrback(lambda failure: ends.append(failure.type))
    first.cancel()
    assert ends == [CancelledError]
    world.compute()
    assert second == [RIGHT]


# Guesses


def test_guesses_are_slowed(world: World) -> None:
    for number in range(GUESSES):
        assert world.verdict(basic("alice", f"guess {number}")) is WRONG
    assert world.verdict(basic("alice", "wonderland")) is LATER
    assert world.done == 0
    assert world.verdict(basic("alice", "wonderland"), "198.51.100.0") is RIGHT
    # Who has been here before is not kept out.
    assert world.verdict(basic("alice", "wonderland")) is RIGHT
    world.now += 1 / GUESS_RATE
    assert world.verdict(basic("bob", "tools")) is RIGHT


def test_right_credentials_are_no_guesses(world: World) -> None:
    users = [(f"user{number}", ALICE) for number in range(3 * GUESSES)]
    for name, _ in users:
        assert world.verdict(basic(name, "wonderland"), users=users) is RIGHT


def test_guesses_at_once_count_too(world: World) -> None:
    answers = [world.ask(basic("alice", f"guess {number}")) for number in range(GUESSES + 5)]
    assert answers[GUESSES:] == [[LATER]] * 5
    assert world.compute() == GUESSES


def test_no_more_wait_than_fit(world: World) -> None:
    answers = [world.ask(basic("alice", f"guess {n}"), f"192.0.2.{n}") for n in range(MOST_WAITING)]
    assert world.ask(basic("alice", "wonderland"), "198.51.100.0") == [LATER]
    assert world.compute() == MOST_WAITING
    assert answers == [[WRONG]] * MOST_WAITING
    assert world.verdict(basic("alice", "wonderland"), "198.51.100.0") is RIGHT


def test_what_fails_in_the_thread_is_tried_again_later(world: World) -> None:
    found = world.ask(basic("alice", "wonderland"))
    ((_, result),) = world.work
    result.errback(MemoryError("no memory"))
    world.work.clear()
    assert found == [LATER]
    assert world.verdict(basic("alice", "wonderland")) is RIGHT


# Threads


@ensureDeferred
async def test_in_a_thread() -> None:
    threads = PasswordThreads(reactor)
    threads.startService()
    try:
        asked = Passwords(threads.run, reactor.seconds)
        answer = asked.check(USERS, basic("alice", "wonderland"), HERE)
        assert isinstance(answer, Deferred)
        assert await answer is RIGHT
        assert asked.check(USERS, basic("alice", "wonderland"), HERE) is RIGHT
    finally:
        threads.stopService()
    assert not await threads.run(lambda: True)
