"""The command ``rtunnel``: tools that do one thing and exit.

Any error is one line on standard error, with exit code 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import ClassVar

from twisted.python import usage

from rtunnel.errors import RtunnelError
from rtunnel.options.pki import command
from rtunnel.options.verbs import Verb, Verbs


class Options(Verbs):
    """Tools for the tunnels. The tunnels themselves are twistd plugins: 'rtunnel-server' and 'rtunnel-client',
    'rtc-signal', 'rtc-host' and 'rtc-client'; see 'twistd rtunnel-server --help' and so on."""

    synopsis = "COMMAND"
    subCommands: ClassVar = [["pki", None, command.Options, "Certificates for links over TLS."]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: the arguments; None: those of the process.
    :returns: the exit code.
    """
    options = Options()
    try:
        options.parseOptions(arguments)
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


def _complain(options: Verb, message: str) -> int:
    # Name the command as far as it was understood, such as "rtunnel pki init".
    while isinstance(options, Verbs) and options.subCommand is not None:
        options = options.subOptions
    sys.stderr.write(f"{' '.join(options.words())}: {message}\n")
    return 1
