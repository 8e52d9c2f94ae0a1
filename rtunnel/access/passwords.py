"""Passwords of visitors: ``Authorization: Basic`` (RFC 7617) against hashes that clients send.

A hash is ``$scrypt$ln=15,r=8,p=1$SALT$HASH`` in the PHC string format, salt and hash in base64 without padding.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from rtunnel.errors import ConfigError
from rtunnel.upkeep.token_bucket import KeyedBuckets

#: The binary logarithm of the rounds of new hashes, and bounds of those that are accepted. 15 takes 32 MiB and about
#: 60 ms.
COST = 15
LOWEST_COST, HIGHEST_COST = 10, 17
#: The longest name of a user, in characters, and the longest password, in bytes.
MOST_NAME = 64
MOST_PASSWORD = 1024

#: Hashes that may be computed at once; one of the highest cost takes 128 MiB.
AT_ONCE = 1
#: Credentials that may wait for their hashes.
MOST_WAITING = 32
#: Credentials that are remembered as right.
MOST_REMEMBERED = 4096
#: Guesses of one address: so many at once, and so many a second.
GUESSES = 10
GUESS_RATE = 0.2
#: The same for all addresses together.
ALL_GUESSES = 100
ALL_GUESS_RATE = 10.0

_HASH = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=8,p=1\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})")
_BASIC = re.compile(rb"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)


class Verdict(Enum):
    """What :meth:`Passwords.check` found."""

    #: The user may come.
    RIGHT = "right"
    #: There are no credentials, or they are wrong. A browser asks for others.
    WRONG = "wrong"
    #: Too many guesses, or too much to do. The same may be right later.
    LATER = "later"


def make_hash(password: bytes) -> str:
    """Return the hash of a password, with a new salt. It takes as long as :func:`verify`."""
    salt = secrets.token_bytes(16)
    return f"$scrypt$ln={COST},r=8,p=1${_base64(salt)}${_base64(_scrypt(password, salt, COST, 32))}"


def verify(password: bytes, hashed: str) -> bool:
    """Return whether *hashed* is the hash of a password. It is meant for a thread: it takes 60 ms or, with the highest
    cost, four times that.

    :raises ConfigError: *hashed* is no hash.
    """
    cost, salt, expected = _parse(hashed)
    return hmac.compare_digest(_scrypt(password, salt, cost, len(expected)), expected)


def check_hash(hashed: str, user: str) -> None:
    """Check that *hashed* is a hash that :func:`verify` takes.

    :raises ConfigError: it is not; the message does not quote it, as it may be a password.
    """
    try:
        _parse(hashed)
    except ConfigError as error:
        raise ConfigError(f"what stands behind '{user}:' {error}; write what 'rtunnel passwd {user}' prints") from None


def check_user(name: str) -> None:
    """Check that *name* can be the name of a user.

    :raises ConfigError: it cannot.
    """
    if not name or not name.isprintable() or ":" in name or len(name) > MOST_NAME or name != name.strip():
        raise ConfigError(
            f"'{name[:MOST_NAME]}' is not the name of a user, which has 1 to {MOST_NAME} printable characters, no "
            "colon, and no spaces at its ends"
        )


def _parse(hashed: str) -> tuple[int, bytes, bytes]:
    """Return cost, salt and hash."""
    found = _HASH.fullmatch(hashed)
    if found is None:
        other = hashed.startswith(("$", "{"))
        raise ConfigError("is a hash of another kind" if other else "is not the hash of a password")
    cost = int(found[1])
    if not LOWEST_COST <= cost <= HIGHEST_COST:
        raise ConfigError(f"has ln={cost}, and {LOWEST_COST} to {HIGHEST_COST} is allowed")
    try:
        salt, expected = (b64decode(each + "=" * (-len(each) % 4), validate=True) for each in found.group(2, 3))
    except Error:
        raise ConfigError("is cut off") from None
    return cost, salt, expected


def _scrypt(password: bytes, salt: bytes, cost: int, length: int) -> bytes:
    # OpenSSL counts some more than the 128 * r * N bytes.
    memory = (128 * 8 << cost) + (1 << 20)
    return hashlib.scrypt(password, salt=salt, n=1 << cost, r=8, p=1, maxmem=memory, dklen=length)


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii").rstrip("=")


def _credentials(authorization: bytes) -> tuple[str, bytes] | None:
    """Return the user's name and the password of an ``Authorization`` field; None: it has none."""
    found = _BASIC.fullmatch(authorization)
    if found is None or len(found[1]) > 2 * (MOST_NAME * 4 + MOST_PASSWORD):
        return None
    try:
        name, colon, password = b64decode(found[1] + b"=" * (-len(found[1]) % 4), validate=True).partition(b":")
        return (name.decode("utf-8"), password) if colon and 0 < len(password) <= MOST_PASSWORD else None
    except (Error, UnicodeDecodeError):
        return None


