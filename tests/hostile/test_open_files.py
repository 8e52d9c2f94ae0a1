"""Another user of the machine, who may write the clients file, and a friend of his in the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.hostile.harness import Honest, gauge
from tests.ports import free_port
from tests.process.harness import Twistds
from tests.process.services import LOOPBACK, Tunnel

OURS, THEIRS = "token: 0123456789abcdef", "token: fedcba9876543210"


def test_a_clients_file_that_anybody_may_write(
    echo: str, start_tunnel: Callable[..., Tunnel], twistd: Twistds, tmp_path: Path
) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text(f"laptop: {{{OURS}}}\n")
    token = OURS.removeprefix("token: ")
    tunnel = start_tunnel(echo, server=[f"--clients={clients}"], client=[f"--token={token}"])
    with Honest(tunnel.public) as honest, gauge(tunnel.server) as used:
        theirs = tmp_path / "theirs.yaml"
        theirs.write_text(f"friend: {{{THEIRS}}}\n")
        theirs.chmod(0o666)
        theirs.replace(clients)
        tunnel.server.wait_for("the clients file cannot be used, and the rights stay as they were: every user of this")
        friend = twistd(
            "rtunnel-client",
            f"--server={LOOPBACK}:{tunnel.control}",
            f"--local={echo}",
            f"--remote-port={free_port()}",
            f"--token={THEIRS.removeprefix('token: ')}",
        )
        friend.wait_for("unauthorized")
        honest.go_on()
        assert tunnel.server.output.count("the clients file cannot be used") == 1
    assert used.log_bytes < 4000
