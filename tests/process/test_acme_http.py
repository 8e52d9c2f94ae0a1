"""The CA comes by HTTP: real processes, a real ACME server, and the operator's own HTTP tunnel beside it."""

from __future__ import annotations

import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, poll
from tests.process.pebble import Pebble
from tests.process.services import Service
from tests.process.test_acme import LISTEN, LOOPBACK, NAME, OBTAINED, House, Site, get
from tests.process.verbs import look, say

BY_HTTP = "--acme-challenge=http-01"
PLACE = "/.well-known/acme-challenge"
#: Longer than any token.
UNKNOWN = f"{PLACE}/{'x' * 43}"


class HttpHouse(House):
    """One whose server has an HTTP port too."""

    def __init__(self, twistd: Twistds, directory: Path, local: str) -> None:
        super().__init__(twistd, directory, local, f"--http-listen={LISTEN}")
        self.http_port = int(self.server.wait_for(r"HTTP port listening on \S+:(\d+)")[1])

    def ask(self, path: str) -> tuple[int, str]:
        """A request by HTTP: the status, and what comes with it."""
        connection = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Host": NAME})
            answer = connection.getresponse()
            content = answer.read().decode()
            return answer.status, answer.getheader("Location") or content
        finally:
            connection.close()

    @contextmanager
    def traffic(self) -> Iterator[Counter[tuple[int, str]]]:
        """Requests for the operator's own tunnel, one after the other."""
        seen: Counter[tuple[int, str]] = Counter()
        is_over = threading.Event()

        def come() -> None:
            while not is_over.wait(0.01):
                try:
                    seen[self.ask("/")] += 1
                except Exception as error:
                    seen[0, repr(error)] += 1

        thread = threading.Thread(target=come)
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            thread.join()


@pytest.fixture
def house(twistd: Twistds, tmp_path: Path, serve: Callable[..., Service]) -> HttpHouse:
    return HttpHouse(twistd, tmp_path, serve(GET=Site("GET")).address)


def started(house: HttpHouse, pebble: Pebble, *options: str) -> Twistd:
    own = f"--publish=http:{NAME}={house.local}"
    return house.client(*pebble.options, BY_HTTP, own, "--log-level=debug", *options)


def test_ordered_and_renewed_beside_an_http_tunnel(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.http_port, valid=24)
    pebble.start()
    client = started(house, pebble)
    end = client.wait_for(OBTAINED).end()
    record = client.wait_for(r"a new account was made: \S+; .*app.example.org. CAA 0 issue \"(.*)\"")[1]
    assert record.endswith("; validationmethods=http-01")
    first = house.serial()
    with house.traffic() as seen, house.visit(pebble.root()) as visitor:
        poll(seen.total, PATIENCE, "visitors")

        def ask_and_look() -> bool:
            assert get(visitor, "/") == b"hello"
            return re.compile(OBTAINED).search(client.output, end) is not None

        poll(ask_and_look, PATIENCE, "another certificate")
    assert house.serial() != first
    assert [*seen] == [(200, "hello")]
    assert house.ask(UNKNOWN)[0] == 404
    for process in (client, house.server):
        assert "no new certificate" not in process.output
        assert "Traceback" not in process.output
    assert client.terminate() == 0


def test_visitors_are_redirected_and_the_ca_is_not(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.http_port)
    pebble.start()
    config = tmp_path / "client.yaml"
    config.write_text(
        f"server: {LOOPBACK}:{house.control}\n"
        "acme-email: admin@example.org\n"
        f"acme-server: {pebble.directory}\n"
        f"acme-ca: {pebble.ca}\n"
        "acme-challenge: http-01\n"
        f"state-dir: {house.state}\n"
        "tunnels:\n"
        f"- https:{NAME}={house.local}\n"
        f"- publish: http:{NAME}={house.local}\n"
        "  redirect-https: true\n"
    )
    client = twistd("rtunnel-client", "--config", str(config))
    client.wait_for(OBTAINED)
    assert house.ask("/x") == (301, f"https://{NAME}:{house.port}/x")
    assert house.ask(UNKNOWN)[0] == 404
    house.visit(pebble.root()).close()


