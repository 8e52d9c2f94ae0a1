"""The WebRTC tunnel between real processes behind real NATs: through them, around them, and in spite of the network."""

from __future__ import annotations

import socket
from collections.abc import Callable
from queue import Queue

import pytest

from rtunnel.control.ask import ask
from tests.nat.lab import SERVER, STUN_PORT, Lab, Namespace, long_term, shared_secret
from tests.patience import PATIENCE
from tests.process.harness import Twistds, wait_until_open
from tests.process.services import (
    Background,
    Digest,
    Service,
    Visitor,
    count,
    curl,
    expected,
    page,
    read_all,
    send_bytes,
    wait_for_page,
)

Serve = Callable[..., Service]

PAGE = "A page behind two NATs.\n"
SIGNAL_PORT = 8080
LOCAL_PORT = 8000
"""Where a client listens; each has a network of its own."""

STUN = ("--stun-server", f"stun:{SERVER}:{STUN_PORT}")
NO_STUN = ("--stun-server", "")


def turn(*credentials: str, transport: str = "udp") -> tuple[str, ...]:
    return ("--turn-server", f"turn:{SERVER}:{STUN_PORT}?transport={transport}", *credentials)


class Sniffer:
    """Sees all packets of the network in which it is made."""

    #: ETH_P_ALL
    _EVERYTHING = 3
    #: SO_RCVBUFFORCE
    _RECEIVE_BUFFER = 33

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self._EVERYTHING))
        self._socket.setsockopt(socket.SOL_SOCKET, self._RECEIVE_BUFFER, 1 << 26)
        self._socket.setblocking(False)

    def close(self) -> bytes:
        """Return all of them, one behind the other."""
        packets = []
        with self._socket:
            while True:
                try:
                    packets.append(self._socket.recv(1 << 16))
                except BlockingIOError:
                    return b"".join(packets)


class Tunnel:
    """Signaling outside, a host in lan1, a client wherever *user* is.

    :param remote: the service's address in lan1.
    :param options: of both host and client.
    """

    def __init__(self, lab: Lab, twistd: Twistds, remote: str, *options: str, user: Namespace | None = None) -> None:
        self.user = user or lab.lan2
        common = ("--id", "myhost", "--signal", f"ws://{SERVER}:{SIGNAL_PORT}", *options)
        with lab.servers.inside():
            self.signal = twistd("rtc-signal", "--addr", f"{SERVER}:{SIGNAL_PORT}")
            wait_until_open(SIGNAL_PORT, host=SERVER)
        with lab.lan1.inside():
            self.host = twistd("rtc-host", "--remote", remote, *common)
        self.host.wait_for(r"host 'myhost' offers tcp ")
        with self.user.inside():
            self.client = twistd("rtc-client", "--local", f"127.0.0.1:{LOCAL_PORT}", *common)
            wait_until_open(LOCAL_PORT)

    @property
    def path(self) -> str:
        """What the client logs about its way to the host."""
        return self.client.wait_for(r"connected to host 'myhost': (.*)$")[1]

    def curl(self) -> str:
        with self.user.inside():
            return curl(f"http://127.0.0.1:{LOCAL_PORT}/").decode()

    def visit(self, line: bytes) -> Visitor:
        with self.user.inside():
            return Visitor(LOCAL_PORT, line)


def test_the_path_through_two_home_routers_is_direct(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    credentials = ("--turn-user", "user", "--turn-credential", "password")
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *STUN, *turn(*credentials))
    assert tunnel.curl() == PAGE
    assert tunnel.path.startswith("direct")
    assert lab.nat1.address in tunnel.path


def test_symmetric_nats_fall_back_to_the_relay(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    lab.nat1.behave("symmetric")
    lab.nat2.behave("symmetric")
    credentials = ("--turn-user", "user", "--turn-credential", "password")
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *STUN, *turn(*credentials))
    assert tunnel.curl() == PAGE
    assert tunnel.path.startswith("relayed")


def test_the_relay_sees_neither_what_is_carried_nor_for_which_service(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    lab.nat1.behave("symmetric")
    lab.nat2.behave("symmetric")
    service, name = serve(GET=page(PAGE * 1000)), "payroll-of-may"
    common = ("--id", "myhost", "--signal", f"ws://{SERVER}:{SIGNAL_PORT}", *NO_STUN)
    credentials = turn("--turn-user", "user", "--turn-credential", "password")
    with lab.servers.inside():
        twistd("rtc-signal", "--addr", f"{SERVER}:{SIGNAL_PORT}")
        wait_until_open(SIGNAL_PORT, host=SERVER)
        # Whoever runs the relay sees every packet of its machine, those of the signaling server too.
        seen = Sniffer()
    with lab.lan1.inside():
        host = twistd("rtc-host", "--service", f"{name}={service.address}", *common, *credentials)
    host.wait_for(r"host 'myhost' offers tcp ")
    with lab.lan2.inside():
        client = twistd("rtc-client", "--forward", f"127.0.0.1:{LOCAL_PORT}={name}", *common, *credentials)
        wait_until_open(LOCAL_PORT)
    assert client.wait_for(r"connected to host 'myhost': (.*)$")[1].startswith("relayed")
    with lab.lan2.inside():
        assert curl(f"http://127.0.0.1:{LOCAL_PORT}/").decode() == PAGE * 1000
    packets = seen.close()
    # Each has passed there twice, on its way in and out.
    assert len(packets) > 2 * len(PAGE) * 1000
    for plain in (PAGE.encode()[:12], name.encode(), b"User-Agent: curl"):
        assert plain not in packets


def test_where_no_udp_passes_the_relay_is_reached_by_tcp(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *long_term("user", "password"))
    lab.lose_udp(100)
    credentials = ("--turn-user", "user", "--turn-credential", "password")
    options = turn(*credentials, transport="tcp")
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *NO_STUN, *options)
    assert tunnel.curl() == PAGE
    assert tunnel.path.startswith("relayed")


