"""Fixtures of these tests: a CA, and the two ends of a tunnel in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from rtunnel.tls import openssl
from rtunnel.tls.credentials import Credentials
from tests.leftovers import TestLog
from tests.tls.parts import Authority, Ends, Lines, client_of, server_of
from tests.tls.stream_world import NAME, World


@pytest.fixture(scope="session")
def first_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def authority(first_authority: Authority, tmp_path: Path) -> Authority:
    """The same CA for all tests, in a directory of each test's own."""
    return first_authority.copy(tmp_path / "pki")


@pytest.fixture
def server(authority: Authority) -> Credentials:
    return server_of(authority)


@pytest.fixture
def client(authority: Authority) -> Credentials:
    return client_of(authority)


@pytest.fixture
def world(authority: Authority) -> World:
    """A host whose TLS ends on streams."""
    return World(authority.server(hosts=[NAME], kind="ECDSA"))


@pytest.fixture
def lines(_nothing_left_behind: TestLog) -> Lines:
    from twisted.internet import reactor

    return Lines(_nothing_left_behind, reactor)


@pytest.fixture
def ends(lines: Lines) -> Iterator[Ends]:
    """Whatever is started by it is stopped when the test is over."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    started: Any = Ends(reactor, lines)
    yield started
    pytest_twisted.blockon(Deferred.fromCoroutine(started.stop_all()))


@pytest.fixture(autouse=True)
def _look_at_openssl_again() -> Iterator[None]:
    """What one test makes of the libraries is not kept for the next."""
    yield
    openssl.require_post_quantum.cache_clear()
