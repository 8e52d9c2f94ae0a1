"""Declare each setting once: its name, its kind, its help, and the dataclass that takes its value.

Everything else follows from that: the flag ``--allow-ports``, the environment variable ``RTUNNEL_ALLOW_PORTS``, the key
``allow_ports`` in the file, the default (that of the dataclass field), the line in ``--help`` and the row in
docs/configuration.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from functools import partial
from typing import Any

from rtunnel.coercions import (
    boolean,
    choice,
    integer,
    listen_address,
    optional,
    path,
    seconds,
    show_seconds,
    show_size,
    size,
    text,
)
from rtunnel.errors import ConfigError

PREFIX = "RTUNNEL_"
#: The prefix of the environment variables of the reference program for WebRTC.
REFERENCE_PREFIX = "WTT_"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    :ivar coerce: turns what an operator wrote into the value, or raises ConfigError. It is given text from a flag or
        the environment, a list of texts from a flag that may be repeated, and any YAML value from a file.
    :ivar values: the cell in the column "Values" of docs/configuration.rst.
    :ivar show: writes a value as an operator would, so that ``coerce`` reads it back.
    """

    coerce: Callable[[Any], object]
    values: str
    show: Callable[[Any], str] = str


def sizes(lowest: int, highest: int) -> Kind:
    """A number of bytes within bounds, both included."""
    return Kind(size(lowest, highest), f"{show_size(lowest)} to {show_size(highest)}", show_size)


def words(*known: str) -> Kind:
    """One of a few words."""
    return Kind(choice(*known), ", ".join(f"``{word}``" for word in known))


COUNT = Kind(integer(1, MANY), f"1 to {MANY:,}")
TIME = Kind(seconds(zero=False), "time above 0", show_seconds)
TIME_OR_ZERO = Kind(seconds(zero=True), "time, 0 or more", show_seconds)
#: The flag of such a setting takes no value.
SWITCH = Kind(boolean, "yes or no")
#: The flag of this one does, since its default is yes.
YES_OR_NO = Kind(boolean, "yes or no", lambda value: "yes" if value else "no")
LISTEN = Kind(listen_address, "address to listen on")
PATH = Kind(optional(path, None), "path")
TEXT = Kind(optional(text, ""), "text")


class Reload(Enum):
    """From when on a changed value counts, if the settings are read again while the process runs."""

    AT_ONCE = "at once"
    #: For links, peer connections and other connections that are made from then on.
    NEW = "for new ones"
    RESTART = "after a restart"


AT_ONCE, NEW = Reload.AT_ONCE, Reload.NEW


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that an operator can decide.

    :ivar name: name of the flag, without its dashes.
    :ivar help: a sentence or two, without the default.
    :ivar owner: the dataclass that takes the value and has the default; None if the plugin itself uses the value.
    :ivar field: the field of the owner; by default the name with underscores.
    :ivar default: the value if none is given; by default that of the field, or None if it has none.
    :ivar no_default: the text in docs/configuration.rst if the default cannot be written as a value.
    :ivar key: key in the file. ``tls.cert`` is ``cert`` in the section ``tls``; ``limits.`` stands for the name in the
        section ``limits``; by default it is the name with underscores.
    :ivar repeatable: whether the flag may be given several times.
    :ivar in_reference: whether the reference program for WebRTC has an environment variable for it.
    :ivar reference_key: another key in the file, which the reference program obeys instead of its own.
    :ivar may_be_empty: whether an empty environment variable is a value, rather than not given.
    :ivar reload: from when on a changed value counts.
    :ivar is_secret: whether nobody may see the value, neither in the log nor elsewhere.
    """

    name: str
    kind: Kind
    help: str
    owner: type[Any] | None = None
    field: str = ""
    default: object = ...
    no_default: str = "none"
    key: str = ""
    repeatable: bool = False
    in_reference: bool = False
    reference_key: str = ""
    may_be_empty: bool = False
    reload: Reload = Reload.RESTART
    is_secret: bool = False

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        plain = self.name.replace("-", "_")
        put("field", self.field or plain)
        if not self.key or self.key.endswith("."):
            put("key", self.key + plain)
        default = _default(self.owner, self.field) if self.owner is not None else None
        if self.default is ...:
            put("default", default)

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.kind is SWITCH

    @property
    def shown_default(self) -> str:
        """The default as an operator would write it; empty if there is nothing to show."""
        is_number = isinstance(self.default, int | float) and not isinstance(self.default, bool)
        return self.kind.show(self.default) if self.default or is_number else ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.replace("-", "_").upper()

    @property
    def reference_variable(self) -> str:
        """The environment variable of the reference program; empty if it has none."""
        return REFERENCE_PREFIX + self.key.replace(".", "_").upper() if self.in_reference else ""

    @property
    def variables(self) -> Sequence[str]:
        """All environment variables of this setting, the one that wins first."""
        return [self.variable, self.reference_variable] if self.in_reference else [self.variable]

    @property
    def keys(self) -> Sequence[str]:
        """All keys of this setting in the file, the one that wins first."""
        return [self.key, self.reference_key] if self.reference_key else [self.key]

    def key_in(self, file: Mapping[str, object]) -> str | None:
        """Return the key that counts, or None if none is there. An empty list gives way to another key.

        :raises ConfigError: two keys have different values.
        """
        there = [key for key in self.keys if key in file]
        given = [key for key in there if file[key] not in ("", [])]
        if len(given) == 2 and file[given[0]] != file[given[1]]:
            raise ConfigError(f"keys '{given[0]}' and '{given[1]}' mean the same; keep one", given[1].split("."))
        return next(iter(given or there), None)

    def variable_in(self, environ: Mapping[str, str]) -> str | None:
        """Return the environment variable that wins, or None if none is set."""
        for name in self.variables:
            if environ.get(name, "").strip() or (self.may_be_empty and name in environ):
                return name
        return None


def _default(owner: type[Any], name: str) -> object:
    """Return the default of a dataclass's field, or None if it has none.

    :raises KeyError: the dataclass has no such field.
    """
    field = {field.name: field for field in fields(owner)}[name]
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default
