"""Offers by the hundred, beside clients of the same host that work."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from rtunnel.rtc.offers import MAX_CONNECTING
from tests.hostile.harness import Honest, gauge
from tests.hostile.signaling import Flood, ForeignServer, Strangers, message, offer
from tests.ports import free_port
from tests.process.rtc import RtcTunnel

PER_SECOND, AT_ONCE, FOR = 450, 45, 2
"""Offers in a second at most, with each call, and for how many seconds at least."""
FORGED = 15
"""The same of a server that forges them."""
COST = 0.003
"""Seconds of processor time that the host may take for each, five times what was seen."""
ANSWER = 0.005
"""The same for each answer to an honest client, of which there are more on a busy machine."""
MOST_DESCRIPTORS = MAX_CONNECTING + 64
"""Strangers who are on their way, each with one socket, and everything else."""


def test_offers_through_our_signaling_server(start_rtc: Callable[..., RtcTunnel], echo: str) -> None:
    """The stream of a client stays, and another client connects meanwhile.

    The offers come no faster than the first one is served: otherwise a busy machine has no time for anything else.
    """
    tunnel = start_rtc(echo)
    with Strangers(tunnel.port, AT_ONCE) as strangers, Honest(tunnel.local, comes_anew=False) as honest:

        def send() -> None:
            strangers.send(offer())
            honest.go_on(1)

        with gauge(tunnel.host) as used, Flood(send, PER_SECOND / AT_ONCE) as flood:
            flood.has(3)
            tunnel.local = free_port()
            tunnel.start_client()
            tunnel.wait_for_client()
            flood.has(FOR * PER_SECOND // AT_ONCE)
            honest.go_on()
            used.look()
        assert strangers.answers
        assert used.most_descriptors < MOST_DESCRIPTORS
        assert used.cpu_seconds < flood.times * AT_ONCE * COST + honest.answers * ANSWER
        assert used.log_bytes < 20_000


def test_offers_through_a_server_that_limits_nothing(start_rtc: Callable[..., RtcTunnel], echo: str) -> None:
    """Each offer is by another sender, and nothing tells where it comes from.

    They come no faster than an honest client is served. Otherwise a busy machine has no time for anything else, and
    after seven seconds the client takes the host for dead.
    """
    numbers = count()
    with ForeignServer() as server:
        foreign = [f"--signal=ws://127.0.0.1:{server.port}"]
        tunnel = start_rtc(echo, start=("host", "client"), host=foreign, client=foreign)
        with Honest(tunnel.local, comes_anew=False) as honest, gauge(tunnel.host) as used:

            def send() -> None:
                server.forge([message(f"stranger {next(numbers)}", offer()) for _ in range(FORGED)])
                honest.go_on(1)

            with Flood(send, PER_SECOND / FORGED) as flood:
                flood.has(FOR * PER_SECOND // FORGED)
                honest.go_on()
                used.look()
        assert server.answers
        assert used.most_descriptors < MOST_DESCRIPTORS
        assert used.cpu_seconds < flood.times * FORGED * COST + honest.answers * ANSWER
        assert used.log_bytes < 20_000
        tunnel.end()
