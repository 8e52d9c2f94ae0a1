"""``rtunnel doctor``: what works on the way to the other end, and what to change."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from twisted.python import usage

from rtunnel.config_file import read_config_file
from rtunnel.doctor.steps import Examination, Step
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_client, rtc_host, rtunnel_client
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.options.plugins.reactor import prepared_reactor
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.options.settings.trust import decide_tls
from rtunnel.options.settings.tunnels import decide_tunnels
from rtunnel.options.verbs import Verbs
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.tls.policy import Role, TlsSettings

#: The options by which a host is told from a client of the WebRTC tunnel.
_OF_HOST = ("--remote", "--service")
_NO_END = "name what to examine: --server HOST:PORT, --signal URL, or --config with the file of a client"


class _Checks(PluginOptions):
    """The options of an end, and how its examination is shown."""

    def __init__(self) -> None:
        self.as_json = False
        super().__init__()
        self.docs["json"] = self.opt_json.__doc__ or ""

    def opt_json(self) -> None:
        """Print JSON: an object with all steps, see docs/troubleshooting.rst."""
        self.as_json = True

    def examination(self, tell: Callable[[Step], None]) -> Examination:
        """Return the examination."""
        raise NotImplementedError

    def run(self) -> None:
        """Examine the end.

        :raises SystemExit: a step failed; the report has said which.
        """
        from rtunnel.options.doctor.report import Report
        from rtunnel.options.doctor.run import complete

        kind = self.words()[-1]
        report = Report(as_json=self.as_json)
        examination = self.examination(report.step)
        complete(examination)
        report.end(kind, examination)
        if not examination.is_well:
            sys.stdout.flush()
            sys.exit(1)


class ClientChecks(_Checks, rtunnel_client.Options):
    """The way of an rtunnel-client to its server, with the options that the client has: it takes its certificate and
    its token, and asks for no tunnel. Without a tunnel it looks at the server only."""

    synopsis = "--server HOST:PORT [options]"
    examples = (  # type: ignore[assignment]
        "rtunnel doctor --server tunnel.example.org:7000",
        "rtunnel doctor --config /etc/rtunnel/client.yaml",
    )

    def tls(self, resolved: Resolved) -> TlsSettings | None:
        """See :meth:`rtunnel_client.Options.tls`. To read the files is a step of the examination."""
        return decide_tls(resolved, Role.CLIENT, reads_files=False)

    def tunnels(self, resolved: Resolved) -> tuple[TunnelSettings, ...]:
        """See :meth:`rtunnel_client.Options.tunnels`; there may be none."""
        names = ("tunnel", "publish", "local", "remote-port")
        if all(resolved.sources[name].rank is Rank.DEFAULT for name in names):
            return ()
        return decide_tunnels(resolved)

    def examination(self, tell: Callable[[Step], None]) -> Examination:
        """See :class:`_Checks`."""
        from rtunnel.doctor.servers import ServersExamination

        reactor = prepared_reactor(*self.settings.first_hosts)
        return ServersExamination(reactor, self.settings, os.environ, tell)


def _with_id(resolved: Resolved) -> Resolved:
    """Return settings with an ID, which is not used: an examination registers under a random one."""
    return replace(resolved, values={**resolved.values, "id": resolved.values["id"] or "doctor"})


class ConnectChecks(_Checks, rtc_client.Options):
    """The way of an rtc-client to its signaling server, and what the network lets through for WebRTC. It registers
    under a random ID, and connects to no host."""

    synopsis = "--signal URL [options]"
    examples = (  # type: ignore[assignment]
        "rtunnel doctor --signal wss://signal.example.org",
        "rtunnel doctor connect --config /etc/rtunnel/rtc.yaml",
    )

    def build(self, resolved: Resolved) -> None:
        super().build(_with_id(resolved))

    def examination(self, tell: Callable[[Step], None]) -> Examination:
        """See :class:`_Checks`."""
        self.import_aiortc()
        from rtunnel.doctor.webrtc import WebRtcExamination
        from rtunnel.options.plugins.rtc_common import prepared_asyncio_reactor

        reactor = prepared_asyncio_reactor(self.settings)
        return WebRtcExamination(reactor, self.settings, tell)


class HostChecks(_Checks, rtc_host.Options):
    """The way of an rtc-host to its signaling server, what the network lets through for WebRTC, and the host's
    services. It registers under a random ID, and never under that of the host."""

    synopsis = "--signal URL [options]"
    examples = (  # type: ignore[assignment]
        "rtunnel doctor host --signal wss://signal.example.org --remote :80",
        "rtunnel doctor host --config /etc/rtunnel/rtc.yaml",
    )

    def build(self, resolved: Resolved) -> None:
        super().build(_with_id(resolved))

    def examination(self, tell: Callable[[Step], None]) -> Examination:
        """See :class:`_Checks`."""
        self.import_aiortc()
        from rtunnel.doctor.webrtc import WebRtcExamination
        from rtunnel.options.plugins.rtc_common import prepared_asyncio_reactor

        reactor = prepared_asyncio_reactor(self.settings)
        return WebRtcExamination(reactor, self.settings, tell)


class Options(Verbs):
    """Examine step by step what works on the way from this machine to the other end of a tunnel, and say what to
    change. It takes the options and the file of the end that it examines. It makes connections of its own and asks for
    nothing, so it does not disturb a service that runs. The exit code is 0 if all is well, and 1 otherwise."""

    synopsis = "[client | connect | host] [options of that end] [--json]"
    examples = (
        "rtunnel doctor --server tunnel.example.org:7000",
        "rtunnel doctor --server tunnel.example.org:7000 --tls",
        "rtunnel doctor --config /etc/rtunnel/client.yaml",
        "rtunnel doctor --signal wss://signal.example.org",
        "rtunnel doctor host --config /etc/rtunnel/rtc.yaml --json",
    )
    may_be_left_out = True
    subCommands: ClassVar[list[list[Any]]] = [
        ["client", None, ClientChecks, "The reverse tunnel's private end; --server says the same."],
        ["connect", None, ConnectChecks, "The WebRTC tunnel's user; --signal says the same."],
        ["host", None, HostChecks, "The WebRTC tunnel's private end."],
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :class:`Verbs`; the end need not be named where the options show it.

        :raises usage.UsageError: an option is wrong, or no end is meant.
        """
        given = list(sys.argv[1:] if options is None else options)
        if not any(each in ("-h", "--help", "--version") for each in given[:1]) and (
            not given or given[0].startswith("-")
        ):
            try:
                given.insert(0, which_end(given, os.environ))
            except ConfigError as error:
                raise usage.UsageError(str(error)) from error
        super().parseOptions(given)


def which_end(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return which end the options are for.

    :raises usage.UsageError: they do not show it.
    :raises ConfigError: the file cannot be read.
    """
    flags: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        flags[name] = value if equals else "".join(arguments[number + 1 : number + 2])
    if "--server" in flags:
        return "client"
    is_host = any(name in flags for name in _OF_HOST)
    if "--signal" in flags:
        return "host" if is_host else "connect"
    path = flags.get("--config") or environ.get("RTUNNEL_CONFIG", "")
    if path:
        values = read_config_file(path, merge=True).values
        if isinstance(values.get("server"), str | list):
            return "client"
        if "signal" in values:
            return "host" if is_host or ("host" in values and "client" not in values) else "connect"
    if environ.get("RTUNNEL_SERVER"):
        return "client"
    if environ.get("RTUNNEL_SIGNAL") or environ.get("WTT_SIGNAL"):
        return "host" if is_host else "connect"
    raise usage.UsageError(_NO_END)
