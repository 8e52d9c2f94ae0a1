"""Two processes that seal what is between them, and say so."""

from __future__ import annotations

from collections.abc import Callable

from tests.process.rtc import RtcTunnel, lines_with
from tests.process.services import Service, fetch, page

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

WORDS = "; sealed X25519MLKEM768, ML-DSA-65, "


def test_both_ends_say_that_they_are_sealed(serve: Serve, start_rtc: StartRtc) -> None:
    tunnel = start_rtc(serve(GET=page("here")).address)
    assert fetch(tunnel.local) == "here"
    [at_client] = lines_with(tunnel.client, "connected to host ")
    [at_host] = lines_with(tunnel.host, " connected: ")
    assert WORDS in at_client
    assert WORDS in at_host
    assert lines_with(tunnel.client, "this client is open: it trusts whomever the signaling server shows as host ")
    assert lines_with(tunnel.host, "this host is open: it serves everybody whom the signaling server lets in; ")
    for process in (tunnel.client, tunnel.host):
        assert not lines_with(process, "does not seal")


def test_an_end_that_is_started_again_is_sealed_again(serve: Serve, start_rtc: StartRtc) -> None:
    tunnel = start_rtc(serve(GET=page("here")).address)
    assert fetch(tunnel.local) == "here"
    tunnel.host.terminate()
    tunnel.start_host()
    tunnel.client.wait_for(f"connected to host .*{WORDS}", after=len(tunnel.client.output))
    assert fetch(tunnel.local) == "here"
