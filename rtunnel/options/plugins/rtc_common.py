"""What the plugins of the WebRTC tunnel share: the file, glog's options, the reactor, the settings of both ends.

aiortc runs on asyncio, so host and client need Twisted's asyncio reactor. When ``twistd`` reads the options of a plugin
or executes a ``.tac`` file, no reactor is installed yet, unless ``--reactor`` was given. So the options install it once
they are valid. Its event loop survives the two forks of a daemon, because the parent never touches it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from twisted.logger import Logger
from twisted.python import usage

from rtunnel.errors import ConfigError
from rtunnel.options.identities.decide import decide_identity
from rtunnel.options.plugins.common import PluginOptions, check_order
from rtunnel.options.plugins.reactor import prepared_reactor
from rtunnel.options.settings.rtc import ALL
from rtunnel.options.settings.rtc_coercions import is_loopback, show_signal_urls
from rtunnel.options.settings.sources import Resolved
from rtunnel.options.shared_settings import check_liboqs
from rtunnel.rtc.settings import EndSettings, IceSettings, SignalClientSettings
from rtunnel.wire.limits import ChannelLimits

# The options of the reference program's logging library.
_GLOG = {
    "alsologtostderr": "the log goes to the terminal under twistd -n",
    "logtostderr": "the log goes to the terminal under twistd -n",
    "stderrthreshold": "write --log-level error",
    "v": "write --log-level debug",
    "vmodule": "write --log-level debug",
    "log_dir": "write twistd --logfile=FILE before the name of the plugin",
}


class RtcOptions(PluginOptions):
    """Options of a plugin of the WebRTC tunnel."""

    default_config = "config.yaml"
    file_settings = ALL
    # The example file of the reference program has the section "server" twice.
    merges_sections = True

    #: What only these plugins need; an installation for the reverse tunnel alone may lack them.
    packages: ClassVar[Sequence[str]] = ("autobahn",)

    log = Logger()

    def opt_config(self, value: str) -> None:
        """A YAML or JSON file with settings, in the layout of rtunnel/etc/rtc.yaml."""
        super().opt_config(value)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`PluginOptions.parseOptions`.

        :raises usage.UsageError: an option is wrong, or is one of glog.
        """
        for argument in options or ():
            name = re.match(r"--?([a-z_]+)", argument)
            if name and name[1] in _GLOG and re.fullmatch(rf"--?{name[1]}(=.*)?", argument):
                raise usage.UsageError(f"{argument} is an option of glog, which is not used here; {_GLOG[name[1]]}")
        super().parseOptions(options)

    def postOptions(self) -> None:
        """See :meth:`PluginOptions.postOptions`.

        :raises usage.UsageError: a setting is wrong, or packages are missing.
        """
        if missing := [name for name in self.packages if find_spec(name) is None]:
            raise usage.UsageError(
                f"WebRTC needs {' and '.join(missing)}, not installed here: {sys.executable} -m pip install rtunnel"
            )
        super().postOptions()

    def tell(self) -> None:
        """Log what the operator should know about the settings."""
        if self.config_path:
            self.log.info("settings from the file {path}", path=self.config_path)
        for note in self.notes:
            self.log.warn("{note}", note=note)


class RtcEndOptions(RtcOptions):
    """Options of ``rtc-host`` or ``rtc-client``."""

    settings: EndSettings
    packages = ("autobahn", "aiortc", "aioice")

    def postOptions(self) -> None:
        """See :meth:`PluginOptions.postOptions`; install the reactor.

        :raises usage.UsageError: a setting is wrong, or another reactor is installed already.
        """
        super().postOptions()
        need_asyncio_reactor()

    def import_aiortc(self) -> None:
        """Import aiortc. Leave its codecs out, unless this is a program of somebody else, who may want them."""
        from rtunnel.rtc.aiortc import LEFT_OUT, import_without_codecs

        if self.parent is not None or find_spec(LEFT_OUT[0]) is None:
            import_without_codecs()

    def tell(self) -> None:
        """Log what the operator should know about the settings."""
        super().tell()
        signal = self.settings.signal
        for url in signal.url.all:
            if signal.token is not None and not url.secure and not is_loopback(url.host):
                self.log.warn(
                    "the token travels to {url} in the clear, where everybody on the way can read it; use wss://",
                    url=url.text,
                )
        if self.settings.ice.interfaces:
            self._warn_of_missing(self.settings.ice.interfaces)

    def _warn_of_missing(self, interfaces: tuple[str, ...]) -> None:
        from rtunnel.rtc.aiortc.addresses import missing_interfaces, show_interfaces

        missing = missing_interfaces(interfaces)
        if missing:
            # No error: that of a VPN, say, may come later.
            self.log.warn(
                "--ice-interface {missing}: this machine has no such interface or address now; it has {present}",
                missing=", ".join(missing),
                present=show_interfaces(),
            )


