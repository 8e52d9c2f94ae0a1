"""What all commands share: the plugins of ``twistd``, and the command ``rtunnel``."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from twisted.python import usage

from rtunnel import __version__
from rtunnel.endpoint_strings import suggestion
from twisted import copyright

#: Stands for a hyphen while the help is wrapped: lines are not broken after it.
HYPHEN = "\N{NON-BREAKING HYPHEN}"


class BaseOptions(usage.Options):
    """Options whose help is the docstring of the class, with examples at the end."""

    #: What follows the command in the first line of the help.
    synopsis = "[options]"
    #: Command lines, shown verbatim at the end of the help.
    examples: ClassVar[Sequence[str]] = ()

    def words(self) -> list[str]:
        """Return the words of the command, such as ``rtunnel``, ``pki``, ``init``."""
        parent = getattr(self, "parent", None)
        return [*parent.words(), parent.subCommand or ""] if isinstance(parent, BaseOptions) else ["rtunnel"]

    def run(self) -> None:
        """Do the work of the command."""
        raise NotImplementedError

    def opt_version(self) -> None:
        """Print the versions of rtunnel and Twisted, and exit."""
        sys.stdout.write(f"rtunnel {__version__} (Twisted {copyright.version})\n")
        sys.exit(0)

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: options, description, examples."""
        self.longdesc = unbroken(type(self).__doc__ or "")
        text = super().getUsage(width or help_width()).replace(HYPHEN, "-")
        examples = "".join(f"    {line}\n" for line in self.examples)
        return f"{text}\nExamples:\n{examples}" if examples else text


def help_width() -> int:
    """Return the width of help, in columns: that of the terminal, but enough for two columns of text."""
    return max(40, shutil.get_terminal_size().columns)


def take_all_output() -> None:
    """Let standard output take whatever is written to it. A character that its encoding lacks becomes an escape, such
    as ``\\u4f8b``. A stream that the caller has closed is replaced by one that goes nowhere.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


def unbroken(text: str) -> str:
    """Return *text* on one line. When it is wrapped, no line ends within a word such as ``--allow-ports``."""
    return " ".join(text.split()).replace("-", HYPHEN)


def option_hint(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean '--...'?`` with the option closest to *name*, or nothing."""
    return suggestion(name, known).replace("'", "'--", 1)
