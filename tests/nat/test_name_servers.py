"""A name server that says nothing holds up what waits for it, and nothing else.

Each process here has a ``/etc/resolv.conf`` of its own, by which a look-up ends long after the test's patience. So what
waits for a look-up never comes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.nat.lab import Namespace, need_root
from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, twistd_program
from tests.process.services import LOOPBACK, Service, Visitor, fetch, page

RESOLV_CONF = """
nameserver 127.0.0.1
nameserver 127.0.0.2
nameserver 127.0.0.3
options timeout:30 attempts:5
"""

PAGE = "A page of localhost.\n"
VISITORS = 12
"""More than there are threads in Twisted's pool, in which the look-ups of all names used to wait."""


class Machine:
    """A network without any other machine, and three name servers that say nothing."""

    def __init__(self, twistd: Twistds) -> None:
        self.twistd = twistd
        self._resolv_conf = twistd.directory / "resolv.conf"
        self._resolv_conf.write_text(RESOLV_CONF)
        self.name_servers = []
        for number in (1, 2, 3):
            silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            silent.bind((f"127.0.0.{number}", 53))
            self.name_servers.append(silent)

    def start(self, *arguments: str) -> Process:
        """Start ``twistd -n ARGUMENTS``."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return self.twistd.program(
            *(need("unshare"), "--mount", "sh", "-c", script, str(self._resolv_conf)),
            *(twistd_program(), "-n", "--pidfile=", *arguments),
        )

    def wait_until_asked(self) -> bytes:
        """Wait for a look-up that goes to the first name server, and return the packet."""
        return self.name_servers[0].recv(512)

    def close(self) -> None:
        for one in self.name_servers:
            one.close()


@pytest.fixture
def machine(twistd: Twistds) -> Iterator[Machine]:
    need_root()
    with ExitStack() as stack:
        namespace = Namespace()
        stack.callback(namespace.close)
        stack.enter_context(namespace.inside())
        machine = Machine(twistd)
        stack.callback(machine.close)
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    service = Service({"GET": page(PAGE)})
    yield service
    service.close()


def test_reverse_tunnels(machine: Machine, service: Service) -> None:
    control, silent, public = free_port(), free_port(), free_port()
    arguments = (
        "rtunnel-server",
        f"--control-listen={LOOPBACK}:{control}",
        f"--public-interface={LOOPBACK}",
        "--drain=0",
    )
    server = machine.start(*arguments)
    server.wait_for(r"control port listening")
    client = machine.start(
        *("rtunnel-client", f"--server=localhost:{control}", "--dial-timeout=1000", "--drain=0"),
        *(f"--tunnel={silent}:nas.lan:80", f"--tunnel={public}:localhost:{service.port}"),
    )
    client.wait_for(rf":{silent} is published; the service at nas\.lan:80 ")
    visitors = [Visitor(silent) for _ in range(VISITORS)]
    assert b"\x03nas\x03lan\x00" in machine.wait_until_asked()
    # Other names are looked up meanwhile: that of the other service, and that of the server.
    client.wait_for(rf":{public} is published; the service at localhost:{service.port} answers$")
    assert fetch(public) == PAGE
    assert server.terminate() == 0
    server = machine.start(*arguments)
    again = client.wait_for(r"next attempt in").end()
    client.wait_for(rf":{public} is published; the service at localhost:{service.port} answers$", after=again)
    # And nothing waits for the look-up at the end.
    visitors.append(Visitor(silent))
    assert client.terminate() == 0
    for visitor in visitors:
        visitor.close()


def test_webrtc_tunnel(machine: Machine, service: Service) -> None:
    signal, local = free_port(), free_port()
    ends = (f"--signal=ws://localhost:{signal}", "--id=myhost", f"--ice-interface={LOOPBACK}", "--drain=0")
    machine.start("rtc-signal", f"--addr={LOOPBACK}:{signal}").wait_for(r"signaling port listening")
    turn = ("--stun-server=stun:stun.lan", "--turn-server=turn:turn.lan", "--turn-secret=x")
    host = machine.start("rtc-host", *ends, *turn, f"--service=web={service.address}", "--service=nas=nas.lan:80")
    host.wait_for(r"host 'myhost' offers ")
    nas = free_port()
    client = machine.start(
        *("rtc-client", *ends, "--stun-server="),
        *(f"--forward={LOOPBACK}:{local}=web", f"--forward={LOOPBACK}:{nas}=nas"),
    )
    client.wait_for(r"connected to host 'myhost': direct, ")
    visitors = [Visitor(nas) for _ in range(VISITORS)]
    assert fetch(local) == PAGE
    assert host.terminate() == 0
    assert client.terminate() == 0
    for visitor in visitors:
        visitor.close()
