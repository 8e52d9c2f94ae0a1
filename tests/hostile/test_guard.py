"""Revocation and rights hold, whatever stands in the files in between."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.harness import LOOPBACK, Honest, gauge
from tests.process.harness import Twistds
from tests.process.services import Tunnel
from tests.tls.parts import Authority, with_version


def test_a_thief_is_revoked_after_files_that_no_library_reads(
    echo: str, start_tls: Callable[..., Tunnel], twistd: Twistds, authority: Authority
) -> None:
    tunnel = start_tls(echo)
    thief = authority.client("thief")
    link = twistd(
        "rtunnel-client",
        f"--server={LOOPBACK}:{tunnel.control}",
        f"--local={echo}",
        "--tls",
        f"--tls-cert={thief.cert}",
        f"--tls-key={thief.key}",
        f"--tls-ca={authority.cert}",
        "--remote-port=0",
    )
    tunnel.server.wait_for(r"client .*\(thief\) connected")
    with Honest(tunnel.public) as honest, gauge(tunnel.server) as used:
        path = authority.directory / "server.crt"
        good = path.read_bytes()
        path.write_text(with_version(authority.certificate, 7))
        tunnel.server.wait_for("the TLS files cannot be used, and those from before stay in use")
        path.write_bytes(good)
        honest.go_on()
        authority.revoke(thief)
        tunnel.server.wait_for(r"\(thief\): closed by us: unauthorized: the certificate of 'thief' is revoked")
        # It comes back, and is not let in.
        tunnel.server.wait_for("connection from .* closed: .*'thief' is revoked")
        honest.go_on()
    assert link.running
    assert used.log_bytes < 10_000


def test_such_files_at_the_start_are_one_clear_line(twistd: Twistds, authority: Authority) -> None:
    (authority.directory / "server.crt").write_text(with_version(authority.certificate, 7))
    server = twistd(
        "rtunnel-server",
        f"--control-listen=tcp:0:interface={LOOPBACK}",
        "--tls",
        env={"RTUNNEL_PKI_DIR": str(authority.directory)},
    )
    assert server.wait() != 0
    assert server.output.count("server.crt is not a certificate in PEM") == 1
    assert "Traceback" not in server.output
