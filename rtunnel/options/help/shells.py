"""Completion for bash, zsh and fish: a script for each, in which all words are written out.

So a press of TAB starts no Python. Each script finds the command that has been typed so far, then whether the word
before is an option that takes a value. A value that may be anything is completed as the name of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from textwrap import shorten

from rtunnel.options.help.tree import Command, Option

_HEAD = "Completion of the command rtunnel, written by 'rtunnel completion {shell}'."


def bash(root: Command) -> str:
    """Return the script for bash."""
    values: dict[tuple[str, ...], list[str]] = {}
    for command in root.walk():
        for option in (*command.options, *command.more):
            if option.takes_value:
                values.setdefault(option.choices, []).extend(f'"{command.path} {flag}"' for flag in option.flags)
    paths = [f'"{command.path}"' for each in root.commands for command in each.walk()]
    lines = [
        f"# {_HEAD.format(shell='bash')}",
        "_rtunnel() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
        "    local at=rtunnel words= options= i",
        '    # bash takes the "=" of --option=value for a word.',
        '    if [[ $current == "=" ]]; then',
        "        current=",
        '    elif [[ $before == "=" ]]; then',
        "        before=${COMP_WORDS[COMP_CWORD-2]}",
        "    fi",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$at ${COMP_WORDS[i]}" in',
        f"        {' | '.join(paths)})",
        '            at="$at ${COMP_WORDS[i]}" ;;',
        "        esac",
        "    done",
        '    case "$at $before" in',
        *(f'    {" | ".join(where)}) words="{" ".join(words)}" ;;' for words, where in values.items()),
        "    *)",
        '        case "$at" in',
    ]
    for command in root.walk():
        flags = " ".join(flag for option in (*command.options, *command.more) for flag in option.flags)
        lines.append(f'        "{command.path}") words="{" ".join(_next_words(command))}" options="{flags}" ;;')
    lines += [
        "        esac",
        "        if [[ $current == -* ]]; then words=$options; fi ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "complete -o bashdefault -o default -F _rtunnel rtunnel",
    ]
    return "\n".join(lines) + "\n"


def zsh(root: Command) -> str:
    """Return the script for zsh."""
    paths = [f'"{command.path}"' for each in root.commands for command in each.walk()]
    lines = [
        "#compdef rtunnel",
        f"# {_HEAD.format(shell='zsh')}",
        "_rtunnel() {",
        "    local at=rtunnel word",
        "    local -i typed=1",
        '    for word in "${(@)words[2,CURRENT-1]}"; do',
        '        case "$at $word" in',
        f"        ({' | '.join(paths)})",
        '            at="$at $word"; typed+=1 ;;',
        "        esac",
        "    done",
        '    words=("${(@)words[typed,-1]}")',
        "    CURRENT=$((CURRENT - typed + 1))",
        '    case "$at" in',
    ]
    for command in root.walk():
        specs = [_zsh_option(option) for option in (*command.options, *command.more)]
        if command.commands:
            named = " ".join(f"{each.words[-1]}\\:{_quoted(_escaped(each.summary))}" for each in command.commands)
            specs.append(f"'1:command:(({named}))'")
        elif command.choices:
            specs.append(f"'*:argument:({' '.join(command.choices)})'")
        else:
            specs.append("'*:argument:_files'")
        lines.append(f'    ("{command.path}") _arguments -S \\')
        lines.append(" \\\n".join(f"        {spec}" for spec in specs) + " ;;")
    lines += [
        "    esac",
        "}",
        'if [ "$funcstack[1]" = _rtunnel ]; then _rtunnel "$@"; else compdef _rtunnel rtunnel; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_option(option: Option) -> str:
    value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
    text = f"[{_escaped(_short(option.text))}]{value if option.takes_value else ''}'"
    # An option that takes a value may be repeated.
    start = "'*" if option.takes_value else "'"
    flags = [f"{flag}{'=' if flag.startswith('--') else '+'}" if option.takes_value else flag for flag in option.flags]
    return f"{start}{flags[0]}{text}" if len(flags) == 1 else f"{start}'{{{','.join(flags)}}}'{text}"


def fish(root: Command) -> str:
    """Return the script for fish."""
    paths = [f"'{command.path}'" for each in root.commands for command in each.walk()]
    lines = [
        f"# {_HEAD.format(shell='fish')}",
        "function __rtunnel_at",
        "    set -l at rtunnel",
        "    set -l typed (commandline -opc)",
        "    for word in $typed[2..-1]",
        f'        contains -- "$at $word" {" ".join(paths)}; and set at "$at $word"',
        "    end",
        '    test "$at" = "$argv[1]"',
        "end",
        "complete -c rtunnel -e",
    ]
    for command in root.walk():
        here = f"complete -c rtunnel -n \"__rtunnel_at '{command.path}'\""
        if command.commands:
            lines += [f"{here} -f -a {each.words[-1]} -d '{_in_fish(each.summary)}'" for each in command.commands]
        elif command.choices:
            lines.append(f"{here} -f -a '{' '.join(command.choices)}'")
        for option in (*command.options, *command.more):
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" if option.takes_value else ""
            lines.append(f"{here} {flags}{value} -d '{_in_fish(_short(option.text))}'")
    return "\n".join(lines) + "\n"


#: What writes the script of each shell.
SHELLS: Mapping[str, Callable[[Command], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _next_words(command: Command) -> Iterator[str]:
    yield from (each.words[-1] for each in command.commands)
    yield from command.choices


def _short(text: str) -> str:
    """Return the first sentence of a text, or as much of it as a list of options has room for."""
    return shorten(text.partition(". ")[0].rstrip("."), 80, placeholder=" ...")


def _escaped(text: str) -> str:
    """Return a text for zsh's ``_arguments``, within single quotes."""
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"').replace("`", "\\`").replace("$", "\\$") + '"'


def _in_fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
