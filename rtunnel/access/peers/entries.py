"""Files of this folder in which an entry is a few lines of YAML, and to which the program adds entries.

A new entry is written behind what is there, so comments and order stay. The result is read before it takes the place of
the old file, in one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rtunnel.config_file import load_file
from rtunnel.errors import ConfigError, PkiError
from rtunnel.pki import files
from rtunnel.pki.files import PRIVATE, Draft


def quoted(text: str) -> str:
    """Return *text* as YAML reads it back, whatever is in it (JSON is YAML)."""
    return json.dumps(text, ensure_ascii=False)


def append(path: Path, head: str, entry: Callable[[object], str], check: Callable[[object], object]) -> None:
    """Add an entry to a file, which is made if there is none.

    :param head: the comment with which a new file begins.
    :param entry: returns the lines to add, from what the file has; empty if nothing is to be done.
    :param check: raises :exc:`ConfigError` if what the file would have then cannot be used.
    :raises ConfigError: the file cannot be read or written, or is not written so that lines can be added.
    """
    try:
        files.make_directory(path.parent)
        with files.locked(path.parent):
            _append(path, head, entry, check)
    except PkiError as error:
        raise ConfigError(str(error)) from None


def _append(path: Path, head: str, entry: Callable[[object], str], check: Callable[[object], object]) -> None:
    content, value = head, None
    if path.exists():
        value, content = load_file(str(path))
    lines = entry(value)
    if not lines:
        return
    if content and not content.endswith("\n"):
        content += "\n"
    content += lines
    try:
        from rtunnel.yaml_file import parse_yaml

        if path.suffix == ".json":
            raise ConfigError("it is JSON")
        check(parse_yaml(content, str(path), None))
    except ConfigError as error:
        hint = " ".join(lines.split())
        raise ConfigError(f"{path}: nothing can be added to this file ({error}); write by hand: {hint}") from None
    files.publish([Draft(path, content.encode(), PRIVATE, replaces=True)])
