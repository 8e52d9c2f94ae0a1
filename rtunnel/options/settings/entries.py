"""Settings that are lists of entries: tunnels, services, forwards.

An entry is text on the command line and in the environment, where commas separate entries. In the file, the list may
hold such texts as well as mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rtunnel.coercions import pinpointed, shown
from rtunnel.config_file import keys_with_underscores
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

EntryT = TypeVar("EntryT")
ValueT = TypeVar("ValueT")


class Entry:
    """One mapping of a list.

    :param keys: the keys that it may have.
    :raises ConfigError: it is not a mapping, or has another key.
    """

    def __init__(self, mapping: object, keys: Collection[str]) -> None:
        self._values = keys_with_underscores(mapping)
        for key in self._values:
            if key not in keys:
                raise ConfigError(f"unknown key '{key}'{suggestion(key, keys)}", [key])

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def only(self, keys: Collection[str]) -> dict[str, object]:
        """Return those of *keys* that it has, with their values."""
        return {key: self._values[key] for key in keys if key in self._values}

    def error(self, key: str, message: str) -> ConfigError:
        """Return an error about a key."""
        return ConfigError(message).within(f"key '{key}': ", key)

    def require(self, key: str, what: str) -> None:
        """Check that a key is present.

        :param what: what the error tells the operator to write.
        :raises ConfigError: it is missing.
        """
        if key not in self._values:
            raise ConfigError(f"has no key '{key}'; write {what}")

    def read(self, key: str, coerce: Callable[[Any], ValueT], default: object = None) -> ValueT:
        """Return the value of a key.

        :param coerce: turns what was written, or the default, into the value.
        :raises ConfigError: the value is wrong.
        """
        value = self._values.get(key, default)
        try:
            return coerce(value)
        except ConfigError as error:
            raise pinpointed(error, coerce, value).within(f"key '{key}': ", key) from error


@contextmanager
def written_at(*at: str | int) -> Iterator[None]:
    """Let a :class:`~rtunnel.errors.ConfigError` about a value say where in a larger value this one is."""
    try:
        yield
    except ConfigError as error:
        raise error.within("", *at) from error


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
    for index, entry in enumerate(value):
        try:
            found.append(from_text(entry) if isinstance(entry, str) else from_mapping(Entry(entry, keys)))
        except ConfigError as error:
            label = f"entry {index + 1}: "
            if isinstance(entry, str):
                name = shown(entry.strip())
                label = "" if name in str(error) else f"in {name}, "
            raise error.within(label, index) from error
    return tuple(found)
