"""Find the value of a setting: from the flag, else the environment, else the file, else the default.

An empty environment variable and a key without a value count as not given. Some settings have a second variable, that
of the reference program; the one that begins with ``RTUNNEL_`` wins.

Nothing that an operator wrote is silently ignored: an unknown key or flag is an error, and so is a variable that looks
like a misspelt one. Other variables that begin with ``RTUNNEL_`` are ignored: other plugins have theirs, and Kubernetes
sets some for every service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from rtunnel.coercions import pinpointed
from rtunnel.config_file import ConfigFile, keys_with_underscores, read_config_file
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.options.settings.declaration import PREFIX, REFERENCE_PREFIX, Setting

# An unknown variable that is closer than this to a known one counts as misspelt.
_TYPO = 0.8


class Rank(IntEnum):
    """The sources of a value, from the weakest to the strongest."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where one value came from.

    :ivar label: the beginning of an error message, such as ``environment variable RTUNNEL_SERVER``.
    :ivar file: the file that has it, if one has.
    :ivar key: its key there.
    """

    rank: Rank
    label: str
    file: ConfigFile | None = None
    key: str = ""

    def error(self, error: ConfigError) -> ConfigError:
        """Return an error about the value as one that names the source; if it is a file, also the line."""
        if self.file is None:
            return ConfigError(f"{self.label}: {error}")
        return self.file.error(error.within(f"key '{self.key}': ", *self.key.split(".")))


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of all settings by their names, and where each came from."""

    settings: Sequence[Setting]
    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    def fields_of(self, owner: type[Any]) -> dict[str, Any]:
        """Return the values that a dataclass takes, by the names of its fields."""
        return {
            setting.field: self.values[setting.name]
            for setting in self.settings
            if setting.owner is not None and issubclass(owner, setting.owner)
        }

    def error(self, name: str, message: str, at: Sequence[str | int] = ()) -> ConfigError:
        """Return an error about a setting; it names the source of the value.

        :param at: see :class:`~rtunnel.errors.ConfigError`.
        """
        return self.sources[name].error(ConfigError(message, at))

    @contextmanager
    def reads_files(self, *names: str) -> Iterator[None]:
        """Let an error about a file say where the settings' file names it.

        :param names: settings that are the paths of files.
        """
        try:
            yield
        except ConfigError as error:
            for name in names:
                is_named = self.sources[name].rank is Rank.FILE and str(self.values[name]) in str(error)
                # A clients file has lines of its own.
                if is_named and f"{self.values[name]}: line " not in str(error):
                    raise self.error(name, str(error)) from error
            raise


def find_config_file(
    flags: Mapping[str, Any], environ: Mapping[str, str], otherwise: str = "", *, merge: bool = False
) -> ConfigFile | None:
    """Read the file that ``--config`` or ``RTUNNEL_CONFIG`` names; None if neither does.

    :param otherwise: the file to read if neither names one and this one exists.
    :param merge: see :func:`~rtunnel.config_file.read_config_file`.
    :raises ConfigError: see :func:`~rtunnel.config_file.read_config_file`.
    """
    if "config" in flags:
        label, path = "flag --config", flags["config"]
    else:
        label, path = f"environment variable {PREFIX}CONFIG", environ.get(f"{PREFIX}CONFIG", "")
        if not path:
            return read_config_file(otherwise, merge=merge) if _is_there(otherwise) else None
    if not path:
        raise ConfigError(f"{label}: is empty; write the path of a YAML or JSON file")
    return read_config_file(path, merge=merge)


def _is_there(path: str) -> bool:
    try:
        return bool(path) and Path(path).is_file()
    except OSError:
        # The file is in a directory that this process may not enter.
        return False


