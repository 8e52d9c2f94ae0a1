"""The command ``rtunnel``, and ``python -m rtunnel``."""

import gc
import os
import signal
import sys


def main() -> int:
    """Run the command, and return its exit code."""
    # Ctrl-C ends the process at once while modules are imported and settings are read. A KeyboardInterrupt there would
    # print a traceback, or get lost in Twisted's search for plugins.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getpid() == 1:
        # The kernel keeps the first process of a container from signals that it does not handle.
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))
    # What imports make is there to stay, and to look at it again and again is a seventh of the start.
    gc.disable()
    from rtunnel.options.command import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
