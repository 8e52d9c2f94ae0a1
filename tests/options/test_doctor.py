"""Which end ``rtunnel doctor`` examines, and its options."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.errors import ConfigError
from rtunnel.options.doctor.command import Options, which_end


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        ("--server a:1", "client"),
        ("--server=a:1 --tls", "client"),
        ("--tls --server a:1", "client"),
        ("--signal ws://a", "connect"),
        ("--signal=ws://a --forward :80=web", "connect"),
        ("--signal=ws://a --remote :80", "host"),
        ("--service=web=:80 --signal=ws://a", "host"),
    ],
)
def test_options_show_the_end(arguments: str, end: str) -> None:
    assert which_end(arguments.split(), {}) == end


@pytest.mark.parametrize(
    ("content", "more", "end"),
    [
        ("server: a:7000", "", "client"),
        ("signal: ws://a", "", "connect"),
        ("signal: ws://a\nhost: {id: x, remote: ':80'}", "", "host"),
        ("signal: ws://a\nhost: {id: x}\nclient: {id: x}", "", "connect"),
        ("signal: ws://a\nhost: {id: x}\nclient: {id: x}", "--remote=:80", "host"),
        # The file of the Go program, which has the same section twice.
        ("signal: ws://a\nserver: {addr: ':8080'}\nserver: {addr: ':8080'}", "", "connect"),
    ],
)
def test_the_file_shows_the_end(content: str, more: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(content)
    assert which_end([f"--config={file}", *more.split()], {}) == end
    assert which_end(more.split(), {"RTUNNEL_CONFIG": str(file)}) == end


def test_the_environment_shows_the_end() -> None:
    assert which_end([], {"RTUNNEL_SERVER": "a:1"}) == "client"
    assert which_end([], {"RTUNNEL_SIGNAL": "ws://a"}) == "connect"
    assert which_end(["--json"], {"WTT_SIGNAL": "ws://a"}) == "connect"


def test_nothing_shows_the_end(tmp_path: Path) -> None:
    with pytest.raises(usage.UsageError, match="name what to examine: --server HOST:PORT"):
        which_end(["--json"], {})
    with pytest.raises(ConfigError, match="missing"):
        which_end(["--config", str(tmp_path / "missing.yaml")], {})
    # A directory, an empty file and a list are no settings either.
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    for path in (tmp_path, file):
        with pytest.raises(ConfigError):
            which_end(["--config", str(path)], {})


def test_tunnels_are_optional_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RTUNNEL_CONFIG", raising=False)

    def parse(*arguments: str) -> Options:
        options = Options()
        options.parseOptions(["--server=127.0.0.1:7000", *arguments])
        return options

    assert parse().subOptions.settings.tunnels == ()  # type: ignore[attr-defined]
    [tunnel] = parse("--tunnel=8080:80").subOptions.settings.tunnels  # type: ignore[attr-defined]
    assert tunnel.remote_port == 8080
    with pytest.raises(usage.UsageError, match="has no effect without a local service"):
        parse("--remote-port=80")
    with pytest.raises(usage.UsageError, match="would travel to"):
        Options().parseOptions(["--server=192.0.2.1:7000", "--token=a-long-token"])
