"""The command line of ``rtunnel``: a single command (:class:`Verb`) and a group of commands (:class:`Verbs`)."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage

from rtunnel.endpoint_strings import suggestion
from rtunnel.options.base import BaseOptions, option_hint, unbroken


class Verb(BaseOptions):
    """A command. :meth:`run` does its work, once all options have been checked."""

    def __init__(self) -> None:
        super().__init__()
        # The help wraps the docstrings of options but keeps their indentation.
        self.docs = {option: unbroken(text or "") for option, text in self.docs.items()}

    def opt_help(self) -> None:
        """Print this help, and exit."""
        sys.stdout.write(self.getUsage())
        sys.exit(0)

    opt_h = opt_help

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`; options may also come after the arguments.

        :raises usage.UsageError: an option or argument is wrong; the message is one line.
        """
        given = list(sys.argv[1:] if options is None else options)
        super().parseOptions(given if hasattr(self, "subCommands") else self._options_first(given))

    def _options_first(self, given: list[str]) -> list[str]:
        try:
            pairs, arguments = getopt.gnu_getopt(given, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            name = error.opt
            known = [option.rstrip("=") for option in self.longOpt]
            hint = option_hint(name, known) if "not recognized" in error.msg else ""
            raise usage.UsageError(f"{error}{hint}") from None
        first = []
        for option, value in pairs:
            takes_value = f"{option[2:]}=" in self.longOpt or f"{option[1:]}:" in self.shortOpt
            first += [option, value] if takes_value else [option]
        return [*first, "--", *arguments]

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return f"Usage: {' '.join(self.words())} {self.synopsis}".rstrip()

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: synopsis, options, description, examples."""
        return f"{self.getSynopsis()}\n{super().getUsage(width)}"


class Verbs(Verb):
    """A group of commands."""

    subCommands: ClassVar[list[list[Any]]]
    #: Whether a command need not be named where its options show which is meant.
    may_be_left_out: ClassVar[bool] = False
    subOptions: BaseOptions

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`.

        :raises usage.UsageError: a command, option or argument is wrong; the message is one line.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            text = str(error)
            unknown = text.removeprefix("Unknown command: ")
            if unknown == text:
                raise
            hint = suggestion(unknown, self._names()) or f"; see '{' '.join(self.words())} --help'"
            raise usage.UsageError(f"'{unknown}' is not a command{hint}") from None

    def parseArgs(self, *arguments: str) -> None:
        """Refuse a command line that does not name a command.

        :raises usage.UsageError: always.
        """
        raise usage.UsageError(f"name a command: {', '.join(self._names())}; see --help")

    def run(self) -> None:
        """Run the command of the group that was named."""
        self.subOptions.run()

    def _names(self) -> list[str]:
        return [name for name, *_ in self.subCommands]
