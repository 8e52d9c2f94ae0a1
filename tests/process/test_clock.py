"""The machine's clock is set back, and no timer waits for the time that has passed already.

The clock of these processes runs backwards, so it is set back after any timer was set: Python's ``time.time`` is
replaced before anything is imported. In the foreground, as a daemon, and from a ``.tac`` file; on the default reactor
and on that of asyncio.
"""

from __future__ import annotations

import socket

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll
from tests.process.test_etc import ETC, LISTENS, LOOPBACK

pytestmark = pytest.mark.cold

BACKWARDS = """
import time

now = time.time
start = now()
time.time = lambda: 2 * start - now()
"""

NEXT_ATTEMPT = "next attempt in"


@pytest.fixture
def environment(twistd: Twistds) -> dict[str, str]:
    """The environment of processes with such a clock."""
    (twistd.directory / "sitecustomize.py").write_text(BACKWARDS)
    return {"PYTHONPATH": str(twistd.directory)}


def test_a_client_dials_again(twistd: Twistds, environment: dict[str, str]) -> None:
    client = twistd("rtunnel-client", f"--server=127.0.0.1:{free_port()}", "--local=:1", env=environment)
    first = client.wait_for(NEXT_ATTEMPT)
    client.wait_for(NEXT_ATTEMPT, after=first.end())
    assert client.terminate() == 0


def test_a_silent_connection_is_closed(twistd: Twistds, environment: dict[str, str]) -> None:
    environment |= {"RTUNNEL_CONTROL_LISTEN": LOOPBACK, "RTUNNEL_HANDSHAKE_TIMEOUT": "0.5"}
    server = twistd(twistd_options=("--pidfile=", "-ny", str(ETC / "rtunnel-server.tac")), env=environment)
    port = int(server.wait_for(LISTENS)["port"])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as silent:
        silent.sendall(b"\x00")
        assert silent.recv(1) == b""
    assert server.terminate() == 0


def test_a_daemon_registers_again(twistd: Twistds, environment: dict[str, str]) -> None:
    host = twistd.daemon(
        *("rtc-host", f"--signal=ws://127.0.0.1:{free_port()}", "--id=x", "--remote=:1", "--log-level=debug"),
        env=environment,
    )
    poll(lambda: host.output.count(NEXT_ATTEMPT) > 1, PATIENCE, "another attempt")
    host.terminate()
