"""Whoever holds connections to the control port, proved or not, beside a client that comes anew."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from rtunnel.wire.frames import ERROR, HEADER, HELLO, INIT, READY, encode_frame
from tests.hostile.harness import Honest, connect, gauge, is_closed
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, poll
from tests.process.services import Tunnel

CLIENTS = "laptop: {token: laptop-token}\nhog: {token: hog-token-1, ports: none}\n"


def hello(token: str) -> bytes:
    """HELLO of a client that comes for the first time."""
    session = f"{random.getrandbits(128):032x}"
    values = {"version": 1, "session": session, "initial_credit": 65536, "token": token}
    return encode_frame(HELLO, 0, json.dumps(values).encode())


def answer(link: socket.socket, wanted: int) -> dict[str, object]:
    """The payload of the first frame of this type, or of an ERROR."""
    while True:
        kind, _, length = HEADER.unpack(_read(link, HEADER.size))
        payload = _read(link, length)
        if kind in (wanted, ERROR):
            found: dict[str, object] = json.loads(payload)
            return found


def _read(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        assert more, f"the end after {data!r}"
        data += more
    return data


@pytest.fixture
def clients(tmp_path: Path) -> str:
    path = tmp_path / "clients.yaml"
    path.write_text(CLIENTS)
    return f"--clients={path}"


@pytest.mark.parametrize("is_shared", [False, True], ids=["", "shared port"])
def test_silent_strangers_take_no_place_of_a_client(
    echo: str, start_tunnel: Callable[..., Tunnel], twistd: Twistds, is_shared: bool
) -> None:
    """Where there is a shared port, their silence is taken for that of a client of the reference protocol."""
    more = [f"--public-listen=tcp:{free_port()}:interface=127.0.0.1"] if is_shared else []
    tunnel = start_tunnel(echo, server=["--max-links=4", "--handshake-timeout=100", *more])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        strangers = [stack.enter_context(connect(tunnel.control, "127.0.1.1")) for _ in range(20)]
        if is_shared:
            tunnel.server.wait_for("4 links, the limit")
        other = free_port()
        twistd("rtunnel-client", f"--server=127.0.0.1:{tunnel.control}", f"--local={echo}", f"--remote-port={other}")
        tunnel.server.wait_for(rf"127.0.0.1:{other} -> .*: published")
        # It had not to wait until they had gone.
        assert is_shared or not any(map(is_closed, strangers))
        honest.go_on()
        used.look()
    assert used.cpu_seconds < len(strangers) * 0.05
    assert used.log_bytes < len(strangers) * 600
    assert used.most_descriptors < tunnel.server.descriptors() + len(strangers) + 40


def test_links_without_rights_give_way(
    echo: str, start_tunnel: Callable[..., Tunnel], clients: str, tmp_path: Path
) -> None:
    tunnel = start_tunnel(echo, server=["--max-links=6", clients], client=["--token=laptop-token"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        hogs = []
        for _ in range(5):
            hogs.append(stack.enter_context(connect(tunnel.control, data=hello("hog-token-1"))))
            assert "session" in answer(hogs[-1], HELLO)
        late = stack.enter_context(connect(tunnel.control, data=hello("hog-token-1")))
        assert "session" in answer(late, HELLO)
        assert answer(late, ERROR)["code"] == "limit"
        newcomer = stack.enter_context(connect(tunnel.control, data=hello("laptop-token")))
        newcomer.sendall(encode_frame(INIT, 0, b"%d:local" % free_port()))
        assert "address" in answer(newcomer, READY)
        honest.go_on()
        # Now the rights bound them, and those beyond lose their links.
        (tmp_path / "clients.yaml").write_text(CLIENTS.replace("none}", "none, links: 2}"))
        for hog in hogs[:2]:
            poll(lambda hog=hog: _is_over(hog), PATIENCE, "a link beyond the right is closed")  # type: ignore[misc]
        honest.go_on()
    assert used.cpu_seconds < 1.0
    assert used.log_bytes < 20_000


def _is_over(link: socket.socket) -> bool:
    """Read all that there is; return whether it has ended."""
    link.setblocking(False)
    try:
        while link.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
