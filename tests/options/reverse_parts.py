"""What the tests of the reverse tunnel's options share."""

from __future__ import annotations

from rtunnel.options.plugins import rtunnel_client, rtunnel_server
from rtunnel.reverse.settings import ClientSettings, ServerSettings

CLIENT_MINIMUM = ["--server", "1.2.3.4:7000", "--local", ":80"]


def parse_server(*arguments: str) -> ServerSettings:
    options = rtunnel_server.Options()
    options.parseOptions(list(arguments))
    return options.settings


def parse_client(*arguments: str) -> ClientSettings:
    options = rtunnel_client.Options()
    options.parseOptions(list(arguments))
    return options.settings
