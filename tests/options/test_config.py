"""Where a setting comes from, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from rtunnel.coercions import integer, text
from rtunnel.config_file import ConfigFile
from rtunnel.errors import ConfigError
from rtunnel.options.settings.declaration import Kind, Setting
from rtunnel.options.settings.sources import Rank, Resolved, find_config_file, resolve

SETTINGS = (
    Setting("allow-ports", Kind(integer(1, 99), ""), "", default=1),
    Setting("control-listen", Kind(text, ""), "", default="default"),
    Setting("tunnel", Kind(list, ""), "", default=[], key="tunnels", repeatable=True),
)


def decide(
    flags: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    values: dict[str, object] | None = None,
    foreign: tuple[str, ...] = (),
) -> Resolved:
    file = None if values is None else ConfigFile("x.yaml", values)
    return resolve(SETTINGS, flags or {}, environ or {}, file, lambda: foreign)


@given(st.booleans(), st.booleans(), st.booleans())
def test_precedence(flag: bool, variable: bool, key: bool) -> None:
    resolved = decide(
        {"allow-ports": "2"} if flag else {},
        {"RTUNNEL_ALLOW_PORTS": "3"} if variable else {},
        {"allow_ports": 4} if key else {},
    )
    expected = (2, Rank.FLAG) if flag else (3, Rank.ENVIRONMENT) if variable else (4, Rank.FILE) if key else (1, 0)
    assert (resolved.values["allow-ports"], resolved.sources["allow-ports"].rank) == expected


def test_an_empty_variable_is_not_given() -> None:
    assert decide({}, {"RTUNNEL_ALLOW_PORTS": " "}, {"allow_ports": 4}).values["allow-ports"] == 4


def test_a_setting_may_have_another_key() -> None:
    assert decide(values={"tunnels": ["x"]}).values["tunnel"] == ["x"]
    assert SETTINGS[2].variable == "RTUNNEL_TUNNEL"


@pytest.mark.parametrize(
    ("flags", "environ", "values", "message"),
    [
        ({"allow-ports": "x"}, {}, {}, "flag --allow-ports: 'x' is not a whole number; write one from 1 to 99"),
        ({}, {"RTUNNEL_ALLOW_PORTS": "0"}, {}, "environment variable RTUNNEL_ALLOW_PORTS: 0 is out of range"),
        ({}, {}, {"allow_ports": True}, "x.yaml: key 'allow_ports': true is not a whole number"),
        ({}, {}, {"control_lsten": 1}, "x.yaml: unknown key 'control_lsten'; did you mean 'control_listen'?"),
        ({}, {}, {"tunnel": 1}, "x.yaml: unknown key 'tunnel'; did you mean 'tunnels'?"),
        ({}, {}, {"zzz": 1}, "x.yaml: unknown key 'zzz'"),
        (
            {},
            {"RTUNNEL_CONTROL_LISTN": ":1"},
            {},
            "environment variable RTUNNEL_CONTROL_LISTN: is unknown; did you mean 'RTUNNEL_CONTROL_LISTEN'?",
        ),
        ({}, {"RTUNNEL_CONFG": "x"}, {}, "RTUNNEL_CONFG: is unknown; did you mean 'RTUNNEL_CONFIG'?"),
    ],
)
def test_errors_name_source_and_key(
    flags: dict[str, object], environ: dict[str, str], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        decide(flags, environ, values)
    assert message in str(caught.value)


def test_a_wrong_value_that_is_overridden_does_no_harm() -> None:
    assert decide({"allow-ports": "2"}, {"RTUNNEL_ALLOW_PORTS": "x"}).values["allow-ports"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RTUNNEL_PKI_DIR", "/x"),
        ("RTUNNEL_SERVICE_HOST", "10.0.0.1"),
        ("RTUNNEL_SERVICE_PORT_CONTROL", "7000"),
        ("RTUNNEL_PORT", "tcp://10.0.0.1:7000"),
        ("RTUNNEL_PORT_7000_TCP_ADDR", "10.0.0.1"),
        ("RTUNNEL_ALLOW_PORT", "tcp://10.0.0.1:7000"),
        ("RTUNNEL_CONTROL_LISTN", ""),
        ("rtunnel_control_listn", "x"),
        ("OTHER_CONTROL_LISTN", "x"),
    ],
)
def test_other_variables_are_let_alone(name: str, value: str) -> None:
    decide({}, {name: value})


def test_variables_of_other_plugins_are_let_alone() -> None:
    with pytest.raises(ConfigError):
        decide({}, {"RTUNNEL_ALLOW_PORT": "x"})
    decide({}, {"RTUNNEL_ALLOW_PORT": "x"}, foreign=("RTUNNEL_ALLOW_PORT",))


def test_which_file(tmp_path: Path) -> None:
    one, two = f"{tmp_path}/one.yaml", f"{tmp_path}/two.yaml"
    for path, drain in ((one, 1), (two, 2)):
        Path(path).write_text(f"drain: {drain}")
    assert find_config_file({}, {}) is None
    assert find_config_file({}, {"RTUNNEL_CONFIG": ""}) is None
    from_environment = find_config_file({}, {"RTUNNEL_CONFIG": one})
    assert from_environment == ConfigFile(one, {"drain": 1})
    assert find_config_file({"config": two}, {"RTUNNEL_CONFIG": one}) == ConfigFile(two, {"drain": 2})
    with pytest.raises(ConfigError, match="flag --config: is empty; write the path of a YAML or JSON file"):
        find_config_file({"config": ""}, {})
