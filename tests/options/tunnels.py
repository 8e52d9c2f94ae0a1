"""Reading the options of ``rtunnel-client``: what they mean, or what is wrong with them."""

from __future__ import annotations

import pytest
from twisted.python import usage

from rtunnel.options.plugins import rtunnel_client
from rtunnel.reverse.settings import TunnelSettings


def parse(*arguments: str) -> tuple[TunnelSettings, ...]:
    """Return the tunnels of a client with these options."""
    options = rtunnel_client.Options()
    options.parseOptions(["--server=:7000", *arguments])
    found: tuple[TunnelSettings, ...] = options.settings.tunnels
    return found


def refused(*arguments: str) -> str:
    """Return why these options are refused."""
    with pytest.raises(usage.UsageError) as caught:
        parse(*arguments)
    return str(caught.value)