def test_a_group(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    """Each member has a certificate of its own, whichever of them the CA asks first."""
    pebble = Pebble(twistd, tmp_path / "pebble", house.http_port)
    pebble.start()
    config = tmp_path / "client.yaml"
    config.write_text(
        f"server: {LOOPBACK}:{house.control}\n"
        "acme-challenge: http-01\n"
        "tunnels:\n"
        f"- {{publish: 'https:{NAME}={house.local}', group: web, group-key: 0123456789abcdef}}\n"
    )
    for number in range(3):
        member = twistd(
            "rtunnel-client", "--config", str(config), *pebble.options, f"--state-dir={tmp_path / str(number)}"
        )
        member.wait_for(OBTAINED)
        assert "no new certificate" not in member.output
        assert "cannot be reached" not in member.output


def test_names_come_and_go_while_the_client_runs(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.http_port)
    pebble.start()
    server, own = f"--server={LOOPBACK}:{house.control}", f"--publish=http:{NAME}={house.local}"
    client = twistd("rtunnel-client", server, own, *pebble.options, BY_HTTP, f"--state-dir={house.state}")
    client.wait_for("is published")
    assert house.ask(UNKNOWN) == (200, "hello")
    assert say(twistd, "publish", f"https:{NAME}={house.local}")[0] == 0
    client.wait_for(OBTAINED)
    house.visit(pebble.root()).close()
    assert house.ask(UNKNOWN)[0] == 404
    code, out = say(twistd, "publish", f"http:other.example.org{PLACE}={house.local}", f"http:{NAME}{PLACE}/x=80")
    assert code == 0, out
    code, out = say(twistd, "publish", f"http:{NAME}{PLACE}={house.local}")
    assert code
    assert f"http:{NAME}{PLACE} is where the client answers the CA; leave it out, or give --acme-challenge" in out
    assert say(twistd, "unpublish", f"https:{NAME}")[0] == 0
    client.wait_for(rf"http://{NAME}{PLACE}: given up")
    poll(lambda: house.ask(UNKNOWN) == (200, "hello"), PATIENCE, "the operator's own tunnel has all paths again")
    assert client.terminate() == 0
    assert "Traceback" not in client.output


def test_a_wrong_port(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    """The CA asks at its own port 80, where nobody is."""
    pebble = Pebble(twistd, tmp_path / "pebble", free_port())
    pebble.start()
    client = started(house, pebble)
    client.wait_for(
        rf"{NAME}: no new certificate, visitors are turned away: 127.0.0.1:\d+: the name was not confirmed: "
        rf"connection: .*http://{NAME}:\d+{PLACE}/.*refused.*; next attempt in \d+ minutes"
    )
    assert house.ask("/") == (200, "hello")
    assert client.terminate() == 0
    assert "Traceback" not in client.output


def test_a_server_without_an_http_port(twistd: Twistds, tmp_path: Path, serve: Callable[..., Service]) -> None:
    house = House(twistd, tmp_path, serve(GET=Site("GET")).address)
    pebble = Pebble(twistd, tmp_path / "pebble", free_port())
    pebble.start()
    client = house.client(*pebble.options, BY_HTTP)
    client.wait_for(
        rf"http://{NAME}{PLACE} refused by the server: not-supported: the server has no HTTP port .*; next attempt in "
        r".*; no certificate is ordered meanwhile: let the server have --http-listen :80, or give this client "
        "--acme-challenge tls-alpn-01"
    )
    assert "is being obtained" not in client.output
    # The other challenge needs no such port.
    assert client.terminate() == 0
    pebble = Pebble(twistd, tmp_path / "other", house.port)
    pebble.start()
    house.client(*pebble.options).wait_for(OBTAINED)


def test_the_status_shows_the_tunnel(house: HttpHouse, twistd: Twistds, tmp_path: Path) -> None:
    pebble = Pebble(twistd, tmp_path / "pebble", house.http_port)
    client = started(house, pebble)
    client.wait_for(rf"http://{NAME}:{house.http_port}{PLACE} is published: a CA checks there that the name is yours")
    shown = {each["name"]: each for each in look(twistd, "rtunnel-client")["tunnels"]}
    assert shown.keys() == {f"https://{NAME}", f"http://{NAME}", f"http://{NAME}{PLACE}"}
    challenges = shown[f"http://{NAME}{PLACE}"]
    assert (challenges["service"], challenges["published"], challenges["problem"]) == ("ACME challenges", True, None)
