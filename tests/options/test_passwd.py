"""``rtunnel passwd``: from a pipe, and from a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from rtunnel.access.passwords import MOST_PASSWORD, verify
from rtunnel.access.rules import read_rules
from tests.patience import PATIENCE
from tests.process.commands import run_rtunnel
from tests.process.harness import clean_environment

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    return run_rtunnel("passwd", *arguments, env={"COLUMNS": "100"}, stdin=stdin)


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        (b"wonderland", "wonderland"),
        (b"wonderland\n", "wonderland"),
        (b"wonderland\r\nmore\n", "wonderland"),
        (b" spaces are kept \n", " spaces are kept "),
        ("p\u00e4ss\u2603\n".encode(), "p\u00e4ss\u2603"),
        (b"x" * MOST_PASSWORD + b"\r\n", "x" * MOST_PASSWORD),
    ],
)
def test_from_a_pipe(stdin: bytes, password: str) -> None:
    code, out, err = run("alice", stdin=stdin)
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    ((name, hashed),) = read_rules({"auth": out}).users
    assert name == "alice"
    assert verify(password.encode(), hashed)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([], b"x", "name the user, as in 'rtunnel passwd alice'"),
        (["alice", "secret"], b"x", "one user at a time, and no password: it is asked for"),
        (["a:b"], b"x", "'a:b' is not the name of a user, which has 1 to 64 printable characters, no colon, and"),
        ([""], b"x", "'' is not the name of a user"),
        (["alice", "--pasword"], b"x", "option --pasword not recognized"),
        (["alice"], b"", "the password is empty"),
        (["alice"], b"\nsecret\n", "the password is empty"),
        (["alice"], b"\xff\xfe\n", "the password is not UTF-8 text, as browsers send it"),
        (["alice"], b"a\tb\n", "the password has a control character, which nobody can type into a browser"),
        (["alice"], b"x" * (MOST_PASSWORD + 1), "the password has 1,025 bytes, and 1,024 is the most"),
        (["alice"], b"x" * 1_000_000, "bytes, and 1,024 is the most"),
    ],
)
def test_mistakes(arguments: list[str], stdin: bytes, message: str) -> None:
    code, out, err = run(*arguments, stdin=stdin)
    assert (code, out) == (1, "")
    assert err.startswith("rtunnel passwd: ")
    assert message in err
    assert err.count("\n") == 1
    assert "secret" not in err


def test_help() -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "Usage: rtunnel passwd USER\n" in out
    assert "asked for twice" in out


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self) -> None:
        take = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        call = "from rtunnel.options.command import main; sys.exit(main(['passwd', 'alice']))"
        self.fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{take}; {call}"],
            env=clean_environment({"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = b""

    def read(self) -> bool:
        """Read on; return whether there was more."""
        try:
            data = os.read(self.fd, 4096)
        except OSError:  # The other side is closed.
            data = b""
        self.seen += data
        return bool(data)

    def type(self, line: bytes, prompt: bytes) -> None:
        while prompt not in self.seen:
            assert self.read(), self.seen
        os.write(self.fd, line)

    def end(self) -> tuple[int, str]:
        """Return the exit code, and all that was seen."""
        while self.read():
            pass
        code = self.process.wait(PATIENCE)
        os.close(self.fd)
        return code, self.seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("typed", "code", "end"),
    [
        ((b"wonderland\n", b"wonderland\n"), 0, ""),
        ((b"wonderland\n", b"wonderlant\n"), 1, "rtunnel passwd: the two passwords are not the same; start again\n"),
        ((b"\n", b"\n"), 1, "rtunnel passwd: the password is empty\n"),
        ((b"\x04",), 1, "rtunnel passwd: no password was given\n"),
        ((b"wonderland\n", b"\x03"), 130, "\n"),
    ],
)
def test_on_a_terminal(typed: tuple[bytes, ...], code: int, end: str) -> None:
    terminal = Terminal()
    for prompt, line in zip((b"Password of alice: ", b"The same again: "), typed, strict=False):
        terminal.type(line, prompt)
    found, seen = terminal.end()
    assert found == code
    assert "wonderlan" not in seen
    assert seen.endswith(end)
    if not code:
        ((_, hashed),) = read_rules({"auth": seen.splitlines()[-1]}).users
        assert verify(b"wonderland", hashed)
