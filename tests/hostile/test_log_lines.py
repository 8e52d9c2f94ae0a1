"""What strangers and one admitted client can write into the log, beside lines that matter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from rtunnel.upkeep.log_limiter import BURST, STRANGER_BURST
from tests.hostile.harness import Honest, connect, gauge
from tests.process.services import Tunnel
from tests.reverse.net import ERROR, INIT, frame, hello

FLOODER, OTHER = "127.0.0.9", "127.0.0.3"
NONSENSE = b"\xff" * 100
COMES_AND_GOES = frame(INIT, 1, b"%d:x") + frame(ERROR, 1, b'{"scope":"tunnel"}')
#: What a line has beside its text, at most.
LINE = 400


def test_a_stranger_that_floods_hides_no_other(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    tunnel = start_tunnel(echo)
    with Honest(tunnel.public), gauge(tunnel.server) as used:
        sent = 0
        for _ in range(200):
            # The end may be a reset, as there is more than was read.
            with connect(tunnel.control, FLOODER, data=NONSENSE) as stranger, suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
            sent += len(NONSENSE)
        connect(tunnel.control, OTHER, data=NONSENSE).close()
        tunnel.server.wait_for(rf"\] connection from {OTHER}:\d+ closed")
    assert used.log_bytes < STRANGER_BURST + 10 * LINE
    assert used.log_bytes < sent


def test_an_admitted_client_that_comes_again_and_again(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    """With tunnels that come and go, which are two lines for each hundred bytes."""
    tunnel = start_tunnel(echo, server=["--public-listen=tcp:0:interface=127.0.0.1"])
    with Honest(tunnel.public), gauge(tunnel.server) as used:
        for _ in range(3):
            with connect(tunnel.control, FLOODER, data=hello()) as link:
                link.sendall(COMES_AND_GOES.replace(b"%d", b"00") * 1000)
                link.sendall(frame(0x13, 0, b"the last"))
                received = b""
                while b"the last" not in received:
                    data = link.recv(65536)
                    assert data, "the link stays"
                    received += data
    # Beside the client's own lines there are those about the port: 20 of two formats in each period of the limiter, of
    # which two may be within one of the gauge's.
    assert used.log_bytes < BURST + 2 * 2 * 20 * LINE
