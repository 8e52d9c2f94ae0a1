"""Either end beside a program of the reference protocol, which is a process of its own too."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, wait_until_open
from tests.process.services import (
    ANY_PORT,
    LOOPBACK,
    Background,
    Service,
    Visitor,
    expected,
    fetch,
    get,
    page,
    read_all,
    wait_for_page,
)

Serve = Callable[..., Service]

TAC = """
from twisted.application.service import Application
from twisted.internet import reactor
from rtunnel.testing import ReferenceClient, ReferenceServer

application = Application("reference")
{service}.setServiceParent(application)
"""

LARGE = 20 * 1024 * 1024


@pytest.fixture
def reference(twistd: Twistds) -> Callable[[str], Twistd]:
    """``reference("ReferenceServer(reactor)")``: a process with that."""

    def start(service: str) -> Twistd:
        tac = twistd.directory / f"{free_port()}.tac"
        tac.write_text(TAC.format(service=service))
        return twistd(twistd_options=["-n", "--pidfile=", "-y", str(tac)])

    return start


def check(public: int) -> None:
    """Pages, and large downloads at once."""
    assert [fetch(public) for _ in range(5)] == ["here"] * 5

    def download(seed: int) -> None:
        with Visitor(public, f"get {LARGE} {seed}".encode()) as visitor:
            assert read_all(visitor) == expected(LARGE, seed)

    with Background(lambda: download(1)), Background(lambda: download(2)):
        assert fetch(public) == "here"


def test_reference_client_with_a_port_of_its_own(
    twistd: Twistds, serve: Serve, reference: Callable[[str], Twistd]
) -> None:
    service = serve(GET=page("here"), get=get)
    public = free_port()
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", f"--public-interface={LOOPBACK}")
    control = int(server.wait_for(r"control port listening on \S+:(\d+)$")[1])
    client = reference(f"ReferenceClient(reactor, {control}, {service.port}, {public})")
    server.wait_for(rf"{LOOPBACK}:{public} -> {service.address} of client \S+: published$")
    check(public)
    client.kill()
    server.wait_for(rf"client \S+ gone; visitors wait 10 s for it: {public}$")
    assert server.terminate() == 0
    assert "Traceback" not in server.output


def test_silent_reference_client_on_the_shared_port(
    twistd: Twistds, serve: Serve, reference: Callable[[str], Twistd]
) -> None:
    service = serve(GET=page("here"), get=get)
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", f"--public-listen={ANY_PORT}")
    control = int(server.wait_for(r"control port listening on \S+:(\d+)$")[1])
    public = int(server.wait_for(r"shared public port \S+:(\d+) is closed until")[1])
    reference(f"ReferenceClient(reactor, {control}, {service.port})")
    server.wait_for("published$")
    check(public)


def test_reference_server(twistd: Twistds, serve: Serve, reference: Callable[[str], Twistd]) -> None:
    """With its restart, after which it counts its visitors from one again."""
    service = serve(GET=page("here"), get=get)
    control, public = free_port(), free_port()
    server = reference(f"ReferenceServer(reactor, control_port={control})")
    wait_until_open(control)
    address = f"--server={LOOPBACK}:{control}"
    client = twistd("rtunnel-client", address, f"--local={service.address}", f"--remote-port={public}")
    client.wait_for(rf"{LOOPBACK}:{public} is asked for, .*; the service at {service.address} answers$")
    wait_for_page(public, "here", PATIENCE)
    check(public)
    server.kill()
    client.wait_for("next attempt in")
    started = time.monotonic()
    reference(f"ReferenceServer(reactor, control_port={control})")
    # Do not look whether its control port is open: it serves whoever connected last.
    wait_for_page(public, "here", PATIENCE)
    print(f"in service {time.monotonic() - started:.2f} s after the reference server was started again")
    check(public)
    assert client.terminate() == 0
    assert "Traceback" not in client.output