def need_asyncio_reactor() -> None:
    """Install the asyncio reactor, unless it is already installed.

    :raises usage.UsageError: another reactor is installed.
    """
    from twisted.internet import asyncioreactor

    installed = sys.modules.get("twisted.internet.reactor")
    if installed is None:
        # Twisted cannot use the default loop of Windows.
        loop = asyncio.SelectorEventLoop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
    elif not isinstance(installed, asyncioreactor.AsyncioSelectorReactor):
        raise usage.UsageError(
            f"WebRTC needs the asyncio reactor, and {type(installed).__name__} is installed already; "
            "write twistd --reactor=asyncio"
        )


def prepared_asyncio_reactor(settings: EndSettings) -> Any:
    """Return the reactor of an end, prepared; its event loop looks names up as the reactor does."""
    from rtunnel.rtc.aiortc.bridge import look_up_as

    ice = settings.ice
    stun = ice.stun_server[0] if ice.stun_server is not None else None
    signaling = (url.host for url in settings.signal.url.all)
    reactor = prepared_reactor(*signaling, stun, *(server.host for server in ice.turn_servers))
    look_up_as(reactor, asyncio.get_event_loop())
    return reactor


def shared_settings(resolved: Resolved) -> dict[str, Any]:
    """Return the groups of settings that host and client share, by the names of their fields.

    :raises ConfigError: a setting is missing, or two contradict each other.
    """
    if resolved.values["id"] is None:
        raise ConfigError("--id is missing; write for example --id myhost")
    check_order(resolved, "reconnect-min", "reconnect-max")
    check_order(resolved, "initial-credit", "max-window")
    check_order(resolved, "initial-credit", "peer-buffer")
    _check_ca_file(resolved)
    check_liboqs(resolved)
    return {
        "signal": SignalClientSettings(**resolved.fields_of(SignalClientSettings)),
        "ice": _ice_settings(resolved),
        "limits": ChannelLimits(**resolved.fields_of(ChannelLimits)),
        "identity": decide_identity(resolved),
    }


def _check_ca_file(resolved: Resolved) -> None:
    values, sources = resolved.values, resolved.sources
    if values["ca-file"] is None:
        return
    if any(url.secure for url in values["signal"].all) or any(server.tls for server in values["turn-server"]):
        from rtunnel.tls.web_client import client_context

        with resolved.reads_files("ca-file"):
            client_context(values["ca-file"])
    elif sources["ca-file"].rank >= sources["signal"].rank:
        shown = show_signal_urls(values["signal"])
        raise resolved.error("ca-file", f"has no effect without TLS, and --signal is {shown}; write wss://")


def _ice_settings(resolved: Resolved) -> IceSettings:
    values = resolved.values
    user, credential, secret = (values[f"turn-{name}"] for name in ("user", "credential", "secret"))
    if credential and secret:
        raise resolved.error("turn-secret", "cannot be combined with --turn-credential; keep one of them")
    if values["turn-server"]:
        if not secret and not (user and credential):
            raise resolved.error("turn-server", "needs --turn-user and --turn-credential, or --turn-secret")
    else:
        for name in ("turn-user", "turn-credential", "turn-secret"):
            if values[name]:
                raise resolved.error(name, "has no effect without a server; add --turn-server turn:host:3478")
    return IceSettings(**resolved.fields_of(IceSettings), ca_file=values["ca-file"])
