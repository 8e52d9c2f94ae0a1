"""The command line of ``rtunnel``: a single command (:class:`Verb`) and a group of commands (:class:`Verbs`)."""

from __future__ import annotations

import getopt
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.python import usage

from rtunnel.endpoint_strings import suggestion
from rtunnel.options.base import BaseOptions, help_width, option_hint, unbroken


def _unknown_command(error: usage.UsageError) -> str | None:
    """Return the command that Twisted does not know; None if *error* is about something else."""
    text = str(error)
    unknown = text.removeprefix("Unknown command: ")
    return unknown if unknown != text else None


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
        try:
            super().parseOptions(given if hasattr(self, "subCommands") else options_first(self, given))
        except getopt.GetoptError as error:
            name = error.opt
            known = [option.rstrip("=") for option in self.longOpt]
            hint = option_hint(name, known) if "not recognized" in error.msg else ""
            raise usage.UsageError(f"{error}{hint}") from None

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return f"Usage: {' '.join(self.words())} {self.synopsis}".rstrip()

    def getUsage(self, width: int | None = None) -> str:
        """Return the help: synopsis, options, description, examples."""
        return f"{self.getSynopsis()}\n{super().getUsage(width)}"


def options_first(options: BaseOptions, given: Sequence[str]) -> list[str]:
    """Return a command line with its options before its arguments.

    :raises getopt.GetoptError: there is an unknown option, or one without its value.
    """
    kinds: Any = options
    pairs, arguments = getopt.gnu_getopt(list(given), kinds.shortOpt, kinds.longOpt)
    first = []
    for option, value in pairs:
        takes_value = f"{option[2:]}=" in kinds.longOpt or f"{option[1:]}:" in kinds.shortOpt
        first += [option, value] if takes_value else [option]
    return [*first, "--", *arguments]


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
            unknown = _unknown_command(error)
            if unknown is None:
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


class PluginVerbs(BaseOptions):
    """A plugin that is a group of commands besides: without one of them, it runs as ever.

    Write it before the class of the plugin's options.
    """

    #: The plugin's own options, which those of twistd and of others are.
    plugin: ClassVar[type[BaseOptions]]
    subCommands: ClassVar[list[list[Any]]]
    subOptions: BaseOptions
    flags: dict[str, Any]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See :meth:`twisted.python.usage.Options.parseOptions`.

        :raises usage.UsageError: something is wrong; its one line says what to write instead.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            unknown = _unknown_command(error)
            if unknown is None:
                raise
            hint = suggestion(unknown, [name for name, *_ in self.subCommands])
            raise usage.UsageError(f"'{unknown}' is not an option{hint or '; options begin with two dashes'}") from None

    def postOptions(self) -> None:
        """Decide the settings of the plugin, unless a command was named.

        :raises usage.UsageError: a setting is wrong; or options of the plugin are before the command, where they would
            have no effect.
        """
        if self.subCommand is None:
            super().postOptions()
        elif self.flags:
            raise usage.UsageError(f"--{next(iter(self.flags))} has no effect before '{self.subCommand}'; leave it out")

    def run(self) -> None:
        """Run the command that was named, or the plugin."""
        if self.subCommand is None:
            super().run()
        else:
            self.subOptions.run()

    def getUsage(self, width: int | None = None) -> str:
        """Return the help of the plugin, and its commands."""
        words, indent = " ".join(self.words()), " " * 8
        width = width or help_width()
        lines = "".join(
            f"    {words} {name}\n{textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent)}\n"
            for name, _, _, line in self.subCommands
        )
        return f"{super().getUsage(width)}\nCommands:\n{lines}"
