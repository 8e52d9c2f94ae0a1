"""Configuration files: YAML, or JSON if the name ends in ``.json``.

YAML is read as most people believe it works: decimal numbers, ``true`` and ``false`` in their usual spellings, and
text. ``8080:22`` is text and not a number in base 60, ``0700`` is not octal, ``2026-11-22`` is not a date, and a
duplicate key is an error. So is an alias (``*name``), by which a few lines could stand for billions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rtunnel.errors import ConfigError
from rtunnel.trusted_files import read_trusted


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a configuration file.

    :ivar path: the file, as the operator named it.
    :ivar values: the values by their keys, with underscores; keys without a value are left out.
    :ivar notes: what the operator should mend, though it is accepted.
    :ivar content: the file itself.
    """

    path: str
    values: Mapping[str, object]
    notes: Sequence[str] = ()
    content: str = field(default="", repr=False, compare=False)

    def error(self, error: ConfigError) -> ConfigError:
        """Return an error about a value in this file as one that names the file and the line."""
        return in_file(error, self.path, self.content)


def read_config_file(path: str, *, merge: bool = False) -> ConfigFile:
    """Read a configuration file.

    :param merge: whether to merge the sections of a YAML file that have the same name.
    :raises ConfigError: it cannot be read, is neither YAML nor JSON, or is not a mapping of keys to values.
    """
    notes: list[str] = []
    value, content = load_file(path, notes if merge else None)
    try:
        values = keys_with_underscores(value)
    except ConfigError as error:
        raise in_file(error, path, content) from error
    return ConfigFile(path, values, tuple(notes), content)


def in_file(error: ConfigError, path: str, content: str) -> ConfigError:
    """Return an error about a value in a file as one that names the file and the line.

    :param content: of the file.
    """
    line = None
    if error.at and content:
        # The lines are looked for only now: most files have no mistake.
        from rtunnel.yaml_file import line_of

        line = line_of(content, error.at)
    return ConfigError(f"{path}: {error}" if line is None else f"{path}: line {line}: {error}")


def load_file(path: str, notes: list[str] | None = None) -> tuple[object, str]:
    """Parse a YAML or JSON file that should have a mapping; the caller checks that it has. Return it, and its text.

    :param notes: if given, sections of a YAML file that have the same name are merged, and notes on that go here.
    :raises ConfigError: it cannot be read, other users can write it, or it is neither YAML nor JSON.
    """
    try:
        content = read_trusted(path).decode("utf-8-sig")
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "; let the user that runs this read it" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path}: cannot be read: {reason}{hint}") from error
    if path.endswith(".json"):
        return _parse_json(content, path), content
    from rtunnel.yaml_file import parse_yaml

    return parse_yaml(content, path, notes), content


def keys_with_underscores(mapping: object) -> dict[str, object]:
    """Return a mapping with ``-`` in its keys replaced by ``_``, without the keys that have no value.

    :raises ConfigError: it is not a mapping, a key is not text, or two keys are the same.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ConfigError(f"is {_kind(mapping)} and not a mapping; write lines such as 'key: value'")
    found: dict[str, object] = {}
    seen: dict[str, str] = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise ConfigError(f"unknown key {json.dumps(key, default=repr)}; keys are names", [str(key)])
        name = key.replace("-", "_")
        if name in seen:
            raise ConfigError(f"keys '{seen[name]}' and '{key}' are the same; keep one", [name])
        seen[name] = key
        if value is not None:
            found[name] = value
    return found


def _kind(value: object) -> str:
    return {list: "a list", str: "text", bool: "true or false"}.get(type(value), "a single value")


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a mapping of JSON (``object_pairs_hook``).

    :raises ConfigError: a key occurs twice.
    """
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ConfigError(f"key '{twice}' occurs twice; keep one")
    return mapping


def _parse_json(content: str, path: str) -> object:
    try:
        return json.loads(content, object_pairs_hook=no_duplicates) if content.strip() else None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is not JSON that can be used: it is nested too deeply") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
