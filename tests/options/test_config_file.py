"""Configuration files: YAML without its traps, JSON, and errors that say which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.config_file import read_config_file
from rtunnel.errors import ConfigError


def read(tmp_path: Path, content: str | bytes, name: str = "x.yaml") -> dict[str, object]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return dict(read_config_file(str(path)).values)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", {}),
        ("# only a comment\n", {}),
        ("---\n", {}),
        ("drain: 10", {"drain": 10}),
        ("drain: 1.5", {"drain": 1.5}),
        ("drain:", {}),
        ("drain: ~", {}),
        ("allow-ports: 1-2", {"allow_ports": "1-2"}),
        ("tunnel: 8080:22", {"tunnel": "8080:22"}),
        ("tunnel: 8080:22.5", {"tunnel": "8080:22.5"}),
        ("local: 190:20:30", {"local": "190:20:30"}),
        ("port: 0700", {"port": "0700"}),
        ("port: 0x1F", {"port": "0x1F"}),
        ("port: 1_000", {"port": "1_000"}),
        ("port: -1", {"port": -1}),
        ("port: .inf", {"port": ".inf"}),
        ("port: 1e3", {"port": "1e3"}),
        ("name: 2026-11-22", {"name": "2026-11-22"}),
        ("name: =", {"name": "="}),
        ("local: :80", {"local": ":80"}),
        ("local: '[::1]:80'", {"local": "[::1]:80"}),
        ("tls: {enabled: no}", {"tls": {"enabled": False}}),
        ("\ufeffdrain: 1", {"drain": 1}),
        ("base: &b {x: 1}", {"base": {"x": 1}}),
    ],
)
def test_yaml(tmp_path: Path, content: str, values: dict[str, object]) -> None:
    assert read(tmp_path, content) == values


INI = (
    "x.yaml: is INI or TOML, and not YAML; write 'key: value' for 'key = value', and 'section:' for '[section]' with "
    "its keys indented below"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml: line 3: key 'a' occurs twice; keep one"),
        ("t:\n  - {x: 1, x: 2}\n", "x.yaml: line 2: key 'x' occurs twice; keep one"),
        ("a-b: 1\na_b: 2\n", "x.yaml: line 2: keys 'a-b' and 'a_b' are the same; keep one"),
        ("a: [1\n", "x.yaml: line 2:"),
        ("a: 1\nb 2\n", "x.yaml: line 2: has no ': ' after the key; write 'key: value'"),
        ("a: 1\n\tb: 2\n", "x.yaml: line 2: has a tab; YAML is indented by spaces only"),
        ("t:\n  - a: 1\n\tb: 2\n", "x.yaml: line 3: has a tab; YAML is indented by spaces only"),
        ("# c\n\n[client]\nserver = x\n", INI),
        ("; c\nserver=x\n", INI),
        ("[client]\n", INI),
        ("[a, b]\n", "x.yaml: is a list and not a mapping"),
        ("a: b: c\n", "x.yaml: line 1: mapping values are not allowed here"),
        ("- a\n", "x.yaml: is a list and not a mapping; write lines such as 'key: value'"),
        ("hello\n", "x.yaml: is text and not a mapping"),
        ("true\n", "x.yaml: is true or false and not a mapping"),
        ("7\n", "x.yaml: is a single value and not a mapping"),
        ("8080: x\n", "x.yaml: line 1: unknown key 8080; keys are names"),
        ("? [a]\n: b\n", "x.yaml: line 1: found unhashable key"),
        ("a: 1\n---\nb: 2\n", "x.yaml: line 2: but found another document"),
        ("a: !!python/object/apply:os.getcwd []\n", "x.yaml: line 1: could not determine a constructor"),
        (
            "a: &b {x: 1}\nc: *b\n",
            "x.yaml: line 2: '*b' repeats another part of the file, which is not allowed; write that part out",
        ),
        ("a:\n  - {b: [*c]}\n", "x.yaml: line 2: '*c' repeats another part of the file"),
        ("a:\n  <<: *b\n", "x.yaml: line 2: '*b' repeats another part of the file"),
        ("a: " + "[" * 100_000, "x.yaml: line 1: lists and mappings are nested more than 32 deep"),
        ("- " * 40 + "a", "x.yaml: line 1: lists and mappings are nested more than 32 deep"),
        ("a: \x01\n", "x.yaml: is not YAML: unacceptable character"),
        (b"a: \xff\n", "x.yaml: is not UTF-8 text"),
    ],
)
def test_yaml_errors(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", {}),
        ("{}", {}),
        ('{"allow-ports": "1-2", "tls": null, "tunnels": [{"local": ":80"}]}', None),
    ],
)
def test_json(tmp_path: Path, content: str, values: dict[str, object] | None) -> None:
    expected = {"allow_ports": "1-2", "tunnels": [{"local": ":80"}]} if values is None else values
    assert read(tmp_path, content, "x.json") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,\n "a": 2}', "x.json: key 'a' occurs twice; keep one"),
        ('{"t": {"a": 1, "a": 2}}', "x.json: key 'a' occurs twice; keep one"),
        ('{"a": 1,\n}', "x.json: line 2: is not JSON"),
        ("[1]", "x.json: is a list and not a mapping"),
        ("[" * 100_000, "x.json: is not JSON that can be used: it is nested too deeply"),
        (b"\xff", "x.json: is not UTF-8 text"),
    ],
)
def test_json_errors(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content, "x.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nesting_that_is_deep_enough(tmp_path: Path) -> None:
    assert read(tmp_path, "a: " + "[" * 31 + "]" * 31)["a"]


def test_json_is_yaml_too(tmp_path: Path) -> None:
    assert read(tmp_path, '{"a": 1, "b": ["x"]}') == {"a": 1, "b": ["x"]}


def test_unreadable(tmp_path: Path) -> None:
    for name, reason in (("missing.yaml", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            read_config_file(str(tmp_path / name))
        assert str(caught.value) == f"{tmp_path / name}: cannot be read: {reason}"
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        read_config_file("\0")


@pytest.mark.parametrize("value", ["!!int ''", "!!int", "!!bool x", "!!timestamp x", "!!float ''"])
def test_tags_that_do_not_fit(tmp_path: Path, value: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"drain: {value}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: (has a value that does not fit its tag|is not YAML)"):
        read_config_file(str(path))
