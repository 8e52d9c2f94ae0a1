"""What the tests of the WebRTC tunnel's options share."""

from __future__ import annotations

from typing import Any

from rtunnel.addresses import UdpAddress
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal
from rtunnel.options.settings.rtc import CLIENT, HOST, SIGNAL
from rtunnel.rtc.settings import ClientSettings, HostSettings, SignalSettings, SignalUrl

STUN = ("stun.l.google.com", 19302)
URL = SignalUrl("ws://localhost:8080", False, "localhost", 8080)


DECLARED = {rtc_signal.Options: SIGNAL, rtc_host.Options: HOST, rtc_client.Options: CLIENT}


def parse(options_class: type[Any], *arguments: str) -> Any:
    options = options_class()
    options.parseOptions(list(arguments))
    return options.settings


def parse_signal(*arguments: str) -> SignalSettings:
    settings: SignalSettings = parse(rtc_signal.Options, *arguments)
    return settings


def parse_host(*arguments: str) -> HostSettings:
    settings: HostSettings = parse(rtc_host.Options, "--id=x", *arguments)
    return settings


def parse_client(*arguments: str) -> ClientSettings:
    settings: ClientSettings = parse(rtc_client.Options, "--id=x", *arguments)
    return settings


def udp(host: str, port: int, text: str) -> UdpAddress:
    return UdpAddress(text, host, port)


def nested(pairs: dict[str, object]) -> dict[str, Any]:
    """The file in which keys such as ``a.b`` are sections."""
    found: dict[str, Any] = {}
    for key, value in pairs.items():
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return found
