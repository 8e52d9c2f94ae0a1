"""Settings: from the flag, else the environment, else the file, else the default.

A plugin declares each of its settings once, as a :class:`Setting`. From that come its flag ``--allow-ports``, its
environment variable ``RTUNNEL_ALLOW_PORTS``, its key ``allow_ports`` in the file, and its help. An empty environment
variable and a key without a value count as not given. Some settings have a second variable, which is that of the
program whose place we take; ours wins over it.

Nothing that an operator wrote is silently ignored: a key or flag that nobody knows is an error, and so is a variable
that looks like a misspelt one of ours. (Other variables that begin with ``RTUNNEL_`` are let alone: other
plugins have theirs, and Kubernetes makes some up for every service.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from rtunnel.config_file import ConfigFile, keys_with_underscores, read_config_file
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

PREFIX = "RTUNNEL_"
#: What the variables of the reference program for WebRTC begin with.
REFERENCE_PREFIX = "WTT_"

# Closer than this, an unknown variable is taken for a misspelt one.
_TYPO = 0.8


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that an operator can decide.

    :ivar name: of the flag, without its dashes.
    :ivar coerce: from what was written to the value; raises ConfigError. What it gets is text from a flag or the
        environment, a list of texts from a flag that may be repeated, and any YAML value from a file.
    :ivar default: the value where nothing was written.
    :ivar help: a sentence or two, without the default.
    :ivar shown_default: the default as an operator would write it; empty: there is none to show.
    :ivar file_key: key in the file, where that is not the name; ``tls.cert`` is ``cert`` in the section ``tls``.
    :ivar repeatable: whether the flag may be given several times.
    :ivar flag: whether there is a flag at all.
    :ivar switch: whether the flag stands alone, without a value.
    :ivar reference_variable: environment variable of the reference program; empty: it has none.
    :ivar may_be_empty: whether an empty environment variable is a value too, and not the same as none.
    """

    name: str
    coerce: Callable[[Any], object]
    default: object
    help: str
    shown_default: str = ""
    file_key: str = ""
    repeatable: bool = False
    flag: bool = True
    switch: bool = False
    reference_variable: str = ""
    may_be_empty: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.replace("-", "_").upper()

    @property
    def variables(self) -> Sequence[str]:
        """All its environment variables, the strongest first."""
        return [self.variable, self.reference_variable] if self.reference_variable else [self.variable]

    @property
    def key(self) -> str:
        """The key in the file."""
        return self.file_key or self.name.replace("-", "_")

    def variable_in(self, environ: Mapping[str, str]) -> str | None:
        """The environment variable that counts; None: there is none."""
        for name in self.variables:
            if environ.get(name, "").strip() or (self.may_be_empty and name in environ):
                return name
        return None


class Rank(IntEnum):
    """Where a value came from; the higher wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from.

    :ivar label: what an error message begins with, such as ``environment variable RTUNNEL_SERVER``.
    """

    rank: Rank
    label: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of all settings by their names, and where each came from."""

    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    def error(self, name: str, message: str) -> ConfigError:
        """An error about a setting, to be raised."""
        return ConfigError(f"{self.sources[name].label}: {message}")


def find_config_file(flags: Mapping[str, Any], environ: Mapping[str, str], otherwise: str = "") -> ConfigFile | None:
    """Read the file that ``--config`` or ``RTUNNEL_CONFIG`` names, if either does.

    :param otherwise: the file to read if neither does, and it is there.
    :raises ConfigError: see :func:`~rtunnel.config_file.read_config_file`.
    """
    if "config" in flags:
        label, path = "flag --config", flags["config"]
    else:
        label, path = f"environment variable {PREFIX}CONFIG", environ.get(f"{PREFIX}CONFIG", "")
        if not path:
            return read_config_file(otherwise) if _is_there(otherwise) else None
    if not path:
        raise ConfigError(f"{label}: is empty; write the path of a YAML or JSON file")
    return read_config_file(path)


def _is_there(path: str) -> bool:
    try:
        return bool(path) and Path(path).is_file()
    except OSError:
        # A directory that we may not look into.
        return False


def resolve(
    settings: Sequence[Setting],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: ConfigFile | None,
    foreign: Collection[str] = (),
    foreign_keys: Collection[str] = (),
) -> Resolved:
    """Decide every setting.

    :param flags: what was given on the command line, by setting name; text, or a list of texts where repeatable.
    :param environ: the process's environment.
    :param foreign: environment variables of ours that mean something to other plugins only.
    :param foreign_keys: keys in the file that do.
    :raises ConfigError: a value is wrong or a key unknown; the message names the source, the key and the likely fix.
    """
    _check_environment(settings, environ, foreign)
    known_keys = [*(setting.key for setting in settings), *foreign_keys]
    in_file = _without_sections(file.values, file.path, known_keys) if file else {}
    for key in in_file:
        if file and key not in known_keys:
            words = [*known_keys, *(known.partition(".")[0] for known in known_keys)]
            raise ConfigError(f"{file.path}: unknown key '{key}'{suggestion(key, words)}")
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for setting in settings:
        written: object
        if setting.name in flags:
            source, written = Source(Rank.FLAG, f"flag --{setting.name}"), flags[setting.name]
        elif variable := setting.variable_in(environ):
            source, written = Source(Rank.ENVIRONMENT, f"environment variable {variable}"), environ[variable]
        elif file and setting.key in in_file:
            source, written = Source(Rank.FILE, f"{file.path}: key '{setting.key}'"), in_file[setting.key]
        else:
            values[setting.name] = setting.default
            sources[setting.name] = Source(Rank.DEFAULT, f"default of --{setting.name}")
            continue
        sources[setting.name] = source
        try:
            values[setting.name] = setting.coerce(written)
        except ConfigError as error:
            raise ConfigError(f"{source.label}: {error}") from error
    return Resolved(values, sources)


def _without_sections(
    values: Mapping[str, object], path: str, known_keys: Collection[str], section: str = ""
) -> Mapping[str, object]:
    """What the file says, with the keys of its sections in full; ``tls: true`` is ``tls.enabled: true``."""
    found: dict[str, object] = {}
    for name, value in values.items():
        key = section + name
        if not any(known.startswith(f"{key}.") for known in known_keys):
            found[key] = value
        elif f"{key}.enabled" in known_keys and not isinstance(value, dict):
            found[f"{key}.enabled"] = value
        else:
            inner = keys_with_underscores(value, f"{path}: key '{key}'")
            found |= _without_sections(inner, path, known_keys, f"{key}.")
    return found


def _check_environment(settings: Sequence[Setting], environ: Mapping[str, str], foreign: Collection[str]) -> None:
    known = [variable for setting in settings for variable in setting.variables] + [f"{PREFIX}CONFIG"]
    for name, value in sorted(environ.items()):
        prefix = next((prefix for prefix in (PREFIX, REFERENCE_PREFIX) if name.startswith(prefix)), None)
        if prefix is None or name in known or name in foreign or not value.strip():
            continue
        # The variables that Kubernetes makes for a service named rtunnel or rtunnel-something.
        if re.search(r"_SERVICE_(HOST|PORT)|_PORT_[0-9]+_", name) or re.match(r"(tcp|udp|sctp)://", value):
            continue
        ours = [variable.removeprefix(prefix) for variable in known if variable.startswith(prefix)]
        hint = suggestion(name.removeprefix(prefix), ours, _TYPO)
        if hint:
            hint = hint.replace("'", f"'{prefix}", 1)
            raise ConfigError(f"environment variable {name}: is unknown{hint}")
