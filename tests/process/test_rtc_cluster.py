"""Two signaling servers as one cluster, of which one is killed: processes of their own, and a Redis."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.redis_server import RedisServer, a_redis
from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.rtc import ID, RtcTunnel
from tests.process.services import LOOPBACK, Service, fetch, page

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with a_redis() as server:
        yield server


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
    # So does a client that names the dead server first; and those who come anew are at the same place as the host.
    again = free_port()
    late = twistd(
        "rtc-client",
        f"--id={ID}",
        f"--signal=ws://{LOOPBACK}:{tunnel.port}",
        other,
        "--stun-server=",
        f"--ice-interface={LOOPBACK}",
        f"--local=:{again}",
    )
    late.wait_for(f"connected to host '{ID}'")
    assert fetch(again) == "here"


def test_the_server_of_the_client_is_killed(
    serve: Serve, start_rtc: StartRtc, twistd: Twistds, redis: RedisServer
) -> None:
    """Its tunnel goes on without signaling, and the client is at the host's server soon, where it can ask again."""
    service = serve(GET=page("here"))
    cluster, port = f"--cluster=redis+unix://{redis.socket}", free_port()
    first = twistd("rtc-signal", f"--addr={LOOPBACK}:{port}", cluster)
    first.wait_for("the directory of the cluster is there")
    tunnel = start_rtc(service.address, signal=[cluster], start=["signal", "host"])
    client = twistd(
        "rtc-client",
        f"--id={ID}",
        f"--signal=ws://{LOOPBACK}:{port}",
        f"--signal=ws://{LOOPBACK}:{tunnel.port}",
        "--stun-server=",
        f"--ice-interface={LOOPBACK}",
        f"--local=:{tunnel.local}",
    )
    client.wait_for(f"connected to host '{ID}'")
    assert fetch(tunnel.local) == "here"
    first.kill()
    assert fetch(tunnel.local) == "here"
    # Another host of the same ID: the client needs signaling to reach it.
    seen = len(client.output)
    tunnel.host.kill()
    tunnel.start_host()
    tunnel.wait_for_host()
    client.wait_for(f"connected to host '{ID}'", after=seen)
    assert fetch(tunnel.local) == "here"
