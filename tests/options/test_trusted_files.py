"""Files that decide what a process does are read if no other user can have written them, and if they have an end."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtunnel import trusted_files
from rtunnel.access.rights import read_clients
from rtunnel.config_file import read_config_file
from rtunnel.errors import MAX_TEXT, ConfigError, PeerError, PkiError, StartupError, one_line
from rtunnel.options.command import main
from rtunnel.tls.credentials import read_certificates, read_private_key
from rtunnel.tls.web_client import client_context
from rtunnel.trusted_files import MAX_SIZE, read_trusted
from tests.needs import need_root

SOMEBODY = 4242

READERS: dict[str, Callable[[Path], object]] = {
    "configuration": lambda path: read_config_file(str(path)),
    "clients": read_clients,
    "certificate": lambda path: read_certificates(path, "fix"),
    "key": lambda path: read_private_key(path, "fix"),
    "CA": client_context,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a file"
    made.write_bytes(b"x")
    return made


@pytest.mark.parametrize("reader", READERS)
def test_a_file_for_everybody(reader: str, path: Path) -> None:
    path.chmod(0o646)
    with pytest.raises(ConfigError) as caught:
        READERS[reader](path)
    assert str(caught.value) == f"every user of this machine may change {path}; run: chmod o-w '{path}'"


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_user(reader: str, path: Path) -> None:
    need_root()
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(ConfigError) as caught:
        READERS[reader](path)
    assert str(caught.value) == (
        f"{path} belongs to the user {SOMEBODY}, who could change what this process does; run: chown root '{path}', "
        f"or run this as {SOMEBODY}"
    )


def test_a_file_of_root_or_of_this_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert read_trusted(path) == b"x"
    os.chown(path, SOMEBODY, -1)
    assert read_trusted(path) == b"x"
    os.chown(path, SOMEBODY + 1, -1)
    with pytest.raises(ConfigError, match=f"; as root, run: chown {SOMEBODY} "):
        read_trusted(path)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="; as root, run: chmod o-w "):
        read_trusted(path)
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(ConfigError, match="; run: chmod o-w "):
        read_trusted(path)


def test_a_file_of_a_group(path: Path) -> None:
    """As in many checkouts."""
    path.chmod(0o664)
    assert read_trusted(path) == b"x"


def test_root_trusts_who_called_sudo(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    os.chown(path, SOMEBODY, -1)
    monkeypatch.setenv("SUDO_UID", str(SOMEBODY))
    assert read_trusted(path) == b"x"
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    with pytest.raises(ConfigError, match="belongs to the user"):
        read_trusted(path)


def test_the_user_of_twistd_is_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    monkeypatch.setattr(trusted_files, "_also", set())
    os.chown(path, SOMEBODY, -1)
    trusted_files.trust(SOMEBODY)
    assert read_trusted(path) == b"x"


def test_a_link_counts_as_what_it_leads_to(path: Path, tmp_path: Path) -> None:
    """As in a volume of Kubernetes."""
    (tmp_path / "..data").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(Path("..data") / path.name)
    assert read_trusted(tmp_path / "link") == b"x"
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod o-w"):
        read_trusted(tmp_path / "link")


def test_a_device() -> None:
    assert read_config_file("/dev/null").values == {}


def test_a_pipe_of_the_shell() -> None:
    """``--config <(command)``, which takes its time."""
    reader, writer = os.pipe()

    def write() -> None:
        for piece in (b"drain: ", b"1"):
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Thread(target=write)
    try:
        thread.start()
        assert read_config_file(f"/dev/fd/{reader}").values == {"drain": 1}
    finally:
        thread.join()
        os.close(reader)


@pytest.mark.parametrize("says", [b"", b"drain: 1"])
def test_a_pipe_without_an_end(says: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_files, "PATIENCE", 0.05)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR) if says else None
    try:
        if writer is not None:
            os.write(writer, says)
        with pytest.raises(ConfigError, match="cannot be read: it is a pipe that has not come to its end within"):
            read_config_file(str(path))
    finally:
        if writer is not None:
            os.close(writer)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    read: list[int] = []

    def note(_: int, count: int) -> bytes:
        read.append(count)
        return b""

    monkeypatch.setattr(os, "read", note)
    with pytest.raises(ConfigError) as caught:
        read_config_file(str(path))
    assert (str(caught.value), read) == (f"{path}: cannot be read: it is larger than 16 MB", [])


def test_a_device_without_an_end() -> None:
    with pytest.raises(OSError, match="larger than 16 MB") as caught:
        read_trusted("/dev/zero")
    assert caught.value.errno == errno.EFBIG


def test_a_socket(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(str(tmp_path / "socket"))
        with pytest.raises(ConfigError, match="socket: cannot be read: "):
            read_config_file(str(tmp_path / "socket"))


@pytest.mark.parametrize("option", ["--config", "--clients"])
def test_a_command_says_it_in_one_line(option: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.chmod(0o666)
    assert main(["server", option, str(path), "--control-listen", "127.0.0.1:0"]) == 1
    assert capsys.readouterr().err == (
        f"rtunnel server: every user of this machine may change {path}; run: chmod o-w '{path}'\n"
    )


@pytest.mark.parametrize("text", ["", "short", "x" * 1000, "\n" * 1000, "\ud800" * 5000, "x\n" * 1_000_000])
def test_a_line_of_bounded_length(text: str) -> None:
    line = one_line(text)
    assert len(line) <= MAX_TEXT
    assert line.isprintable()
    assert (line == text) == (len(text) <= MAX_TEXT and text.isprintable())


@pytest.mark.parametrize("error", [ConfigError, PkiError, PeerError, StartupError])
def test_the_text_of_any_error(error: type[Exception]) -> None:
    assert str(error("begin" + "\n" * 1_000_000 + "end")) == one_line("begin" + "\n" * 1_000_000 + "end")


@pytest.mark.parametrize("words", [["server", "x" * 100_000], ["server", "--" + "x" * 100_000], ["x" * 100_000]])
def test_a_command_line_is_quoted_in_part(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert len(capsys.readouterr().err) < 1100


def test_an_error_is_one_line_whatever_it_quotes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('drain: "' + "\\e[31m" * 200_000 + '"\n')
    assert main(["server", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert len(error) < 1100
    assert error.startswith(f"rtunnel server: {path}: line 1: key 'drain': '\\x1b[31m")
    assert error.endswith("is not a time; write seconds such as 10 or 1.5, or 500ms, 2m, 1h\n")
    assert error[:-1].isprintable()
