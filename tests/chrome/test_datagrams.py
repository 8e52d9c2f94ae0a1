"""UDP through one end of ours and one of Chrome's that speaks only the reference protocol."""

from __future__ import annotations

from contextlib import ExitStack

from tests.chrome.ends import Ends, UdpService, UdpVisitor

SIZES = [1, 100, 512, 1160, 1400, 4000, 9000]


def test_our_host_answers_the_one_channel_of_a_reference_client(ends: Ends, udp_service: UdpService) -> None:
    ends.start("chrome", "ours", udp_service.address, protocol="udp")
    with UdpVisitor(ends.local) as visitor:
        for size in SIZES:
            visitor.ask(b"q" * size)
    assert len(udp_service.sources) == 1, "a host has one socket for each channel"


def test_each_source_of_our_client_has_a_channel_of_its_own(ends: Ends, udp_service: UdpService) -> None:
    ends.start("ours", "chrome", udp_service.address, protocol="udp")
    with ExitStack() as stack:
        visitors = [stack.enter_context(UdpVisitor(ends.local)) for _ in range(5)]
        for size in SIZES:
            for number, visitor in enumerate(visitors):
                visitor.ask(b"abcde"[number : number + 1] * size)
    ends.chrome.wait_for(r"channel udp-127\.0\.0\.1:\d+ arrived, unreliable")
    assert len(udp_service.sources) == len(visitors)
