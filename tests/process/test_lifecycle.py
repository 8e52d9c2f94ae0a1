"""How the processes start and end: in the foreground and as daemons, with every reactor, asked and told to stop."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, poll, wait_until_closed
from tests.process.services import (
    ANY_PORT,
    LOOPBACK,
    Flood,
    Service,
    Tunnel,
    Visitor,
    expected,
    fetch,
    get,
    page,
    read_all,
    read_bytes,
    send_bytes,
    wait_for_page,
)

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

MIB = 1024 * 1024


ENDS = pytest.mark.parametrize("end", ["server", "client"])


def ended(tunnel: Tunnel, end: str) -> Twistd:
    """The end that is to be stopped."""
    return tunnel.server if end == "server" else tunnel.client


class TestForeground:
    @pytest.mark.parametrize("reactor", ["asyncio", "epoll", "poll", "select"])
    def test_reactor(self, reactor: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        service = serve(GET=page("here"))
        tunnel = start_tunnel(service.address, twistd_options=[f"--reactor={reactor}"])
        assert fetch(tunnel.public) == "here"
        for process in (tunnel.client, tunnel.server):
            assert process.terminate() == 0
            assert "Traceback" not in process.output
            assert f"reactor class: twisted.internet.{reactor}" in process.output

    @pytest.mark.usefixtures("heeds_sigint")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_ends_it_with_0(self, number: signal.Signals, serve: Serve, start_tunnel: StartTunnel) -> None:
        tunnel = start_tunnel(serve(GET=page("here")).address, server=["--drain=1000"], client=["--drain=1000"])
        for process in (tunnel.client, tunnel.server):
            assert process.terminate(number=number) == 0
            assert f"{number.name}: stopping" in process.output
        wait_until_closed(tunnel.public)
        wait_until_closed(tunnel.control)

    def test_client_is_stopped_while_there_is_no_server(self, twistd: Twistds) -> None:
        client = twistd("rtunnel-client", f"--server={LOOPBACK}:{free_port()}", f"--local={LOOPBACK}:9")
        client.wait_for("next attempt in")
        assert client.terminate() == 0


class TestDrain:
    """Visitors that are served when the signal comes may finish."""

    TOTAL = 128 * MIB

    @ENDS
    def test_download_is_completed(self, end: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        sent: list[bool] = []

        def download(connection: socket.socket) -> None:
            send_bytes(connection, self.TOTAL, 8)
            sent.append(True)

        service = serve(download=download)
        tunnel = start_tunnel(service.address, server=["--drain=1000"], client=["--drain=1000"])
        process = ended(tunnel, end)
        with small_buffer(tunnel, b"download") as visitor:
            first = visitor.recv(1, socket.MSG_PEEK)
            assert first
            process.send_signal(signal.SIGTERM)
            process.wait_for("waiting up to 1000 s for 1 visitors")
            wait_until_closed(tunnel.public, 10)
            assert not sent, "the download was over before the signal came"
            assert process.running
            assert read_bytes(visitor, self.TOTAL) == expected(self.TOTAL, 8)
            assert visitor.recv(1) == b""
        assert process.wait() == 0
        assert "cut off" not in process.output
        assert "Traceback" not in process.output

    @ENDS
    def test_downloads_at_every_stage_are_completed(self, end: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        """From those that the service has long finished, and that only wait for their reader, to those it is busy with.

        Where a download of some size stands depends on the system's buffers, so there are many sizes. Those that the
        service has finished are read last: then nothing but them keeps the process.
        """
        tunnel = start_tunnel(serve(get=get).address, server=["--drain=1000"], client=["--drain=1000"])
        process = ended(tunnel, end)
        totals = range(4 * MIB, 1000, -64 * 1024)
        with ExitStack() as stack:
            visitors = [stack.enter_context(small_buffer(tunnel, f"get {total} 9".encode())) for total in totals]
            for visitor in visitors:
                # So the service's connection is over for good when it has sent everything.
                visitor.shutdown(socket.SHUT_WR)
                assert visitor.recv(1, socket.MSG_PEEK)
            process.send_signal(signal.SIGTERM)
            process.wait_for(r"waiting up to 1000 s for \d+ visitors")
            for visitor, total in zip(visitors, totals, strict=True):
                assert read_all(visitor) == expected(total, 9), f"of {total} bytes"
        assert process.wait() == 0
        assert "cut off" not in process.output

    @ENDS
    def test_stalled_download_is_cut_off(self, end: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        flood = Flood()
        service = serve(flood=flood)
        tunnel = start_tunnel(service.address, server=["--drain=1"], client=["--drain=1"])
        process = ended(tunnel, end)
        with small_buffer(tunnel, b"flood") as visitor:
            assert visitor.recv(1, socket.MSG_PEEK)
            assert process.terminate() == 0
            assert "1 visitors did not finish in time and are cut off" in process.output
            # That it was not the end of the download is seen by the visitor.
            with pytest.raises(ConnectionResetError):
                read_bytes(visitor, 2**62)
        poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")
        assert "Traceback" not in process.output

    @ENDS
    def test_second_signal_ends_it_at_once(self, end: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        service = serve(flood=Flood())
        tunnel = start_tunnel(service.address, server=["--drain=1000"], client=["--drain=1000"])
        process = ended(tunnel, end)
        with small_buffer(tunnel, b"flood") as visitor:
            assert visitor.recv(1, socket.MSG_PEEK)
            process.send_signal(signal.SIGTERM)
            process.wait_for("waiting up to 1000 s for 1 visitors")
            second = time.monotonic()
            assert process.terminate() == 0
            print(f"ended {time.monotonic() - second:.2f} s after the second signal")
            assert "SIGTERM again: stopping at once" in process.output
            # It still ends in order.
            assert "1 visitors did not finish in time and are cut off" in process.output

    @ENDS
    def test_without_a_drain(self, end: str, serve: Serve, start_tunnel: StartTunnel) -> None:
        service = serve(flood=Flood())
        tunnel = start_tunnel(service.address, server=["--drain=0"], client=["--drain=0"])
        with small_buffer(tunnel, b"flood") as visitor:
            assert visitor.recv(1, socket.MSG_PEEK)
            assert ended(tunnel, end).terminate() == 0


def small_buffer(tunnel: Tunnel, line: bytes) -> Visitor:
    """A visitor whose socket holds little: what it does not read stays in the tunnel.

    While nobody reads, that is so by itself. SO_RCVBUF would fix the size, and Linux then drops what the sender had on
    its way when the room went. The sender tries again after 0.2 s, 0.4 s, and so on to 2 minutes, whether the visitor
    reads meanwhile or not; and of a connection that is closed it gives up at the eighth time.
    """
    return tunnel.visit(line)


class TestDaemon:
    def test_serves_and_ends(self, serve: Serve, twistd: Twistds) -> None:
        service = serve(GET=page("here"))
        control, public = free_port(), free_port()
        interface = f"--public-interface={LOOPBACK}"
        server = twistd.daemon("rtunnel-server", f"--control-listen={LOOPBACK}:{control}", interface)
        server.wait_for(rf"control port listening on {LOOPBACK}:{control}$")
        address = f"--server={LOOPBACK}:{control}"
        client = twistd.daemon("rtunnel-client", address, f"--local={service.address}", f"--remote-port={public}")
        client.wait_for(rf":{public} is published; the service at {service.address} answers$")
        assert fetch(public) == "here"
        for daemon in (client, server):
            directory = twistd.directory / f"daemon{0 if daemon is server else 1}"
            assert (directory / "twistd.pid").read_text() == str(daemon.pid)
            daemon.terminate()
            assert not (directory / "twistd.pid").exists()
            assert "SIGTERM: stopping" in daemon.output
            assert "Traceback" not in daemon.output

    def test_drains(self, serve: Serve, twistd: Twistds) -> None:
        """The pid file stays for as long as somebody is served."""
        control, public = free_port(), free_port()
        interface = f"--public-interface={LOOPBACK}"
        server = twistd.daemon("rtunnel-server", f"--control-listen={LOOPBACK}:{control}", interface)
        service = serve(echo=lambda connection: connection.sendall(connection.recv(100)))
        address = f"--server={LOOPBACK}:{control}"
        client = twistd("rtunnel-client", address, f"--local={service.address}", f"--remote-port={public}")
        client.wait_for("answers$")
        with Visitor(public, b"echo") as visitor:
            poll(lambda: service.busy == 1, PATIENCE, "a visitor at the service")
            server.send_signal(signal.SIGTERM)
            server.wait_for("waiting up to 10 s for 1 visitors")
            assert (twistd.directory / "daemon0" / "twistd.pid").exists()
            visitor.sendall(b"answer")
            assert visitor.recv(100) == b"answer"
            assert visitor.recv(100) == b""
        poll(lambda: not server.running, PATIENCE, f"the end of the daemon\n{server}")
        assert not (twistd.directory / "daemon0" / "twistd.pid").exists()


class TestBusyPort:
    """A port that somebody else has: one line, and a failure that whoever started it can see."""

    LINE = re.compile(
        r"cannot listen on (?P<address>\S+) \((?P<what>[a-z ]+)\): Address already in use; "
        r"stop what holds it, or choose another address with (?P<option>--[a-z-]+)"
    )

    @pytest.fixture(params=["control", "public"])
    def start(self, request: pytest.FixtureRequest, twistd: Twistds) -> Callable[..., tuple[Twistd, str]]:
        """Start a server of which one port is taken; the process, and the option for that port."""

        def started(port: int, *twistd_options: str) -> tuple[Twistd, str]:
            taken = f"tcp:{port}:interface={LOOPBACK}"
            control = taken if request.param == "control" else ANY_PORT
            arguments = ["rtunnel-server", f"--control-listen={control}"]
            if request.param == "public":
                arguments.append(f"--public-listen={taken}")
            return twistd(*arguments, twistd_options=twistd_options), f"--{request.param}-listen"

        return started

    def check(self, output: str, port: int, option: str) -> None:
        assert "Traceback" not in output
        (found,) = self.LINE.finditer(output)
        assert f":{port}:" in found["address"]
        assert found["option"] == option

    def test_foreground(self, start: Callable[..., tuple[Twistd, str]]) -> None:
        with socket.create_server((LOOPBACK, 0)) as holder:
            port = holder.getsockname()[1]
            process, option = start(port, "-n", "--pidfile=")
            assert process.wait() == 1
        self.check(process.output, port, option)

    def test_daemon(self, start: Callable[..., tuple[Twistd, str]], tmp_path: Path) -> None:
        pidfile, logfile = tmp_path / "busy.pid", tmp_path / "busy.log"
        with socket.create_server((LOOPBACK, 0)) as holder:
            port = holder.getsockname()[1]
            process, option = start(port, f"--pidfile={pidfile}", f"--logfile={logfile}")
            assert process.wait() == 1
        # The child may tell its parent 100 bytes only, and the parent then names the log.
        assert f"cannot listen on tcp:{port}:" in process.output
        assert "look at log file" in process.output
        assert "Traceback" not in process.output
        self.check(logfile.read_text(), port, option)
        poll(lambda: not pidfile.exists(), PATIENCE, "no pid file is left")

    def test_port_that_a_client_asks_for(self, serve: Serve, start_tunnel: StartTunnel, twistd: Twistds) -> None:
        """This ends nothing: the client is told, asks again, and gets it once it is free."""
        service = serve(GET=page("here"))
        tunnel = start_tunnel(service.address)
        with socket.create_server((LOOPBACK, 0)) as holder:
            port = holder.getsockname()[1]
            address = f"--server={LOOPBACK}:{tunnel.control}"
            client = twistd("rtunnel-client", address, f"--local={service.address}", f"--remote-port={port}")
            client.wait_for(rf"port {port} refused by the server: port-in-use: .*Address already in use")
            assert fetch(tunnel.public) == "here"
        wait_for_page(port, "here", PATIENCE)
        assert client.terminate() == 0
