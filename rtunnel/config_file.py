"""Configuration files: YAML, or JSON if the name ends in ``.json``.

YAML is read as most people believe it works: decimal numbers, ``true`` and ``false`` in their usual spellings, and
text. ``8080:22`` is text and not a number in base 60, ``0700`` is not octal, ``2026-11-22`` is not a date, and a
duplicate key is an error. So is an alias (``*name``), by which a few lines could stand for billions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rtunnel.errors import ConfigError, one_line
from rtunnel.trusted_files import read_trusted

#: How deep a file may nest lists and mappings; ours nest three.
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The content of a configuration file.

    :ivar path: the file, as the operator named it.
    :ivar values: the values by their keys, with underscores; keys without a value are left out.
    :ivar notes: what the operator should mend, though it is accepted.
    """

    path: str
    values: Mapping[str, object]
    notes: Sequence[str] = ()


def read_config_file(path: str, *, merge: bool = False) -> ConfigFile:
    """Read a configuration file.

    :param merge: whether to merge the sections of a YAML file that have the same name.
    :raises ConfigError: it cannot be read, is neither YAML nor JSON, or is not a mapping of keys to values.
    """
    notes: list[str] = []
    values = keys_with_underscores(load_file(path, notes if merge else None), path)
    return ConfigFile(path, values, tuple(notes))


def load_file(path: str, notes: list[str] | None = None) -> object:
    """Parse a YAML or JSON file that should have a mapping; the caller checks that it has.

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
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return _parse_json(content, path) if path.endswith(".json") else _parse_yaml(content, path, notes)


def _is_ini(content: str) -> bool:
    """Return whether the first line that says something belongs to an INI or TOML file."""
    lines = (line.strip() for line in content.splitlines())
    first = next((line for line in lines if line and not line.startswith(("#", ";"))), "")
    return re.fullmatch(r"\[[^\],:]+\]|[\w.-]+\s*=.*", first) is not None


def keys_with_underscores(mapping: object, where: str) -> dict[str, object]:
    """Return a mapping with ``-`` in its keys replaced by ``_``, without the keys that have no value.

    :param where: the beginning of an error message.
    :raises ConfigError: it is not a mapping, a key is not text, or two keys are the same.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where}: is {_kind(mapping)} and not a mapping; write lines such as 'key: value'")
    found: dict[str, object] = {}
    seen: dict[str, str] = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: unknown key {json.dumps(key, default=repr)}; keys are names")
        name = key.replace("-", "_")
        if name in seen:
            raise ConfigError(f"{where}: keys '{seen[name]}' and '{key}' are the same; keep one")
        seen[name] = key
        if value is not None:
            found[name] = value
    return found


def _kind(value: object) -> str:
    return {list: "a list", str: "text", bool: "true or false"}.get(type(value), "a single value")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with fewer surprises.

    :ivar notes: if set, sections of the same name are merged, and notes on that go here.
    """

    notes: list[str] | None = None
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = f"'*{event.anchor}' repeats another part of the file, which is not allowed; write that part out"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        if self._depth > MAX_DEPTH:
            problem = f"lists and mappings are nested more than {MAX_DEPTH} deep"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if self.notes is not None and isinstance(node, yaml.MappingNode):
            self._merge(node, self.notes)
        return node

    def _merge(self, node: yaml.MappingNode, notes: list[str], *, is_merged: bool = False) -> None:
        """Merge the sections in *node* that have the same name; of other values in merged sections, the last counts."""
        found: dict[object, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[object, yaml.MappingNode] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            line = f"line {key.start_mark.line + 1}"
            before = found.get(name, (key, None))[1]
            if isinstance(before, yaml.MappingNode) and isinstance(value, yaml.MappingNode):
                notes.append(one_line(f"{line}: section '{name}' is there twice; the two count as one"))
                if name not in merged:
                    merged[name] = yaml.MappingNode(value.tag, [*before.value], before.start_mark, value.end_mark)
                merged[name].value += value.value
                value = merged[name]
            elif before is not None and is_merged:
                notes.append(one_line(f"{line}: key '{name}' is there twice; this one counts"))
                merged.pop(name, None)
            elif before is not None:
                name = id(key)  # the error comes later
            found[name] = (key, value)
        node.value = list(found.values())
        for section in merged.values():
            self._merge(section, notes, is_merged=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen if isinstance(key_node, yaml.ScalarNode) else False:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key '{key_node.value}' occurs twice; keep one", key_node.start_mark
                    )
                if isinstance(key_node, yaml.ScalarNode):
                    seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("int", "float", "timestamp", "value", "merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}$"), list("-+0123456789")
)


def _parse_yaml(content: str, path: str, notes: list[str] | None) -> object:
    if _is_ini(content):
        raise ConfigError(
            f"{path}: is INI or TOML, and not YAML; write 'key: value' for 'key = value', and 'section:' for "
            "'[section]' with its keys indented below"
        )
    try:
        loader = _Loader(content)
        loader.notes = notes
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        # Where a colon is missing, YAML sees that only on a later line.
        is_key = error.context == "while scanning a simple key"
        mark = error.context_mark if is_key else error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        if "'\\t'" in (error.problem or ""):
            raise ConfigError(f"{path}:{line} has a tab; YAML is indented by spaces only") from error
        if is_key:
            raise ConfigError(f"{path}:{line} has no ': ' after the key; write 'key: value'") from error
        raise ConfigError(f"{path}:{line} {error.problem or error.context or 'is not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # PyYAML takes it for granted that a value fits its tag.
        raise ConfigError(f"{path}: has a value that does not fit its tag, such as !!int; leave out the tag") from error


def _parse_json(content: str, path: str) -> object:
    def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise ConfigError(f"{path}: key '{twice}' occurs twice; keep one")
        return mapping

    try:
        return json.loads(content, object_pairs_hook=no_duplicates) if content.strip() else None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is not JSON that can be used: it is nested too deeply") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
