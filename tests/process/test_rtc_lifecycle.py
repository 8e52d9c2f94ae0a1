"""How the processes of the WebRTC tunnel end, and who may come in: drains, dead peers, IDs that are taken, tokens."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, poll, wait_until_closed
from tests.process.rtc import ID, RtcTunnel, lines_with
from tests.process.services import (
    Background,
    Flood,
    Service,
    expected,
    fetch,
    get,
    page,
    read_all,
    wait_for_page,
)

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

KIB = 1024
MIB = 1024 * KIB

DRAIN = "--drain=1000"
SMALL_WINDOW = "--max-window=256K"
"""So that little of a download is ahead of its reader."""
TOTAL = 12 * MIB
"""Much more than windows and sockets hold."""

ENDS = pytest.mark.parametrize("end", ["host", "client"])


def ended(tunnel: RtcTunnel, end: str) -> Twistd:
    """The end that is to be stopped."""
    return tunnel.host if end == "host" else tunnel.client


class TestSignals:
    @pytest.mark.usefixtures("heeds_sigint")
    def test_sigint_ends_it_with_0(self, serve: Serve, start_rtc: StartRtc) -> None:
        """SIGTERM ends every other test of the WebRTC tunnel."""
        tunnel = start_rtc(serve(GET=page("here")).address)
        assert fetch(tunnel.local) == "here"
        for process in (tunnel.client, tunnel.host, tunnel.signal):
            assert process.terminate(number=signal.SIGINT) == 0
            assert "SIGINT: stopping" in process.output
        wait_until_closed(tunnel.local)
        wait_until_closed(tunnel.port)

    def test_client_that_is_searching(self, start_rtc: StartRtc) -> None:
        tunnel = start_rtc("127.0.0.1:9", start=["signal"])
        client = tunnel.start_client(DRAIN)
        client.wait_for(f"host '{ID}' cannot be reached: there is no '{ID}'; next attempt in")
        # Somebody waits for the host, and would for longer than the process is given here.
        with tunnel.visit() as visitor:
            assert client.terminate() == 0
            with pytest.raises(ConnectionResetError):
                visitor.recv(1)


class TestDrain:
    """Visitors that are served when the signal comes may finish."""

    def test_client(self, serve: Serve, start_rtc: StartRtc) -> None:
        service = serve(get=get)
        tunnel = start_rtc(service.address, client=[DRAIN, SMALL_WINDOW])
        with tunnel.visit(f"get {TOTAL} 7".encode()) as visitor:
            assert visitor.recv(1, socket.MSG_PEEK)
            tunnel.client.send_signal(signal.SIGTERM)
            tunnel.client.wait_for("waiting up to 1000 s for 1 visitors")
            # Nobody else is let in.
            wait_until_closed(tunnel.local)
            assert read_all(visitor) == expected(TOTAL, 7)
        assert tunnel.client.wait() == 0
        assert "cut off" not in tunnel.client.output
        # The host knows that it was left, and need not find out.
        tunnel.host.wait_for("lost: the peer closed the connection", 5)

    def test_host_whose_id_is_free_at_once(self, serve: Serve, start_rtc: StartRtc) -> None:
        """A second host takes over, under the same ID, while the first still serves whom it has."""
        old, new = serve(get=get), serve(GET=page("new"))
        tunnel = start_rtc(old.address, client=[SMALL_WINDOW], start=["signal"])
        first = tunnel.start_host("", DRAIN)
        tunnel.wait_for_host()
        tunnel.start_client()
        tunnel.wait_for_client()
        with tunnel.visit(f"get {TOTAL} 7".encode()) as visitor:
            assert visitor.recv(1, socket.MSG_PEEK)
            first.send_signal(signal.SIGTERM)
            first.wait_for("waiting up to 1000 s for 1 visitors")
            second = tunnel.start_host(new.address)
            tunnel.wait_for_host()
            assert "in use" not in second.output
            # The first takes no new visitors of its old clients.
            with pytest.raises(ConnectionResetError), tunnel.visit(b"get 1 1") as refused:
                refused.recv(1)
            tunnel.client.wait_for("host 'myhost' refuses a connection: it is stopping, and takes no new ones$")
            # Who is new goes to the second.
            mine, tunnel.local = tunnel.local, free_port()
            client = tunnel.client
            tunnel.start_client()
            tunnel.wait_for_client()
            assert fetch(tunnel.local) == "new"
            assert read_all(visitor) == expected(TOTAL, 7)
        assert first.wait() == 0
        assert "cut off" not in first.output
        # The old client follows, and its local port was open all the time.
        wait_for_page(mine, "new", PATIENCE)
        assert client.running

    @ENDS
    def test_stalled_download_is_cut_off(self, end: str, serve: Serve, start_rtc: StartRtc) -> None:
        flood = Flood()
        service = serve(flood=flood)
        tunnel = start_rtc(service.address)
        process = ended(tunnel, end)
        with tunnel.visit(b"flood") as visitor:
            assert visitor.recv(1)
            assert process.terminate() == 0
            assert "1 visitors did not finish in time and are cut off" in process.output
            # That it was not the end of the download is seen by the visitor.
            with pytest.raises(ConnectionResetError):
                read_all(visitor)
        poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")

    @ENDS
    def test_second_signal_ends_it_at_once(self, end: str, serve: Serve, start_rtc: StartRtc) -> None:
        service = serve(flood=Flood())
        tunnel = start_rtc(service.address, host=[DRAIN], client=[DRAIN])
        process = ended(tunnel, end)
        with tunnel.visit(b"flood") as visitor:
            assert visitor.recv(1)
            process.send_signal(signal.SIGTERM)
            process.wait_for("waiting up to 1000 s for 1 visitors")
            assert process.terminate() == 0
        assert "SIGTERM again: stopping at once" in process.output

    @ENDS
    def test_other_end_is_dead(self, end: str, serve: Serve, start_rtc: StartRtc) -> None:
        """It answers nothing any more, and there is a stream: the drain is not longer for it, nor the goodbye."""
        service = serve(flood=Flood())
        tunnel = start_rtc(service.address)
        process = ended(tunnel, end)
        dead = tunnel.client if end == "host" else tunnel.host
        with tunnel.visit(b"flood") as visitor:
            assert visitor.recv(1)
            dead.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            assert process.terminate() == 0
            print(f"ended after {time.monotonic() - began:.2f} s")
            dead.kill()


class TestIds:
    def test_two_hosts(self, serve: Serve, start_rtc: StartRtc) -> None:
        """The second is told so in one line, and keeps trying; it serves when the first has gone."""
        old, new = serve(GET=page("old")), serve(GET=page("new"))
        tunnel = start_rtc(old.address, host=["--reconnect-max=1"])
        first = tunnel.host
        second = tunnel.start_host(new.address, "--log-level=debug")
        complaint = f"the server says: the ID '{ID}' is in use"
        second.wait_for(complaint)
        # Those that follow are for debugging only.
        poll(lambda: len(lines_with(second, complaint)) > 2, PATIENCE, "it keeps trying")
        loud = [line for line in lines_with(second, complaint) if "#debug" not in line]
        assert len(loud) == 1, loud
        assert "#warn" in loud[0]
        assert fetch(tunnel.local) == "old"
        assert len(lines_with(tunnel.client, "connected to host")) == 1
        assert first.terminate() == 0
        tunnel.wait_for_host()
        wait_for_page(tunnel.local, "new", PATIENCE)

    def test_host_that_has_no_room(self, serve: Serve, start_rtc: StartRtc) -> None:
        """It answers no more clients than it may have; who is not answered asks again, and is served in its turn."""
        tunnel = start_rtc(serve(GET=page("here")).address, host=["--max-clients=1"])
        assert fetch(tunnel.local) == "here"
        first, tunnel.local = tunnel.client, free_port()
        second = tunnel.start_client("--wait-timeout=1000")
        tunnel.host.wait_for(r"1 clients, the limit \(--max-clients\): others are not answered")
        with Background(lambda: fetch(tunnel.local)):
            assert first.terminate() == 0
            second.wait_for(f"host '{ID}' cannot be reached: no answer within")


class TestTokens:
    def test_wrong_and_missing(self, serve: Serve, start_rtc: StartRtc) -> None:
        """One line says what to do; nobody gets in."""
        good = "--token=correct-horse"
        tunnel = start_rtc(
            serve(GET=page("here")).address, signal=["--valid-tokens=other,correct-horse"], start=["signal"]
        )
        url = f"cannot use signaling server ws://127.0.0.1:{tunnel.port}: "
        hurried = ["--reconnect-max=1", "--log-level=debug"]
        missing = "it asks for a token (401); see --token"
        wrong = "it does not accept the token (401); see --token"
        refused = {tunnel.start_host("", *hurried): missing}
        refused[tunnel.start_host("", *hurried, "--token=battery-staple")] = wrong
        refused[tunnel.start_client(*hurried)] = missing
        tunnel.local = free_port()
        refused[tunnel.start_client(*hurried, "--token=battery-staple")] = wrong
        for process, complaint in refused.items():
            poll(lambda p=process: len(lines_with(p, "(401)")) > 1, PATIENCE, "more attempts")  # type: ignore[misc]
            (line,) = [line for line in lines_with(process, "(401)") if "#debug" not in line]
            assert f"{url}{complaint}; next attempt in" in line
            assert "battery" not in process.output
        for process in refused:
            assert process.terminate() == 0
        tunnel.start_host("", good)
        tunnel.wait_for_host()
        tunnel.start_client(good)
        tunnel.wait_for_client()
        assert fetch(tunnel.local) == "here"
        assert len(lines_with(tunnel.signal, "registered")) == 1
