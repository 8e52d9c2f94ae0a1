"""Links whose keys have other key exchanges mixed in: real processes, a real liboqs."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import needs_liboqs
from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.services import LOOPBACK, Service, count, expected, fetch, get, page, read_all, send_bytes
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