def test_credentials_for_the_relay_are_made_from_its_secret(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd, *shared_secret("a secret"))
    lab.nat1.behave("symmetric")
    lab.nat2.behave("symmetric")
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *NO_STUN, *turn("--turn-secret", "a secret"))
    assert tunnel.curl() == PAGE
    assert tunnel.path.startswith("relayed")


def test_new_connections_work_within_15_s_when_the_address_has_changed(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd)
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *STUN)
    assert tunnel.curl() == PAGE
    lab.nat2.change_address("203.0.113.77")
    with lab.lan2.inside():
        wait_for_page(LOCAL_PORT, PAGE, timeout=15)


def test_a_host_whose_address_has_changed_is_found_again(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd)
    tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *STUN)
    assert tunnel.curl() == PAGE
    lab.nat1.change_address("198.51.100.77")
    # It needs some seconds to see that its signaling is dead, and more until its ID is given to it again.
    with lab.lan2.inside():
        wait_for_page(LOCAL_PORT, PAGE, timeout=PATIENCE)


@pytest.mark.parametrize(("percent", "total"), [(1, 4_000_000), (5, 4_000_000)])
def test_what_is_lost_on_the_way_is_sent_again(
    lab: Lab,
    twistd: Twistds,
    serve: Serve,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    percent: int,
    total: int,
) -> None:
    """And counted: each end knows how much of its own was lost, and how much of the other's it has missed."""
    sockets = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(sockets))
    received: Queue[Digest] = Queue()

    def duplex(connection: socket.socket) -> None:
        with Background(lambda: received.put(read_all(connection))):
            send_bytes(connection, total, 1)
            connection.shutdown(socket.SHUT_WR)

    lab.start_turn(twistd)
    lab.lose_udp(percent)
    tunnel = Tunnel(lab, twistd, serve(duplex=duplex).address, *STUN)
    with tunnel.visit(b"duplex") as visitor:

        def send() -> None:
            send_bytes(visitor, total, 2)
            visitor.shutdown(socket.SHUT_WR)

        with Background(send):
            assert read_all(visitor) == expected(total, 1)
        assert received.get(timeout=PATIENCE) == expected(total, 2)
    for service in ("rtc-host", "rtc-client"):
        [path] = sockets.glob(f"{service}-*.sock")
        totals = ask(path)["peer_totals"]
        assert total <= min(totals["bytes_sent"], totals["bytes_received"]) < 1.1 * total
        lost = totals["packets_lost"] / totals["packets_sent"]
        missed = totals["packets_missed"] / totals["packets_received"]
        print(f"of {percent} %: lost {lost:.2%}, missed {missed:.2%}")
        # Chance; and what a time-out sends again had not been lost.
        assert 0.4 * percent < 100 * missed < 2 * percent
        assert 0.4 * percent < 100 * lost < 3 * percent


def test_a_stun_server_that_is_silent_delays_nobody_at_home(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    neighbour = lab.nat1.add_machine()
    with lab.servers.udp_socket() as silent:
        options = ("--stun-server", f"stun:{SERVER}:{silent.getsockname()[1]}", "--log-level", "debug")
        tunnel = Tunnel(lab, twistd, serve(GET=page(PAGE)).address, *options, user=neighbour)
        assert tunnel.curl() == PAGE
        # It was asked, and not given up before there was a path.
        assert silent.recv(2048)
    assert "does not answer" not in tunnel.host.output + tunnel.client.output
    assert tunnel.path.startswith("direct")


def test_a_host_that_vanishes_without_a_word_is_noticed(lab: Lab, twistd: Twistds, serve: Serve) -> None:
    lab.start_turn(twistd)
    tunnel = Tunnel(lab, twistd, serve(count=count).address, *STUN)
    with tunnel.visit(b"count") as visitor:
        assert tunnel.path.startswith("direct")
        lab.nat1.cut()
        tunnel.client.wait_for(r"host 'myhost' lost: the peer no longer answers")
        with pytest.raises(ConnectionResetError):
            visitor.recv(1)
