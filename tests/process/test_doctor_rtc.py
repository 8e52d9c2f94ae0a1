"""``rtunnel doctor --signal`` with real processes: signaling, TURN, and the services of a host."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rtunnel.access.identities import load_identity
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.pki.certificates import Kind
from tests.access.peers.parts import Organisation
from tests.ports import free_port
from tests.process.doctor import Report, run
from tests.process.harness import Process, Twistds, need, wait_until_open
from tests.process.nginx import Nginx
from tests.process.rtc import ID, RtcTunnel
from tests.process.services import LOOPBACK, Service, fetch, page
from tests.process.test_doctor_hostile import Hostile
from tests.process.tls_services import authority_at, certificate

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

LOCAL = ("--stun-server=", f"--ice-interface={LOOPBACK}")


pytestmark = pytest.mark.usefixtures("control_sockets")


def test_all_is_well_beside_a_host_and_a_client_that_run(serve: Serve, start_rtc: StartRtc, tmp_path: Path) -> None:
    service = serve(GET=page("here"))
    tunnel = start_rtc(service.address)
    url = f"ws://{LOOPBACK}:{tunnel.port}"
    code, out, err = run(f"--signal={url}", *LOCAL)
    assert (code, err) == (0, "")
    assert "ok   signaling    an rtc-signal lets us in without a token" in out
    assert f"ok   addresses    offers {LOOPBACK}" in out
    config = tmp_path / "rtc.yaml"
    config.write_text(json.dumps({"signal": url, "host": {"id": ID, "remote": service.address}}))
    report = Report(f"--config={config}", *LOCAL)
    assert (report.code, report.found["end"]) == (0, "host")
    assert report.text("service") == f"{service.address} of the default service answers"
    # The host is registered still, and the client is connected.
    assert fetch(tunnel.local) == "here"
    assert "signaling lost" not in tunnel.host.output + tunnel.client.output


def test_each_of_several_servers(twistd: Twistds) -> None:
    port, closed = free_port(), free_port()
    twistd("rtc-signal", f"--addr={LOOPBACK}:{port}")
    wait_until_open(port)
    report = Report(f"--signal=ws://{LOOPBACK}:{port},ws://{LOOPBACK}:{closed}", *LOCAL)
    assert report.text("signaling") == "an rtc-signal lets us in without a token"
    assert report.failed() == ["port 2"]
    assert str(closed) in report.advice


def test_tokens(twistd: Twistds) -> None:
    port = free_port()
    twistd("rtc-signal", f"--addr={LOOPBACK}:{port}", "--valid-tokens=right")
    wait_until_open(port)
    url = f"--signal=ws://{LOOPBACK}:{port}"
    for token, text in ((), "it asks for a token"), (("--token=wrong",), "it does not accept the token"):
        report = Report(url, *LOCAL, *token)
        assert report.failed() == ["signaling"]
        assert report.text("signaling").startswith(text)
        assert "--valid-tokens" in report.advice
    assert Report(url, *LOCAL, "--token=right").text("signaling") == "an rtc-signal lets us in with the token"


def test_tls(twistd: Twistds, tmp_path: Path) -> None:
    authority = authority_at(tmp_path / "ca")
    holder = certificate(authority, "localhost")
    port = free_port()
    files = (f"--tls-cert-file={holder.cert}", f"--tls-key-file={holder.key}")
    twistd("rtc-signal", f"--addr={LOOPBACK}:{port}", *files)
    wait_until_open(port)
    good = Report(f"--signal=wss://localhost:{port}", *LOCAL, f"--ca-file={authority.cert}")
    assert good.code == 0, good.found
    assert ", TLSv1.3, certificate for localhost until " in good.text("signaling")
    unknown = Report(f"--signal=wss://localhost:{port}", *LOCAL)
    assert unknown.failed() == ["signaling"]
    assert "its certificate is refused" in unknown.text("signaling")
    assert "--ca-file" in unknown.advice
    named = Report(f"--signal=wss://{LOOPBACK}:{port}", *LOCAL, f"--ca-file={authority.cert}")
    assert f"is for localhost, not for {LOOPBACK}" in named.text("signaling")
    assert "Write the name" in named.advice
    plain = Report(f"--signal=ws://{LOOPBACK}:{port}", *LOCAL)
    assert plain.failed() == ["signaling"]
    assert "Write wss://" in plain.advice


def test_no_signaling_there(twistd: Twistds, tmp_path: Path) -> None:
    port = free_port()
    report = Report(f"--signal=ws://{LOOPBACK}:{port}", *LOCAL)
    assert report.failed() == ["port"]
    assert "Start rtc-signal on that machine" in report.advice
    need("nginx")
    report = Report(f"--signal=ws://{Nginx(twistd, tmp_path / 'nginx').address}/nothing", *LOCAL)
    assert report.failed() == ["signaling"]
    assert "404" in report.text("signaling")
    assert "Correct the path" in report.advice


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"", {}), (b"HTT", {}), (b"\xff" * 65536, {"flood": True}), (b"\x16\x03\x03\xff\xff", {}), (b"", {"ends": True})],
    ids=["silence", "half a line", "a flood", "TLS", "an end"],
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_something_hostile(first: bytes, more: dict[str, bool], scheme: str) -> None:
    with ExitStack() as stack:
        hostile = Hostile(first, **more)
        stack.callback(hostile.close)
        report = Report(f"--signal={scheme}://{LOOPBACK}:{hostile.port}", *LOCAL)
    assert report.failed() == ["signaling"]
    assert report.text("signaling").isprintable()
    assert report.advice


def start_turn(twistd: Twistds, port: int) -> Process:
    directory = twistd.directory
    process = twistd.program(
        *(need("turnserver"), "-n", "--no-cli", "--no-tls", "--no-dtls", "-m", "1", "-l", "stdout", "--simple-log"),
        *("--pidfile", f"{directory}/turn.pid", "--db", f"{directory}/turn.db", "-r", "example.org"),
        *("-p", str(port), "-L", LOOPBACK, "-E", LOOPBACK, "--lt-cred-mech", "-u", "user:password"),
    )
    wait_until_open(port)
    return process


def test_stun_and_turn(twistd: Twistds) -> None:
    signal, turn = free_port(), free_port()
    twistd("rtc-signal", f"--addr={LOOPBACK}:{signal}")
    wait_until_open(signal)
    start_turn(twistd, turn)
    options = (
        f"--signal=ws://{LOOPBACK}:{signal}",
        f"--ice-interface={LOOPBACK}",
        f"--stun-server=stun:{LOOPBACK}:{turn}",
        f"--turn-server=turn:{LOOPBACK}:{turn},turn:{LOOPBACK}:{turn}?transport=tcp",
        "--turn-user=user",
    )
    good = Report(*options, "--turn-credential=password")
    assert good.code == 0, good.found
    assert good.text("STUN").startswith(f"no NAT: {LOOPBACK}:{turn} sees {LOOPBACK}:")
    assert [
        f"transport={kind} relays at " in step["text"]
        for kind, step in zip(("udp", "tcp"), good.steps["TURN"], strict=True)
    ] == [
        True,
        True,
    ]
    bad = Report(*options, "--turn-credential=wrong")
    assert bad.failed() == ["TURN", "TURN"]
    assert "401" in bad.text("TURN")
    assert "--turn-credential" in bad.advice


def test_identities(tmp_path: Path) -> None:
    """Who an end is and whom it trusts, also without signaling. Nothing is made."""
    state = tmp_path / "state"
    options = (f"--signal=ws://{LOOPBACK}:{free_port()}", *LOCAL, f"--state-dir={state}")
    new = Report("host", *options)
    assert new.text("identity") == (
        "it gets its identity at its first start; open: it serves everybody whom the signaling server lets in"
    )
    assert not state.exists()
    made = load_identity(state / "identities" / "client.pem", "rtunnel client")
    (tmp_path / "clients").write_text("")
    short = show_fingerprint(made.fingerprint)
    assert Report("connect", *options).text("identity") == (
        f"fingerprint {short}, ML-DSA-65, no second key; open: it trusts whomever the signaling server shows as the "
        "host"
    )
    pinned = Report("connect", *options, f"--host-key={short}").text("identity")
    assert pinned == f"fingerprint {short}, ML-DSA-65, no second key; closed: it is told whom to trust"
    listed = Report("host", *options, f"--authorized-clients={tmp_path / 'clients'}").text("identity")
    assert listed == "it gets its identity at its first start; closed: it is told whom to trust"
    (state / "identities" / "client.pem").chmod(0o644)
    bad = Report("connect", *options)
    assert "identity" in bad.failed()
    assert "client.pem" in bad.text("identity")


@pytest.mark.parametrize(("end", "kind"), [("host", Kind.HOST), ("connect", Kind.CLIENT)])
def test_a_certificate_that_has_expired_or_soon_will(end: str, kind: Kind, tmp_path: Path) -> None:
    organisation = Organisation(tmp_path)
    files = tmp_path / "own"
    options = [
        end,
        f"--signal=ws://{LOOPBACK}:{free_port()}",
        *LOCAL,
        f"--identity-cert={files}.crt",
        f"--identity-key={files}.key",
        f"--peer-ca={organisation.file}",
    ]

    def report(days: int, now: datetime | None = None) -> Report:
        issued = organisation.issue("myhost", kind, days=days, now=now)
        (tmp_path / "own.crt").write_bytes(issued.certificate_pem)
        (tmp_path / "own.key").write_bytes(issued.key_pem)
        (tmp_path / "own.key").chmod(0o600)
        return Report(*options)

    now = datetime.now(UTC)
    expired = report(10, now - timedelta(days=20))
    assert "identity" in expired.failed()
    assert "the certificate of 'myhost' expired on " in expired.text("identity")
    early = report(10, now + timedelta(days=5))
    assert "identity" in early.failed()
    assert "the certificate of 'myhost' is not valid before " in early.text("identity")
    soon = report(10)
    assert "identity" not in soon.failed()
    assert "closed: it is told whom to trust; the certificate of 'myhost' expires in " in soon.text("identity")
    assert report(400).text("identity").endswith("; closed: it is told whom to trust")


def test_servers_that_are_silent(twistd: Twistds) -> None:
    signal = free_port()
    twistd("rtc-signal", f"--addr={LOOPBACK}:{signal}")
    wait_until_open(signal)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((LOOPBACK, 0))
        port = silent.getsockname()[1]
        report = Report(
            f"--signal=ws://{LOOPBACK}:{signal}",
            f"--ice-interface={LOOPBACK}",
            f"--stun-server=stun:{LOOPBACK}:{port}",
            f"--turn-server=turn:{LOOPBACK}:{port}",
            "--turn-secret=secret",
        )
    assert report.status("STUN") == "warn"
    assert report.failed() == ["TURN"]
    assert "UDP" in report.advice


def test_interfaces_that_are_not_there(twistd: Twistds) -> None:
    signal = free_port()
    twistd("rtc-signal", f"--addr={LOOPBACK}:{signal}")
    wait_until_open(signal)
    report = Report(f"--signal=ws://{LOOPBACK}:{signal}", "--stun-server=", "--ice-interface=wg9")
    assert report.failed() == ["addresses"]
    assert "fits --ice-interface wg9; it has lo (127.0.0.1)" in report.text("addresses")
