"""The client is killed in the middle of traffic and started again: whoever comes meanwhile waits, and none is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, need, poll, wait_until_closed
from tests.process.services import LOOPBACK, Service, Visitor, curl, expected, read_all, read_line
from tests.process.tls_services import TlsService, authority_at, certificate, page_or_bytes
from tests.tls.parts import Authority

APP = "app.example.org"
PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])


class Place:
    """A server, and a client that serves a port and a host name, for HTTP and HTTPS.

    :ivar public: the port.
    """

    def __init__(
        self, twistd: Twistds, authority: Authority, service: str, tls: str, plane: str, hold: float = PATIENCE
    ) -> None:
        self._twistd = twistd
        self._authority = authority
        self._plane = plane
        self._services = service, tls
        self.control, self.public, self.http, self.https = (free_port() for _ in range(4))
        self.server = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{self.control}:interface={LOOPBACK}",
            f"--public-interface={LOOPBACK}",
            f"--http-listen=tcp:{self.http}:interface={LOOPBACK}",
            f"--https-listen=tcp:{self.https}:interface={LOOPBACK}",
            f"--data-plane={plane}",
            f"--hold={hold}",
        )
        self.server.wait_for("HTTPS port listening on")
        self.client = self.start_client()
        self.client.wait_for("https://.* is published")

    def start_client(self) -> Twistd:
        service, tls = self._services
        self.client = self._twistd(
            "rtunnel-client",
            f"--server={LOOPBACK}:{self.control}",
            f"--publish=tcp:{self.public}={service}",
            f"--publish=http:{APP}={service}",
            f"--publish=https:{APP}={tls}",
            f"--data-plane={self._plane}",
            "--check-services=no",
        )
        return self.client

    def lose_client(self) -> None:
        """Kill it, and wait until the server knows."""
        seen = len(self.server.output)
        self.client.kill()
        self.server.wait_for(r"client \S+ gone; visitors wait \d+ s for it", after=seen)

    def by_port(self) -> bytes:
        return curl(f"http://{LOOPBACK}:{self.public}/page")

    def by_host(self) -> bytes:
        return curl(f"http://{LOOPBACK}:{self.http}/page", "-H", f"Host: {APP}")

    def by_name(self) -> bytes:
        at = f"{APP}:{self.https}:{LOOPBACK}"
        return curl(f"https://{APP}:{self.https}/page", "--resolve", at, "--cacert", str(self._authority.cert))


class Visits:
    """One visit after the other.

    :ivar answers: what came.
    :ivar slowest: seconds that the slowest took.
    """

    def __init__(self, visit: Callable[[], bytes]) -> None:
        self.answers: list[bytes] = []
        self.slowest = 0.0
        self._visit = visit
        self._changed = threading.Condition()
        self._is_paused = self._is_visiting = False
        self._stops = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stops:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_paused)
                self._is_visiting = True
            began = time.monotonic()
            try:
                self.answers.append(self._visit())
            except AssertionError as error:
                self.answers.append(str(error).encode())
            self.slowest = max(self.slowest, time.monotonic() - began)
            with self._changed:
                self._is_visiting = False
                self._changed.notify_all()

    def pause(self) -> None:
        """Wait until nobody is being served."""
        with self._changed:
            self._is_paused = True
            assert self._changed.wait_for(lambda: not self._is_visiting, PATIENCE)

    def go_on(self) -> None:
        with self._changed:
            self._is_paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        self._stops = True
        self._thread.join(PATIENCE)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_at(tmp_path)


@pytest.fixture
def start_place(twistd: Twistds, authority: Authority) -> Iterator[Callable[..., Place]]:
    talents = {"GET": page_or_bytes}
    plain = Service(dict(talents))
    tls = TlsService(certificate(authority, APP), dict(talents))
    try:
        yield lambda plane, **more: Place(twistd, authority, plain.address, tls.address, plane, **more)
    finally:
        plain.close()
        tls.close()


@PLANES
def test_no_visit_fails(start_place: Callable[..., Place], plane: str) -> None:
    need("curl")  # which threads cannot say
    place = start_place(plane)
    by_connection = [Visits(place.by_port), Visits(place.by_name)]
    everybody = [*by_connection, Visits(place.by_host)]

    def wait_for_more() -> None:
        for visits in everybody:
            enough = len(visits.answers) + 2
            poll(lambda: len(visits.answers) >= enough, PATIENCE, "visits")  # noqa: B023

    for _ in range(3):
        wait_for_more()
        # Who is being served when the client dies is lost with it, but for requests, which are sent again.
        for visits in by_connection:
            visits.pause()
        place.lose_client()
        for visits in by_connection:
            visits.go_on()
        place.start_client()
    wait_for_more()
    for visits in everybody:
        visits.stop()
        print(f"{plane}: {len(visits.answers)} visits, the slowest took {visits.slowest:.2f} s")
        assert set(visits.answers) == {b"page"}
    assert place.server.terminate() == 0
    assert "Traceback" not in place.server.output


def test_nobody_comes_back(start_place: Callable[..., Place]) -> None:
    place = start_place("auto", hold=1)
    place.lose_client()
    began = time.monotonic()
    with Visitor(place.public, b"x") as visitor:
        visitor.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            visitor.recv(1)
    print(f"closed after {time.monotonic() - began:.2f} s")
    place.server.wait_for(rf"port {place.public}: 1 visitors have waited for the client, which has not come back;")
    wait_until_closed(place.public)
    assert place.server.terminate() == 0


@PLANES
def test_a_thousand_wait(start_place: Callable[..., Place], plane: str) -> None:
    """Nobody is lost when all are served at once."""
    place = start_place(plane)
    place.lose_client()
    with ExitStack() as stack:
        visitors = [stack.enter_context(Visitor(place.public, b"GET /bytes/1000/5\n")) for _ in range(1000)]
        began = time.monotonic()
        place.start_client().wait_for("https://.* is published")
        back = time.monotonic()
        for visitor in visitors:
            while read_line(visitor):
                pass
            assert read_all(visitor) == expected(1000, 5)
        served = time.monotonic()
        print(
            f"{plane}: the client was back after {back - began:.2f} s, and all were served {served - back:.2f} s later"
        )
    assert place.server.terminate() == 0
