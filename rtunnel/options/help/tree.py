"""All commands of ``rtunnel`` with their options, as data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rtunnel.options.base import HYPHEN, BaseOptions
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.options.settings.declaration import SWITCH, Setting


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command.

    :ivar flags: ways to write it, such as ``--out`` and ``-o``; the first one is long.
    :ivar takes_value: whether a value follows.
    :ivar text: what its help says.
    :ivar choices: all values, if there are only a few.
    :ivar setting: its declaration, if it is a setting of a plugin.
    """

    flags: tuple[str, ...]
    takes_value: bool
    text: str
    choices: tuple[str, ...] = ()
    setting: Setting | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a group of commands.

    :ivar words: what is typed for it, such as ``rtunnel``, ``pki``, ``init``.
    :ivar summary: its line in the help of the group.
    :ivar text: what its own help says.
    :ivar more: options of its commands that may also follow the group itself.
    :ivar choices: all words that may follow, if there are only a few.
    :ivar sources: where the values of its options may come from, if there are more than the command line.
    :ivar kind: the class of its options.
    """

    words: tuple[str, ...]
    summary: str
    text: str
    synopsis: str
    examples: Sequence[str]
    options: Sequence[Option]
    more: Sequence[Option]
    commands: Sequence[Command]
    choices: tuple[str, ...]
    sources: str
    kind: type[BaseOptions]

    @property
    def path(self) -> str:
        """All of its words."""
        return " ".join(self.words)

    def walk(self) -> Iterator[Command]:
        """Yield this command, and all below it."""
        yield self
        for each in self.commands:
            yield from each.walk()


def tree() -> Command:
    """Return ``rtunnel`` with all of its commands."""
    from rtunnel.options.command import Options

    return _command(Options(), ("rtunnel",), "reach services behind a NAT through tunnels")


def _command(options: BaseOptions, words: tuple[str, ...], summary: str) -> Command:
    commands = []
    for name, _, make, line in getattr(options, "subCommands", ()):
        child = make()
        child.parent = options
        commands.append(_command(child, (*words, name), line))
    own = sorted(_options(options), key=lambda option: option.flags[0])
    more: dict[str, Option] = {}
    if getattr(options, "may_be_left_out", False):
        more = {option.flags[0]: option for command in commands for option in command.options}
    return Command(
        words,
        summary.rstrip("."),
        _plain(type(options).__doc__ or ""),
        options.synopsis,
        options.examples,
        own,
        [more[flag] for flag in sorted(more.keys() - {option.flags[0] for option in own})],
        commands,
        _alternatives(options.synopsis),
        options.sources() if isinstance(options, PluginOptions) else "",
        getattr(type(options), "plugin", type(options)),
    )


def _options(options: BaseOptions) -> Iterator[Option]:
    declared = {each.name: each for each in options.declared} if isinstance(options, PluginOptions) else {}
    for long in options.longOpt:
        name, equals, _ = long.partition("=")
        short = [f"-{each}" for each, meant in options.synonyms.items() if len(each) == 1 and meant == name]
        if name == "help":
            short = ["-h"]
        setting = declared.get(name)
        yield Option(
            (f"--{name}", *short),
            bool(equals),
            _plain(options.docs[name]),
            _words(setting) if equals and setting is not None else getattr(options, "choices", {}).get(name, ()),
            setting,
        )


def _words(setting: Setting) -> tuple[str, ...]:
    """Return the values of a setting that are words, if it has no others."""
    if setting.kind.coerce is SWITCH.coerce:
        return "yes", "no"
    values = setting.kind.values.split(", ")
    return (
        tuple(each.strip("`") for each in values) if all(re.fullmatch("``[a-z-]+``", each) for each in values) else ()
    )


def _alternatives(synopsis: str) -> tuple[str, ...]:
    found = re.search(r"[a-z-]+(?:\|[a-z-]+)+", synopsis)
    return tuple(found[0].split("|")) if found else ()


def _plain(text: str) -> str:
    return " ".join(text.split()).replace(HYPHEN, "-")
