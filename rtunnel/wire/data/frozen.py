"""What a connection is when it is written down, so that another process goes on with it: values as JSON has them.

Whoever writes it is this program, and whoever reads it believes nothing: everything here that reads raises only
``ValueError``. Bytes are base64.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from math import isfinite
from typing import Any

#: What is written down.
State = dict[str, Any]


def text_of(data: bytes | memoryview) -> str:
    """Return bytes as text."""
    return b64encode(data).decode()


class Fields:
    """Reads values that were written down.

    :param state: what was read from JSON.
    :raises ValueError: it is no object.
    """

    __slots__ = ("_state",)

    def __init__(self, state: object) -> None:
        if not isinstance(state, Mapping):
            raise ValueError("an object is missing")
        self._state = state

    def _get(self, name: str) -> Any:
        try:
            return self._state[name]
        except KeyError:
            raise ValueError(f"'{name}' is missing") from None

    def data(self, name: str, most: int) -> bytes:
        """Return bytes, no more than *most*.

        :raises ValueError: there are none, or too many. So it is for the other methods.
        """
        text = self._get(name)
        if not isinstance(text, str) or len(text) > 4 * (most // 3 + 1):
            raise ValueError(f"'{name}' is no text, or too long")
        data = b64decode(text, validate=True)
        if len(data) > most:
            raise ValueError(f"'{name}' has {len(data)} bytes, more than {most}")
        return data

    def number(self, name: str, most: int, least: int = 0) -> int:
        """Return a whole number from *least* to *most*."""
        value = self._get(name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"'{name}' is no number from {least} to {most}")
        return value

    def seconds(self, name: str) -> float:
        """Return a time, 0 or more."""
        value = self._get(name)
        if type(value) not in (int, float) or not (isfinite(value) and value >= 0):
            raise ValueError(f"'{name}' is no time")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return whether something is so."""
        value = self._get(name)
        if type(value) is not bool:
            raise ValueError(f"'{name}' is neither true nor false")
        return value

    def text(self, name: str, most: int = 4096) -> str:
        """Return a text of no more than *most* characters."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > most:
            raise ValueError(f"'{name}' is no text, or too long")
        return value

    def has(self, name: str) -> bool:
        """Return whether there is something, and not null."""
        return self._get(name) is not None

    def fields(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self._get(name))

    def all(self, name: str) -> list[Any]:
        """Return a list."""
        value = self._get(name)
        if not isinstance(value, list):
            raise ValueError(f"'{name}' is no list")
        return value
