"""``python -m rtunnel.options.help.man``: write the manual pages again, into docs/man.

There is one for ``rtunnel`` and one for each of its commands, ``rtunnel-server(1)`` and so on. The wheel has them in
``share/man``. The tests check that they match the declarations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtunnel.options.help.tree import Command, Option, tree

DIRECTORY = "docs/man"

_EXIT = "0 if all is well. Otherwise 1, and the last line on standard error says why."


def pages(root: Command) -> dict[str, str]:
    """Return all manual pages by the names of their files."""
    return {f"{'-'.join(each.words)}.1": "".join(_page(each, root)) for each in (root, *root.commands)}


def _page(command: Command, root: Command) -> Iterator[str]:
    name = "-".join(command.words)
    yield '.\\" Written by python -m rtunnel.options.help.man\n'
    yield f'.TH {_escape(name.upper())} 1 "" rtunnel "rtunnel manual"\n'
    # Options are not broken at the ends of lines, nor are lines stretched.
    yield ".ad l\n.nh\n"
    yield f".SH NAME\n{_escape(name)} \\- {_escape(command.summary[:1].lower() + command.summary[1:])}\n"
    yield f".SH SYNOPSIS\n.B {_escape(command.path)}\n{_escape(command.synopsis)}\n"
    yield f".SH DESCRIPTION\n{_escape(command.text)}\n"
    if command is root:
        yield ".SH COMMANDS\n"
        for each in command.commands:
            yield f".TP\n.BR {_escape('-'.join(each.words))} (1)\n{_escape(each.summary)}.\n"
    elif command.commands:
        yield ".SH COMMANDS\n"
        for each in command.commands:
            yield from _section(each, root)
    yield ".SH OPTIONS\n"
    if command.sources:
        yield f"{_escape(command.sources)}\n"
    yield from _options(command.options)
    yield from _examples(".SH EXAMPLES\n", command.examples)
    yield f".SH EXIT STATUS\n{_EXIT}\n"
    others = [each for each in (root, *root.commands) if each is not command]
    yield ".SH SEE ALSO\n" + ",\n".join(f".BR {_escape('-'.join(each.words))} (1)" for each in others) + "\n"


def _section(command: Command, root: Command) -> Iterator[str]:
    yield f'.SS "{_escape(f"{command.path} {command.synopsis}")}"\n{_escape(command.text)}\n'
    options = command.options
    # A command that takes all options of another one.
    for each in root.commands:
        if issubclass(command.kind, each.kind) and each.options:
            known = {option.flags[0] for option in each.options}
            options = [option for option in options if option.flags[0] not in known]
            yield f".PP\nIt takes the options of\n.BR {_escape('-'.join(each.words))} (1),\nand these.\n"
    yield from _options([option for option in options if option.flags[0] not in ("--help", "--version")])
    yield from _examples(".PP\nExamples:\n", command.examples)


def _options(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        flags = [f"\\fB{_escape(flag)}\\fR" for flag in option.flags]
        value = f" \\fI{_escape('|'.join(option.choices) or 'VALUE')}\\fR" if option.takes_value else ""
        yield f".TP\n{', '.join(flags)}{value}\n{_escape(option.text)}\n"
        if (setting := option.setting) is not None:
            default = f" Default: {setting.shown_default}." if setting.shown_default else ""
            values = "" if option.choices or not option.takes_value else f" Values: {setting.kind.values}."
            yield f"{_escape(f'{values}{default} Variable: {setting.variable}. Key: {setting.key}.'.strip())}\n"


def _examples(head: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"{head}.RS 4\n.nf\n{''.join(f'{_escape(line)}{chr(10)}' for line in lines)}.fi\n.RE\n"


#: What would be a command of groff, or another character.
_ESCAPES = str.maketrans(
    {"\\": "\\e", "-": "\\-", '"': "\\(dq", "'": "\\(aq", "`": "\\(ga", "~": "\\(ti", "^": "\\(ha"}
)


def _escape(text: str) -> str:
    """Return a line of text for groff, which all terminals show as it was written."""
    escaped = text.replace("``", "").translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def write(directory: Path) -> None:
    """Write all pages into a directory, and remove those of commands that are gone."""
    directory.mkdir(parents=True, exist_ok=True)
    written = pages(tree())
    for path in directory.glob("*.1"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        (directory / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else DIRECTORY))