def resolve(
    settings: Sequence[Setting],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: ConfigFile | None,
    foreign: Callable[[], Collection[str]] = frozenset,
    foreign_keys: Collection[str] = (),
) -> Resolved:
    """Decide the value of every setting.

    :param flags: the flags of the command line, by the setting's name; text, or a list of texts if it is repeatable.
    :param environ: the process's environment.
    :param foreign: returns the environment variables that mean something to other plugins only; asked if it matters.
    :param foreign_keys: keys in the file that mean something to other plugins only.
    :raises ConfigError: a value is wrong, or a key is unknown. The message names the source, the key and the likely
        fix.
    """
    _check_environment(settings, environ, foreign)
    known_keys = [*(key for setting in settings for key in setting.keys), *foreign_keys]
    in_file = _read_keys(file, known_keys) if file else {}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for setting in settings:
        written: object
        if setting.name in flags:
            source, written = Source(Rank.FLAG, f"flag --{setting.name}"), flags[setting.name]
        elif variable := setting.variable_in(environ):
            source, written = Source(Rank.ENVIRONMENT, f"environment variable {variable}"), environ[variable]
        elif file and (there := _key_in(file, setting, in_file)):
            label = f"{file.path}: key '{there}'"
            source, written = Source(Rank.FILE, label, file, there), in_file[there]
        else:
            values[setting.name] = setting.default
            sources[setting.name] = Source(Rank.DEFAULT, f"default of --{setting.name}")
            continue
        sources[setting.name] = source
        try:
            values[setting.name] = setting.kind.coerce(written)
        except ConfigError as error:
            raise source.error(pinpointed(error, setting.kind.coerce, written)) from error
    return Resolved(settings, values, sources)


def _key_in(file: ConfigFile, setting: Setting, in_file: Mapping[str, object]) -> str | None:
    try:
        return setting.key_in(in_file)
    except ConfigError as error:
        raise file.error(error) from error


def _read_keys(file: ConfigFile, known_keys: Collection[str]) -> Mapping[str, object]:
    """Return the file's values by full keys.

    :raises ConfigError: it has others.
    """
    try:
        found = _without_sections(file.values, known_keys)
        for key in found:
            if key not in known_keys:
                words = [*known_keys, *(known.partition(".")[0] for known in known_keys)]
                raise ConfigError(f"unknown key '{key}'{suggestion(key, words)}", key.split("."))
    except ConfigError as error:
        raise file.error(error) from error
    return found


def _without_sections(
    values: Mapping[str, object], known_keys: Collection[str], section: str = ""
) -> Mapping[str, object]:
    """Return the file's values by full keys, such as ``tls.cert``; ``tls: true`` is ``tls.enabled: true``."""
    found: dict[str, object] = {}
    for name, value in values.items():
        key = section + name
        if not any(known.startswith(f"{key}.") for known in known_keys):
            found[key] = value
        elif f"{key}.enabled" in known_keys and not isinstance(value, dict):
            found[f"{key}.enabled"] = value
        else:
            try:
                inner = keys_with_underscores(value)
            except ConfigError as error:
                raise error.within(f"key '{key}': ", *key.split(".")) from error
            found |= _without_sections(inner, known_keys, f"{key}.")
    return found


def _check_environment(
    settings: Sequence[Setting], environ: Mapping[str, str], foreign: Callable[[], Collection[str]]
) -> None:
    known = [variable for setting in settings for variable in setting.variables] + [f"{PREFIX}CONFIG"]
    for name, value in sorted(environ.items()):
        prefix = next((prefix for prefix in (PREFIX, REFERENCE_PREFIX) if name.startswith(prefix)), None)
        if prefix is None or name in known or not value.strip():
            continue
        # The variables that Kubernetes sets for a service named rtunnel or rtunnel-something.
        if re.search(r"_SERVICE_(HOST|PORT)|_PORT_[0-9]+_", name) or re.match(r"(tcp|udp|sctp)://", value):
            continue
        ours = [variable.removeprefix(prefix) for variable in known if variable.startswith(prefix)]
        hint = suggestion(name.removeprefix(prefix), ours, _TYPO)
        if hint and name not in foreign():
            hint = hint.replace("'", f"'{prefix}", 1)
            raise ConfigError(f"environment variable {name}: is unknown{hint}")