class PasswordThreads(Service):
    """The threads in which hashes are computed: at most :data:`AT_ONCE`."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, AT_ONCE, "passwords")
        self.setName("passwords")

    def startService(self) -> None:
        """See :meth:`twisted.application.service.IService.startService`."""
        super().startService()
        self._pool.start()

    def stopService(self) -> None:
        """See :meth:`twisted.application.service.IService.stopService`. What waits is not computed any more."""
        super().stopService()
        self._pool.stop()

    def run(self, work: Callable[[], bool]) -> Deferred[bool]:
        """Call *work* in a thread, if this runs; its result comes in the thread of the reactor."""
        if not self.running:
            return succeed(False)
        return deferToThreadPool(self._reactor, self._pool, lambda: bool(self.running) and work())


class Passwords:
    """Who has come with the right password, for all tunnels of a process.

    :param run: calls what it gets in a thread; see :meth:`PasswordThreads.run`.
    :param now: a clock that does not run backwards, in seconds.
    """

    log = Logger()

    def __init__(self, run: Callable[[Callable[[], bool]], Deferred[bool]], now: Callable[[], float]) -> None:
        self._run = run
        self._now = now
        self._secret = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: dict[bytes, list[Deferred[Verdict]]] = {}
        self._guesses = KeyedBuckets(GUESS_RATE, GUESSES, ALL_GUESS_RATE, ALL_GUESSES, now())

    def check(
        self, users: Sequence[tuple[str, str]], authorization: bytes | None, address: str
    ) -> Verdict | Deferred[Verdict]:
        """Find out whether a request may pass.

        :param users: names, and the hashes of their passwords, as :func:`check_hash` takes them.
        :param authorization: the value of the field ``Authorization``; None: there is none.
        :param address: whose guesses count together: an IPv4 address, or a prefix of IPv6.
        :returns: the verdict, or what gives it later, and may be cancelled.
        """
        credentials = _credentials(authorization) if authorization is not None and users else None
        if credentials is None:
            return Verdict.WRONG
        name, password = credentials
        known = dict(users).get(name)
        # An unknown name takes as long as a known one.
        hashed = users[0][1] if known is None else known
        key = self._key(name, password, known or "", hashed)
        if key in self._right:
            self._right.move_to_end(key)
            return Verdict.RIGHT
        waiting = self._waiting.get(key)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING or not self._guesses.take(address, 1, self._now()):
                return Verdict.LATER
            waiting = self._waiting[key] = []
        verdict: Deferred[Verdict] = Deferred()
        waiting.append(verdict)
        if len(waiting) == 1:
            found = self._run(lambda: verify(password, hashed) and known is not None)
            found.addBoth(self._found, key, address)
        return verdict

    def _key(self, *parts: str | bytes) -> bytes:
        digest = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in parts:
            encoded = part.encode("utf-8") if isinstance(part, str) else part
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.digest()

    def _found(self, result: bool | Failure, key: bytes, address: str) -> None:
        if isinstance(result, Failure):
            self.log.warn("a password could not be checked: {why}", why=result.getErrorMessage())
            verdict = Verdict.LATER
        else:
            verdict = Verdict.RIGHT if result else Verdict.WRONG
        if verdict is Verdict.RIGHT:
            # It was no guess.
            self._guesses.spend(address, -1, self._now())
            self._right[key] = None
            if len(self._right) > MOST_REMEMBERED:
                self._right.popitem(last=False)
        for each in self._waiting.pop(key):
            each.callback(verdict)
