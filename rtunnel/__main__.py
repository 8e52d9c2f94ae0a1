"""The command ``rtunnel``, and ``python -m rtunnel``."""

import signal
import sys


def main() -> int:
    """Run the command, and return its exit code."""
    # Ctrl-C ends the process at once while modules are imported and settings are read. A KeyboardInterrupt there would
    # print a traceback, or get lost in Twisted's search for plugins.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rtunnel.options.command import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
