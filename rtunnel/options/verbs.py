"""What the commands of ``rtunnel`` share: a group of commands (:class:`Verbs`), and one that does something."""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage

from rtunnel import __version__
from rtunnel.endpoint_strings import suggestion
from twisted import copyright


class Verb(usage.Options):
    """A command. What it does and prints is in :meth:`run`, once all the options are known to be right."""

    #: Command lines, shown as they are at the end of the help.
    examples: ClassVar[Sequence[str]] = ()
    #: What follows the command.
    synopsis = "[options]"

    def __init__(self) -> None:
        super().__init__()
        # The help wraps the docstrings of options, and would keep their indentation.
        self.docs = {option: " ".join((text or "").split()) for option, text in self.docs.items()}

    def opt_help(self) -> None:
        """Print this help, and exit."""
        sys.stdout.write(self.getUsage())
        sys.exit(0)

    opt_h = opt_help

    def opt_version(self) -> None:
        """Print the versions of rtunnel and Twisted, and exit."""
        sys.stdout.write(f"rtunnel {__version__} (Twisted {copyright.version})\n")
        sys.exit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`; options may also come after the arguments.

        :raises usage.UsageError: something is wrong; one line.
        """
        given = list(sys.argv[1:] if options is None else options)
        super().parseOptions(given if hasattr(self, "subCommands") else self._options_first(given))

    def _options_first(self, given: list[str]) -> list[str]:
        try:
            pairs, arguments = getopt.gnu_getopt(given, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            name = error.opt
            known = [option.rstrip("=") for option in self.longOpt]
            hint = suggestion(name, known).replace("'", "'--", 1) if "not recognized" in error.msg else ""
            raise usage.UsageError(f"{error}{hint}") from None
        first = []
        for option, value in pairs:
            takes_value = f"{option[2:]}=" in self.longOpt or f"{option[1:]}:" in self.shortOpt
            first += [option, value] if takes_value else [option]
        return [*first, "--", *arguments]

    def words(self) -> list[str]:
        """The command, such as ``rtunnel``, ``pki``, ``init``."""
        parent = self.parent
        return [*parent.words(), parent.subCommand or ""] if isinstance(parent, Verb) else ["rtunnel"]

    def getSynopsis(self) -> str:
        """The first line of the help."""
        return f"Usage: {' '.join(self.words())} {self.synopsis}".rstrip()

    def getUsage(self, width: int | None = None) -> str:
        """The help: options, what it does, examples."""
        self.longdesc = " ".join((type(self).__doc__ or "").split())
        text = f"{self.getSynopsis()}\n{super().getUsage(width)}"
        examples = "".join(f"    {line}\n" for line in self.examples)
        return f"{text}\nExamples:\n{examples}" if examples else text

    def run(self) -> None:
        """Do it."""
        raise NotImplementedError


class Verbs(Verb):
    """Commands under a common name."""

    subCommands: ClassVar[list[list[Any]]]
    subOptions: Verb

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`.

        :raises usage.UsageError: something is wrong; one line.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            text = str(error)
            unknown = text.removeprefix("Unknown command: ")
            if unknown == text:
                raise
            raise usage.UsageError(f"'{unknown}' is not a command{suggestion(unknown, self._names())}") from None

    def parseArgs(self, *arguments: str) -> None:
        """Nothing was said.

        :raises usage.UsageError: always.
        """
        raise usage.UsageError(f"say what to do: {', '.join(self._names())}; --help tells more")

    def run(self) -> None:
        """Do what the command of the group does."""
        self.subOptions.run()

    def _names(self) -> list[str]:
        return [name for name, *_ in self.subCommands]
