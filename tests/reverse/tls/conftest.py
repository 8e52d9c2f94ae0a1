"""The fixtures of ``tests/tls``: a CA, and the two ends of a tunnel in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_twisted

from tests.tls.conftest import _look_at_openssl_again, authority, client, ends, first_authority, lines, server

if TYPE_CHECKING:
    from tests.reverse.tls.data_connection_parts import Tunnel
    from tests.tls.parts import Authority, Ends

__all__ = ["_look_at_openssl_again", "authority", "client", "ends", "first_authority", "lines", "server"]


@pytest_twisted.async_yield_fixture
async def tunnel(ends: Ends, authority: Authority) -> AsyncIterator[Tunnel]:
    """See :class:`Tunnel`."""
    # It imports the reactor, and pytest reads this file before pytest-twisted installs one.
    from tests.reverse.tls.data_connection_parts import Tunnel

    tunnel = Tunnel(ends, authority)
    yield tunnel
    await tunnel.stop()


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client makes no data connections itself."""
    from rtunnel.reverse.client.data_connections import DataConnections

    monkeypatch.setattr(DataConnections, "_make", lambda _self: None)
