"""``rtunnel signal`` and ``twistd rtc-signal``."""

from __future__ import annotations

from functools import partial

from twisted.application.service import MultiService

from rtunnel.options.plugins.reactor import prepared_reactor
from rtunnel.options.plugins.rtc_common import RtcOptions
from rtunnel.options.plugins.run import PluginService
from rtunnel.options.reload.part import Reloadable
from rtunnel.options.settings.declaration import REFERENCE_PREFIX
from rtunnel.options.settings.rtc import SIGNAL
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.rtc.settings import SignalSettings

NAME = "rtc-signal"

#: What a variable that the reference program ignores brings about here.
_EFFECTS = {
    "tls-cert-file": "this server speaks TLS, so hosts and clients need wss://",
    "allowed-origins": "web pages of other origins are refused",
    "valid-tokens": "hosts and clients need one of these tokens",
}


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

            with resolved.reads_files("tls-cert-file", "tls-key-file"):
                load_web_files(values["tls-cert-file"], values["tls-key-file"])
        self.settings = SignalSettings(**resolved.fields_of(SignalSettings))
        for name, effect in _EFFECTS.items():
            source = resolved.sources[name]
            if source.rank is Rank.ENVIRONMENT and REFERENCE_PREFIX in source.label:
                self.notes.append(f"{source.label}: the Go program ignores this, but here it counts: {effect}")
            elif source.rank is Rank.FILE and source.label.endswith("'server.valid_tokens'"):
                self.notes.append(f"{source.label}: is taken for 'server.auth.valid_tokens', which is its name here")


def makeService(options: Options) -> MultiService:
    """Return the signaling server as a service for an application."""
    from rtunnel.cluster.engines import directory_for
    from rtunnel.control.actions.disconnect import disconnect
    from rtunnel.control.rtc.signal import connected, look
    from rtunnel.rtc.signaling.server import SignalServer

    options.tell()
    reactor = prepared_reactor()
    server = SignalServer(reactor, options.settings, directory=directory_for(reactor, options.settings.cluster))
    actions = {"disconnect": disconnect(partial(connected, server))}

    def reloadable() -> Reloadable:
        from rtunnel.options.reload.rtc_signal import reloadable

        return reloadable(server)

    return PluginService(NAME, server, options, reactor, partial(look, server), actions, reloadable)
