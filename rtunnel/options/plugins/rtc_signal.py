"""``twistd rtc-signal``."""

from __future__ import annotations

from twisted.application.service import MultiService

from rtunnel.options.plugins.reactor import prepared_reactor
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
    examples = (
        "twistd -n rtc-signal",
        "twistd -n rtc-signal --addr :8080 --allowed-origins https://example.com",
        "twistd -n rtc-signal --addr :8443 --tls-cert-file cert.pem --tls-key-file key.pem",
        "RTUNNEL_VALID_TOKENS=my-secret-token,another-token twistd -n rtc-signal",
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
    from rtunnel.rtc.signaling.server import SignalServer

    options.tell()
    reactor = prepared_reactor()
    return PluginService(NAME, SignalServer(reactor, options.settings), options, reactor)
