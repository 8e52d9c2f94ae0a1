"""Settings that are lists of entries: tunnels, services, forwards.

An entry is text on the command line and in the environment, where commas separate entries. In the file, the list may
hold such texts as well as mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from rtunnel.coercions import shown
from rtunnel.config_file import keys_with_underscores
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

EntryT = TypeVar("EntryT")
ValueT = TypeVar("ValueT")


class Entry:
    """One mapping of a list.

    :param where: the beginning of an error message.
    :param keys: the keys that it may have.
    :raises ConfigError: it is not a mapping, or has another key.
    :ivar where: the same.
    """

    def __init__(self, mapping: object, where: str, keys: Collection[str]) -> None:
        self.where = where
        self._values = keys_with_underscores(mapping, where)
        for key in self._values:
            if key not in keys:
                raise ConfigError(f"{where}: unknown key '{key}'{suggestion(key, keys)}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def only(self, keys: Collection[str]) -> dict[str, object]:
        """Return those of *keys* that it has, with their values."""
        return {key: self._values[key] for key in keys if key in self._values}

    def error(self, key: str, message: str) -> ConfigError:
        """Return an error about a key; it says which entry it is in."""
        return ConfigError(f"{self.where}: key '{key}': {message}")

    def require(self, key: str, what: str) -> None:
        """Check that a key is present.

        :param what: what the error tells the operator to write.
        :raises ConfigError: it is missing.
        """
        if key not in self._values:
            raise ConfigError(f"{self.where}: has no key '{key}'; write {what}")

    def read(self, key: str, coerce: Callable[[Any], ValueT], default: object = None) -> ValueT:
        """Return the value of a key.

        :param coerce: turns what was written, or the default, into the value.
        :raises ConfigError: the value is wrong.
        """
        try:
            return coerce(self._values.get(key, default))
        except ConfigError as error:
            raise self.error(key, str(error)) from error


def read_entries(
    value: object,
    from_text: Callable[[str], EntryT],
    from_mapping: Callable[[Entry], EntryT],
    keys: Collection[str],
    example: str,
) -> tuple[EntryT, ...]:
    """Read a list of entries.

    :param keys: the keys that a mapping may have.
    :param example: a mapping, for the error.
    :raises ConfigError: an entry is wrong; the message says which.
    """
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise ConfigError(f"{shown(value)} is not a list; write '- {example}' in it")
    found = []
    for number, entry in enumerate(value, 1):
        if isinstance(entry, str):
            try:
                found.append(from_text(entry))
            except ConfigError as error:
                name = shown(entry.strip())
                raise ConfigError(str(error) if name in str(error) else f"in {name}, {error}") from error
        else:
            found.append(from_mapping(Entry(entry, f"entry {number}", keys)))
    return tuple(found)
