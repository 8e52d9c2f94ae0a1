"""Strangers who connect and say nothing, or nonsense, beside a client that works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.hostile.harness import Honest, connect, gauge
from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.services import Tunnel

STRANGERS = 200


@pytest.mark.parametrize("data", [b"", b"\xff" * 100], ids=["silent", "nonsense"])
def test_strangers_at_the_control_port(echo: str, start_tunnel: Callable[..., Tunnel], data: bytes) -> None:
    tunnel = start_tunnel(echo, server=["--handshake-timeout=1"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        before = tunnel.server.descriptors()
        for _ in range(STRANGERS):
            stack.enter_context(connect(tunnel.control, data=data))
        used.look()
        honest.go_on()
        # They are gone although they have not closed.
        poll(lambda: tunnel.server.descriptors() <= before + 8, PATIENCE, "all descriptors are free again")
    assert used.cpu_seconds < STRANGERS * 0.005
    # A line for each of the first 20, and a sum.
    assert used.log_bytes < 60 * 200
