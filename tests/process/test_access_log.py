"""The access log and the counts by real processes: they agree with what visitors have sent and got, to the byte."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll
from tests.process.rtc import RtcTunnel
from tests.process.services import (
    LOOPBACK,
    Service,
    Tunnel,
    Visitor,
    count,
    expected,
    fetch,
    get,
    page,
    read_all,
    send_bytes,
)
from tests.process.test_status import look

pytestmark = pytest.mark.usefixtures("control_sockets")

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]
StartRtc = Callable[..., RtcTunnel]

#: Bytes each way: through the buffers and through pipes.
MUCH = 8_000_003


def lines(path: Path, number: int) -> list[dict[str, Any]]:
    """The lines of an access log, once there are so many."""

    def written() -> list[dict[str, Any]] | None:
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return found if len(found) >= number else None

    found: list[dict[str, Any]] = poll(written, timeout=PATIENCE, what=f"{number} lines in {path}")
    assert len(found) == number
    return found


@pytest.mark.parametrize("plane", ["auto", "mux", "direct"])
def test_both_ends_count_the_same(serve: Serve, start_tunnel: StartTunnel, tmp_path: Path, plane: str) -> None:
    service = serve(get=get, count=count)
    at_server, at_client = tmp_path / "server.log", tmp_path / "client.log"
    tunnel = start_tunnel(
        service.address,
        server=[f"--access-log={at_server}"],
        client=[f"--access-log={at_client}"],
        data_plane=plane,
    )
    line = f"get {MUCH} 7".encode()
    with tunnel.visit(line) as visitor:
        assert read_all(visitor) == expected(MUCH, 7)
        source = f"{LOOPBACK}:{visitor.getsockname()[1]}"
    with tunnel.visit(b"count") as visitor:
        send_bytes(visitor, MUCH, 8)
        visitor.shutdown(socket.SHUT_WR)
        answer = visitor.recv(1000)
        assert not visitor.recv(1)
    carrier = "link" if plane == "mux" else "connection"
    for path in (at_server, at_client):
        first, second = sorted(lines(path, 2), key=lambda each: int(each["from_visitor"]))
        assert first["visitor"] == source
        assert first["tunnel"] == f"port {tunnel.public}"
        assert first["client"] == (LOOPBACK if path == at_server else "")
        assert (first["from_visitor"], first["to_visitor"]) == (len(line) + 1, MUCH)
        assert (second["from_visitor"], second["to_visitor"]) == (MUCH + len("count\n"), len(answer))
        assert {first["reason"], second["reason"]} == {"done"}
        if plane != "auto":  # there, he may have begun on the link
            assert {first["carrier"], second["carrier"]} == {carrier}
    for name in ("rtunnel-server", "rtunnel-client"):
        found = look(name)
        [carried] = found["clients"][0]["tunnels"] if name == "rtunnel-server" else found["tunnels"]
        assert carried["visitors_total"] == found["visitors_total"] == 2
        assert carried["traffic"]["to_visitors"] == found["traffic"]["to_visitors"] == MUCH + len(answer)
        assert carried["traffic"]["from_visitors"] == MUCH + len(line) + 1 + len("count\n")


def test_why_they_end(serve: Serve, start_tunnel: StartTunnel, tmp_path: Path) -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    service = serve(reset=reset, count=count)
    at_server, at_client = tmp_path / "server.log", tmp_path / "client.log"
    nobody = free_port()
    tunnel = start_tunnel(
        service.address,
        server=[f"--access-log={at_server}"],
        client=[f"--access-log={at_client}", f"--publish=tcp:{nobody}={LOOPBACK}:{free_port()}"],
    )
    tunnel.client.wait_for(f":{nobody} is published")
    with tunnel.visit(b"reset") as visitor, pytest.raises(ConnectionResetError):
        assert visitor.recv(1)
    assert [each["reason"] for each in lines(at_server, 1)] == ["connection-lost"]
    assert [each["reason"] for each in lines(at_client, 1)] == ["reset"]
    with tunnel.visit(b"count") as visitor:
        poll(lambda: service.busy == 1, timeout=PATIENCE, what="the visitor at the service")
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert lines(at_server, 2)[1]["reason"] == "reset"
    assert lines(at_client, 2)[1]["reason"] == "connection-lost"
    with Visitor(nobody) as visitor, pytest.raises(ConnectionResetError):
        assert visitor.recv(1)
    assert lines(at_server, 3)[2]["reason"] == "local-unreachable"
    assert lines(at_client, 3)[2]["reason"] == "local-unreachable"
    ended = {
        (carrier, reason): count
        for carrier, found in look("rtunnel-server")["visits"].items()
        for reason, count in found["ended"].items()
    }
    assert sum(ended.values()) == 3
    assert {reason for _, reason in ended} == {"connection-lost", "reset", "local-unreachable"}


def test_requests_by_host(serve: Serve, twistd: Twistds, start_tunnel: StartTunnel, tmp_path: Path) -> None:
    service = serve(GET=page("here"))
    path, port = tmp_path / "access.log", free_port()
    start_tunnel(
        service.address,
        server=[f"--access-log={path}", f"--http-listen=tcp:{port}:interface={LOOPBACK}"],
        client=[f"--publish=http:app.example.org={service.address}"],
    )

    def ask(host: str, target: str = "/") -> bytes:
        with socket.create_connection((LOOPBACK, port), PATIENCE) as visitor:
            visitor.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := visitor.recv(65536):
                answer += data
            return answer

    answer = poll(
        lambda: found if b" 200 " in (found := ask("app.example.org", "/a?b=c")) else None,
        timeout=PATIENCE,
        what="the page",
    )
    before = len(path.read_text().splitlines())
    answer = ask("app.example.org", "/a?b=c")
    assert ask("other.example.org").startswith(b"HTTP/1.1 404")
    first, second = lines(path, before + 2)[before:]
    assert (first["carrier"], first["method"], first["host"]) == ("request", "GET", "app.example.org")
    assert (first["target"], first["status"], first["reason"]) == ("/a?b=c", 200, "done")
    assert (first["tunnel"], first["to_visitor"]) == ("http://app.example.org", len(answer))
    assert (second["status"], second["tunnel"], second["reason"]) == (404, "", "refused")
    [tunnel] = [each for each in look("rtunnel-server")["clients"][0]["tunnels"] if "app" in each["place"]]
    assert tunnel["statuses"]["2xx"] == tunnel["visitors_total"] >= 2
    assert tunnel["traffic"]["to_visitors"] > 0


def test_datagrams(start_tunnel: StartTunnel, serve: Serve, tmp_path: Path) -> None:
    public = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((LOOPBACK, 0))
        service.settimeout(PATIENCE)
        tunnel = start_tunnel(
            serve(GET=page("x")).address, client=[f"--publish=udp:{public}={LOOPBACK}:{service.getsockname()[1]}"]
        )
        tunnel.client.wait_for(f"{public} is published for UDP")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
            visitor.settimeout(PATIENCE)
            visitor.sendto(b"x" * 100, (LOOPBACK, public))
            data, source = service.recvfrom(2000)
            service.sendto(b"y" * 1000, source)
            assert (len(data), len(visitor.recv(2000))) == (100, 1000)
    for name in ("rtunnel-server", "rtunnel-client"):
        found = look(name)
        all_of_it = found["clients"][0]["tunnels"] if name == "rtunnel-server" else found["tunnels"]
        [carried] = [each for each in all_of_it if str(public) in (each.get("place") or each["name"])]
        traffic = carried["traffic"]
        assert (traffic["from_visitors"], traffic["to_visitors"], carried["visitors_total"]) == (100, 1000, 1)


def test_the_webrtc_tunnel(serve: Serve, start_rtc: StartRtc, tmp_path: Path) -> None:
    service = serve(get=get)
    at_host, at_client = tmp_path / "host.log", tmp_path / "client.log"
    tunnel = start_rtc(service.address, host=[f"--access-log={at_host}"], client=[f"--access-log={at_client}"])
    with tunnel.visit(b"get 300000 7") as visitor:
        assert read_all(visitor) == expected(300_000, 7)
    for path in (at_host, at_client):
        [line] = lines(path, 1)
        assert (line["from_visitor"], line["to_visitor"], line["reason"]) == (13, 300_000, "done")
        assert (line["tunnel"], line["carrier"]) == ("(default)", "link")
    assert look("rtc-host")["services"][0]["traffic"]["to_visitors"] == 300_000
    assert look("rtc-client")["forwards"][0]["traffic"]["from_visitors"] == 13


def test_another_program_renames_it(serve: Serve, start_tunnel: StartTunnel, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    tunnel = start_tunnel(serve(GET=page("here")).address, server=[f"--access-log={path}"])
    assert fetch(tunnel.public) == "here"
    lines(path, 1)
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    old = path.rename(tmp_path / "access.log.old")
    tunnel.server.send_signal(signal.SIGUSR1)
    poll(path.exists, timeout=PATIENCE, what="the new file")
    assert fetch(tunnel.public) == "here"
    lines(path, 1)
    assert len(old.read_text().splitlines()) == 1


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_place_where_it_cannot_be(twistd: Twistds, tmp_path: Path) -> None:
    path = tmp_path / "no" / "access.log"
    process = twistd("rtunnel-server", f"--control-listen={LOOPBACK}:0", f"--access-log={path}")
    assert process.wait() == 1
    process.wait_for(f"cannot open the access log {path}: .*; name another with --access-log")
