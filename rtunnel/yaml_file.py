"""YAML as :mod:`rtunnel.config_file` describes it. A module of its own, as a process without such a file needs none."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import yaml

from rtunnel.errors import ConfigError, one_line

#: How deep a file may nest lists and mappings; ours nest three.
MAX_DEPTH = 32


class Loader(yaml.SafeLoader):
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


Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("int", "float", "timestamp", "value", "merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789")
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}$"), list("-+0123456789")
)


def parse_yaml(content: str, path: str, notes: list[str] | None) -> object:
    """Parse a YAML file.

    :param path: its name, for an error message.
    :param notes: if given, sections of the same name are merged, and notes on that go here.
    :raises ConfigError: it is not YAML, or a value or key in it cannot be used.
    """
    if _is_ini(content):
        raise ConfigError(
            f"{path}: is INI or TOML, and not YAML; write 'key: value' for 'key = value', and 'section:' for "
            "'[section]' with its keys indented below"
        )
    try:
        loader = Loader(content)
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


def line_of(content: str, at: Sequence[str | int]) -> int | None:
    """Return the line, from 1, of a value in a YAML or JSON file that could be parsed; None if it is not known.

    :param at: keys and indices that lead to the value. Where they lead no further, what they have led to counts.
    """
    try:
        # In JSON a tab may be anywhere but in a text.
        node = yaml.compose(content.replace("\t", " "), yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return _deepest(node, at)[1]


def _deepest(node: yaml.Node | None, at: Sequence[str | int]) -> tuple[int, int | None]:
    """Return how far *at* leads, and to which line. Of keys that are there twice, the last counts."""
    depth, line = 0, None
    parts: list[tuple[yaml.Node, yaml.Node]] = []
    if at and isinstance(node, yaml.MappingNode):
        name = str(at[0]).replace("-", "_")
        parts = [each for each in node.value if str(each[0].value).replace("-", "_") == name]
    elif at and isinstance(node, yaml.SequenceNode) and isinstance(at[0], int):
        parts = [(each, each) for each in node.value[at[0] : at[0] + 1]]
    for key, value in parts:
        further, inner = _deepest(value, at[1:])
        if further + 1 >= depth:
            depth, line = further + 1, inner or key.start_mark.line + 1
    return depth, line


def _is_ini(content: str) -> bool:
    """Return whether the first line that says something belongs to an INI or TOML file."""
    lines = (line.strip() for line in content.splitlines())
    first = next((line for line in lines if line and not line.startswith(("#", ";"))), "")
    return re.fullmatch(r"\[[^\],:]+\]|[\w.-]+\s*=.*", first) is not None
