"""Links and peer connections whose keys have other key exchanges mixed in: real processes, a real liboqs."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import needs_liboqs
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.doctor import Report
from tests.process.harness import Twistds
from tests.process.rtc import RtcTunnel, UdpService, lines_with
from tests.process.services import (
    LOOPBACK,
    Service,
    count,
    expected,
    fetch,
    get,
    page,
    read_all,
    send_bytes,
    wait_for_page,
)
from tests.process.test_status import look, status
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

pytestmark = needs_liboqs

MCELIECE, FRODO = "Classic-McEliece-6688128", "FrodoKEM-1344-AES"
BOTH = f"--hedge={FRODO},{MCELIECE}"
AMOUNT = 20 * 1024 * 1024


@pytest.fixture
def tls(twistd: Twistds, tmp_path: Path) -> UnderTls:
    """Starts processes with certificates of one CA."""
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return UnderTls(twistd, authority.directory)


def test_two_of_them_are_mixed_in(tls: UnderTls, serve: Callable[..., Service]) -> None:
    service = serve(get=get, count=count, GET=page("hedged"))
    tunnel = tls.tunnel(service.address, server=[BOTH, "--log-level=debug"], client=[BOTH])
    for end in (tunnel.server, tunnel.client):
        end.wait_for(f"its keys have {MCELIECE} and {FRODO} mixed in, and visitors stay off the link")
    assert fetch(tunnel.public) == "hedged"
    with tunnel.visit(b"get %d 7" % AMOUNT) as down:
        assert read_all(down) == expected(AMOUNT, 7)
    with tunnel.visit(b"count") as up:
        send_bytes(up, AMOUNT, 8)
        up.shutdown(socket.SHUT_WR)
        total, digest = up.makefile().read().split()
        assert (int(total), digest) == expected(AMOUNT, 8)
    assert len(re.findall("has a connection of its own", tunnel.server.output)) == 3
    assert not re.search(r"visitor .*: stream \d", tunnel.server.output)
    [of_client] = look("rtunnel-server")["clients"]
    for end_tls in (of_client["tls"], look("rtunnel-client")["tls"]):
        assert (end_tls["group"], end_tls["hedge"]) == ("X25519MLKEM768", [MCELIECE, FRODO])
    _, shown, _ = status()
    assert shown.count(f"X25519MLKEM768 + {MCELIECE} + {FRODO}, ML-DSA-65") == 2


@pytest.mark.parametrize(
    ("client", "server", "said"),
    [
        ([f"--hedge={FRODO}"], [], f"the client has --hedge {FRODO}, the server no --hedge"),
        ([], [f"--hedge={FRODO}"], f"the client has no --hedge, the server --hedge {FRODO}"),
        ([f"--hedge={FRODO}"], [BOTH], f"the client has --hedge {FRODO}, the server --hedge {MCELIECE},{FRODO}"),
    ],
)
def test_both_ends_must_have_the_same(
    client: list[str], server: list[str], said: str, tls: UnderTls, serve: Callable[..., Service]
) -> None:
    service, control = serve(GET=page("never")), free_port()
    first = tls("rtunnel-server", "--tls", f"--control-listen=tcp:{control}:interface={LOOPBACK}", *server)
    first.wait_for("control port listening")
    second = tls("rtunnel-client", "--tls", f"--server={LOOPBACK}:{control}", f"--local={service.address}", *client)
    for end in (first, second):
        end.wait_for(re.escape(f"not-supported: {said}; nothing is carried before both have the same"))
    assert "is published" not in second.output


def test_datagrams(tls: UnderTls, serve: Callable[..., Service], udp_service: UdpService) -> None:
    public = free_port()
    publish = f"--publish=udp:{public}={udp_service.address}"
    tunnel = tls.tunnel(serve(GET=page("here")).address, server=[BOTH], client=[BOTH, publish])
    tunnel.client.wait_for(f"{public} is published for UDP")
    tunnel.server.wait_for("datagrams go by UDP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
        visitor.settimeout(PATIENCE)
        visitor.sendto(b"hedged", (LOOPBACK, public))
        assert visitor.recv(100) == b"degdeh"


@pytest.mark.parametrize("end", ["server", "client"])
def test_kill_9(end: str, tls: UnderTls, serve: Callable[..., Service]) -> None:
    """New keys are made for the new link."""
    often = ["--reconnect-min=0.1", "--reconnect-max=0.5"]
    tunnel = tls.tunnel(serve(GET=page("still here")).address, server=[BOTH], client=[BOTH, *often])
    assert fetch(tunnel.public) == "still here"
    if end == "server":
        tunnel.server.kill()
        tunnel.client.wait_for("link to server .* lost")
        tunnel.start_server()
    else:
        tunnel.client.kill()
        tunnel.start_client()
    wait_for_page(tunnel.public, "still here", PATIENCE)


def test_the_doctor(tls: UnderTls, serve: Callable[..., Service], tmp_path: Path) -> None:
    tunnel = tls.tunnel(serve(GET=page("here")).address, server=[BOTH], client=[BOTH])
    public, env = free_port(), {"RTUNNEL_PKI_DIR": str(tmp_path / "pki")}
    options = ("--tls", f"--server={LOOPBACK}:{tunnel.control}", f"--publish=udp:{public}={LOOPBACK}:9")
    report = Report(*options, BOTH, env=env)
    assert report.code == 0, report.found
    assert (report.status("rights"), report.status("data"), report.status("UDP")) == ("ok", "ok", "ok")
    other = Report(*options, env=env)
    assert other.code != 0
    assert f"the client has no --hedge, the server --hedge {MCELIECE},{FRODO}" in other.text("rights")


# The WebRTC tunnel


def test_peer_connections(serve: Callable[..., Service], start_rtc: Callable[..., RtcTunnel]) -> None:
    service = serve(get=get, count=count, GET=page("hedged"))
    tunnel = start_rtc(service.address, host=[BOTH], client=[BOTH])
    assert fetch(tunnel.local) == "hedged"
    words = f"sealed X25519MLKEM768 + {MCELIECE} + {FRODO}, ML-DSA-65, "
    for process, event in ((tunnel.client, "connected to host "), (tunnel.host, " connected: ")):
        [line] = lines_with(process, event)
        assert words in line
    with tunnel.visit(b"get %d 7" % AMOUNT) as down:
        assert read_all(down) == expected(AMOUNT, 7)
    with tunnel.visit(b"count") as up:
        send_bytes(up, AMOUNT, 8)
        up.shutdown(socket.SHUT_WR)
        total, digest = up.makefile().read().split()
        assert (int(total), digest) == expected(AMOUNT, 8)
    [at_host] = look("rtc-host")["peers"]
    for peer in (at_host, look("rtc-client")["peer"]):
        assert (peer["sealed"]["group"], peer["sealed"]["hedge"]) == ("X25519MLKEM768", [MCELIECE, FRODO])


def test_a_peer_connection_that_is_made_again(
    serve: Callable[..., Service], start_rtc: Callable[..., RtcTunnel]
) -> None:
    tunnel = start_rtc(
        serve(GET=page("still here")).address, host=[BOTH], client=[BOTH, "--reconnect-min=0.1", "--reconnect-max=0.5"]
    )
    assert fetch(tunnel.local) == "still here"
    tunnel.host.terminate()
    tunnel.start_host()
    tunnel.client.wait_for(rf"connected to host .*\+ {MCELIECE} \+ {FRODO}, ", after=len(tunnel.client.output))
    assert fetch(tunnel.local) == "still here"


@pytest.mark.parametrize(("host", "client"), [([BOTH], []), ([], [BOTH])])
def test_both_ends_of_a_peer_connection_must_have_the_same(
    host: list[str], client: list[str], serve: Callable[..., Service], start_rtc: Callable[..., RtcTunnel]
) -> None:
    service = serve(GET=page("never"))
    tunnel = start_rtc(service.address, host=host, client=client, start=["signal", "host"])
    tunnel.start_client()
    one, other = (f"--hedge {MCELIECE},{FRODO}" if given else "no --hedge" for given in (client, host))
    why = f"the client has {one}, the host {other}; nothing is carried before both have the same"
    tunnel.host.wait_for(f"client .* is refused: {why}")
    tunnel.client.wait_for(f"cannot be reached: it refuses this client: {why}")
    assert not lines_with(tunnel.client, "connected to host ")


def test_another_hedge_after_a_restart_only(
    serve: Callable[..., Service], start_rtc: Callable[..., RtcTunnel], tmp_path: Path
) -> None:
    config = tmp_path / "rtc.json"
    config.write_text(f'{{"hedge": "{FRODO}"}}')
    options = [f"--config={config}"]
    tunnel = start_rtc(serve(GET=page("here")).address, host=options, client=options)
    config.write_text(f'{{"hedge": "{MCELIECE}"}}')
    tunnel.host.send_signal(signal.SIGHUP)
    tunnel.host.wait_for("these settings changed and need a restart: hedge")
    assert fetch(tunnel.local) == "here"
