"""The fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chrome.ends import Ends, UdpService
from tests.process.conftest import nginx, serve, twistd
from tests.process.harness import Twistds

__all__ = ["ends", "nginx", "serve", "twistd", "udp_service"]


@pytest.fixture
def ends(twistd: Twistds) -> Ends:
    """Starts the two ends of a tunnel, ours or Chrome's, and signaling between them."""
    return Ends(twistd)


@pytest.fixture
def udp_service() -> Iterator[UdpService]:
    """Answers datagrams."""
    service = UdpService()
    yield service
    service.close()
