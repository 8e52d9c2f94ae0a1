"""Identities with a second key: real processes, a real liboqs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import needs_liboqs
from tests.process.commands import run_rtunnel
from tests.process.harness import Twistds
from tests.process.rtc import ID, RtcTunnel, lines_with
from tests.process.services import Service, fetch, page
from tests.process.test_status import look

pytestmark = [*needs_liboqs, pytest.mark.usefixtures("control_sockets")]

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]
FALCON, MAYO = "Falcon-1024", "MAYO-5"


class Two:
    """Two machines that know each other by their fingerprints."""

    def __init__(self, place: Path) -> None:
        self.states = {end: place / end for end in ("host", "client")}
        self.prints = {
            "host": self._make("host", "--second", FALCON),
            "client": self._make("client", "--second", MAYO),
        }
        (self.states["host"] / "authorized_clients").write_text(f"laptop: {{fingerprint: {self.prints['client']}}}\n")

    def _make(self, end: str, *options: str) -> str:
        code, out, err = run_rtunnel("id", end, "--json", f"--state-dir={self.states[end]}", *options)
        assert (code, err) == (0, "")
        return str(json.loads(out)[end]["fingerprint"])

    @property
    def options(self) -> dict[str, list[str]]:
        """The options of the two processes."""
        return {
            "host": [f"--state-dir={self.states['host']}"],
            "client": [f"--state-dir={self.states['client']}", f"--host-key={self.prints['host']}"],
        }


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_both_prove_theirs(serve: Serve, start_rtc: StartRtc, two: Two) -> None:
    tunnel = start_rtc(serve(GET=page("here")).address, **two.options)
    assert fetch(tunnel.local) == "here"
    assert lines_with(tunnel.host, f"this host's fingerprint is {two.prints['host']}, ML-DSA-65 + {FALCON}")
    assert lines_with(tunnel.host, f"; sealed X25519MLKEM768, ML-DSA-65 + {MAYO}, laptop")
    assert lines_with(tunnel.client, f"; sealed X25519MLKEM768, ML-DSA-65 + {FALCON}, {ID}")
    assert look("rtc-client")["peer"]["sealed"]["signature"] == f"ML-DSA-65 + {FALCON}"
    assert look("rtc-host")["identity"]["signature"] == f"ML-DSA-65 + {FALCON}"


def test_an_end_that_cannot_check_it(
    serve: Serve, start_rtc: StartRtc, two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's machine has no liboqs, and an identity without a second key."""
    (two.states["client"] / "identities" / "client.pem").unlink()
    fingerprint = two._make("client")
    (two.states["host"] / "authorized_clients").write_text(f"laptop: {{fingerprint: {fingerprint}}}\n")
    tunnel = start_rtc(serve(GET=page("here")).address, start=("signal", "host"), **two.options)
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    tunnel.start_client()
    why = f"the host's certificate names a second key \\({FALCON}\\), which"
    tunnel.client.wait_for(f"it is refused: {why} this client cannot check: needs the native library liboqs, and ")
    tunnel.host.wait_for(f"the client refuses this host: {why} the client cannot check$")
    assert not lines_with(tunnel.client, "connected to host ")


def test_a_process_without_the_library_does_not_start(
    twistd: Twistds, two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    host = twistd("rtc-host", f"--id={ID}", f"--remote=127.0.0.1:{9}", *two.options["host"])
    assert host.wait() == 1
    assert f"{two.states['host'] / 'identities' / 'host.pem'}: its second key: needs the native library" in host.output
    assert "Traceback" not in host.output
