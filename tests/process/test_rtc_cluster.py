"""Two signaling servers as one cluster, of which one is killed: processes of their own, and a Redis."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.redis_server import RedisServer
from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.rtc import ID, RtcTunnel
from tests.process.services import LOOPBACK, Service, fetch, page

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="rt-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        yield server
        server.kill()


def test_a_host_comes_to_the_other_node(serve: Serve, start_rtc: StartRtc, twistd: Twistds, redis: RedisServer) -> None:
    service = serve(GET=page("here"))
    cluster, port = f"--cluster=redis+unix://{redis.socket}", free_port()
    other = f"--signal=ws://{LOOPBACK}:{port}"
    second = twistd("rtc-signal", f"--addr={LOOPBACK}:{port}", cluster)
    second.wait_for("the directory of the cluster is there")
    # The host is at the first server, and the client at the second one.
    tunnel = start_rtc(service.address, signal=[cluster], host=[other], start=["signal"])
    tunnel.signal.wait_for("the directory of the cluster is there")
    tunnel.start_host()
    tunnel.wait_for_host()
    tunnel.signal.wait_for(rf"host '{ID}' at \S+ registered")
    client = twistd(
        "rtc-client", f"--id={ID}", other, "--stun-server=", f"--ice-interface={LOOPBACK}", f"--local=:{tunnel.local}"
    )
    client.wait_for(f"connected to host '{ID}'")
    assert fetch(tunnel.local) == "here"
    tunnel.signal.send_signal(signal.SIGKILL)
    second.wait_for(rf"host '{ID}' at \S+ registered")
    assert fetch(tunnel.local) == "here"
