"""The command ``rtunnel``: the ends of both tunnels in the foreground, certificates, and systemd services.

Any error is one line on standard error, with exit code 1.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import ClassVar

from twisted.python import usage

from rtunnel.errors import RtunnelError, one_line
from rtunnel.options.base import BaseOptions, take_all_output
from rtunnel.options.verbs import PluginVerbs, Verbs

OVERVIEW = """\
rtunnel makes a service behind a NAT reachable; 'rtunnel --help' says more.
The reverse tunnel: visitors come to a public machine, which passes them on.
  public:   rtunnel pki init --name HOST; rtunnel pki client laptop -o FILE
            rtunnel server --tls --allow-ports 8080
  private:  rtunnel pki import FILE
            rtunnel client --tls --server HOST:7000 --tunnel 8080:80
The WebRTC tunnel: two machines connect directly; a public one introduces them.
  public:   rtunnel signal --valid-tokens TOKEN     # its URL is ws://HOST:8080
  private:  rtunnel host --signal URL --token TOKEN --remote :80 --invite
  user:     rtunnel connect CODE --signal URL --token TOKEN --local :8080
"""


def _later(module: str) -> Callable[[], usage.Options]:
    """Return what makes the ``Options`` of a module, which is imported only when its command runs."""

    def make() -> usage.Options:
        options: usage.Options = import_module(f"rtunnel.options.{module}").Options()
        return options

    return make


class Options(Verbs):
    """Each command has a help of its own: 'rtunnel server --help'. The ends of the tunnels run in the foreground, and
    Ctrl-C stops them. To keep them running, see 'rtunnel service --help', or the plugins of twistd: 'twistd --help'."""

    synopsis = "COMMAND"
    subCommands: ClassVar = [
        ["server", None, _later("plugins.rtunnel_server"), "Reverse tunnel, public machine: takes visitors."],
        ["client", None, _later("plugins.rtunnel_client"), "Reverse tunnel, private machine: has the services."],
        ["signal", None, _later("plugins.rtc_signal"), "WebRTC tunnel, public machine: introduces the others."],
        ["host", None, _later("invitations.host"), "WebRTC tunnel, private machine: has the services."],
        ["connect", None, _later("invitations.connect"), "WebRTC tunnel, user's machine: opens local ports."],
        ["id", None, _later("identities.command"), "The fingerprints of this machine, for the WebRTC tunnel."],
        ["status", None, _later("status.command"), "What the running processes do, and what is wrong."],
        ["publish", None, _later("change.publish"), "Add tunnels to a running client."],
        ["unpublish", None, _later("change.unpublish"), "Take tunnels from a running client."],
        ["disconnect", None, _later("change.disconnect"), "End the connections of one peer."],
        ["log-level", None, _later("change.log_level"), "How much a running process logs."],
        ["reload", None, _later("reload.command"), "Let a running process read its settings again."],
        ["drain", None, _later("reload.drain_command"), "Let a running process end when it has no visitors."],
        ["upgrade", None, _later("upgrade.command"), "Let the installed version take a process's place."],
        ["doctor", None, _later("doctor.command"), "What works on the way to the other end, and what to change."],
        ["service", None, _later("service"), "Any end as a systemd service."],
        ["pki", None, _later("pki.command"), "Certificates for links over TLS."],
        ["passwd", None, _later("passwd"), "The hash of a visitor's password."],
        ["completion", None, _later("help.completion"), "Completion for bash, zsh or fish."],
    ]

    def parseArgs(self, *arguments: str) -> None:
        """Accept that no command is named: then :meth:`run` explains the two tunnels."""

    def run(self) -> None:
        """Run the command that was named, or explain what there is."""
        if self.subCommand is None:
            sys.stdout.write(OVERVIEW)
        else:
            self.subOptions.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: the arguments; None: those of the process.
    :returns: the exit code.
    """
    take_all_output()
    options = Options()
    try:
        options.parseOptions(arguments)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            # From here on, a command tidies up before it ends.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.enable()
        options.run()
        sys.stdout.flush()
    except (usage.UsageError, RtunnelError) as error:
        return _complain(options, str(error))
    except OSError as error:
        if error.filename:
            return _complain(options, f"cannot access {error.filename}: {error.strerror}")
        # Standard output cannot be written. The interpreter must not flush it again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader has closed the pipe.
        return 1 if isinstance(error, BrokenPipeError) else _complain(options, f"cannot write: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    return 0


def _complain(options: BaseOptions, message: str) -> int:
    # Name the command as far as it was understood, such as "rtunnel pki init".
    while isinstance(options, Verbs | PluginVerbs) and options.subCommand is not None:
        options = options.subOptions
    sys.stderr.write(f"{' '.join(options.words())}: {one_line(message)}\n")
    return 1
