"""``rtunnel signal`` and ``twistd rtc-signal``."""

from __future__ import annotations

from twisted.application.service import MultiService

from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.plugins.run import PluginService
from rtunnel.options.settings.rtc import SIGNAL
from rtunnel.options.settings.sources import Resolved
from rtunnel.rtc.settings import SignalSettings

NAME = "rtc-signal"


class Options(RtcOptions):
    """The signaling server of the WebRTC tunnel. rtc-host and rtc-client find each other through it; the traffic of
    the tunnel does not pass through it."""

    synopsis = "[options]"
    declared = SIGNAL
    needed = ("addr", "valid-tokens", "tls-cert-file", "tls-key-file", "allowed-origins")
    examples = (
        "rtunnel signal --valid-tokens my-secret-token",
        "RTUNNEL_VALID_TOKENS=my-secret-token,another-token rtunnel signal",
        "rtunnel signal --addr :443 --tls-cert-file cert.pem --tls-key-file key.pem",
        "rtunnel signal --addr 127.0.0.1:8080 --allowed-origins https://example.com",
    )

    #: Set once the options are parsed.
    settings: SignalSettings

    def build(self, resolved: Resolved) -> None:
        values = resolved.values
        for name, other in (("tls-cert-file", "tls-key-file"), ("tls-key-file", "tls-cert-file")):
            if values[name] is not None and values[other] is None:
                raise resolved.error(name, f"also needs --{other}")
        if values["tls-cert-file"] is not None:
            from rtunnel.tls.web_server import load_web_files

            load_web_files(values["tls-cert-file"], values["tls-key-file"])
        self.settings = SignalSettings(**resolved.fields_of(SignalSettings))


def makeService(options: Options) -> MultiService:
    """Return the signaling server as a service for an application."""
    from twisted.internet import reactor

    from rtunnel.rtc.signaling.server import SignalServer

    options.tell()
    return PluginService(NAME, SignalServer(reactor, options.settings), options, reactor)
