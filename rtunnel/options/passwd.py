"""``rtunnel passwd``: the hash of a visitor's password, for the rules of a tunnel."""

from __future__ import annotations

import getpass
import sys

from twisted.python import usage

from rtunnel.access.passwords import MOST_PASSWORD, check_user, make_hash
from rtunnel.errors import RtunnelError
from rtunnel.options.verbs import Verb


class PasswordError(RtunnelError):
    """There is no password, or none that can be used. The message says why."""


class Options(Verb):
    """Print what the key 'auth' of a tunnel takes: the name of a user, and the hash of the password. The password is
    asked for twice; from a pipe, it is the first line. It is stored nowhere."""

    synopsis = "USER"
    examples = ("rtunnel passwd alice", "printf '%s\\n' \"$PASSWORD\" | rtunnel passwd alice")

    def __init__(self) -> None:
        super().__init__()
        self.user = ""

    def parseArgs(self, *arguments: str) -> None:
        """Take the name of the user.

        :raises usage.UsageError: there is none, it is none, or there is more.
        """
        if not arguments:
            raise usage.UsageError("name the user, as in 'rtunnel passwd alice'")
        self.user, *others = arguments
        if others:
            raise usage.UsageError("one user at a time, and no password: it is asked for")
        try:
            check_user(self.user)
        except ValueError as error:
            raise usage.UsageError(str(error)) from None

    def run(self) -> None:
        password = _ask(self.user) if sys.stdin is not None and sys.stdin.isatty() else _first_line()
        if not password:
            raise PasswordError("the password is empty")
        if len(password) > MOST_PASSWORD:
            raise PasswordError(f"the password has {len(password):,} bytes, and {MOST_PASSWORD:,} is the most")
        try:
            is_printable = password.decode("utf-8").isprintable()
        except UnicodeDecodeError:
            raise PasswordError("the password is not UTF-8 text, as browsers send it") from None
        if not is_printable:
            raise PasswordError("the password has a control character, which nobody can type into a browser")
        sys.stdout.write(f"{self.user}:{make_hash(password)}\n")


def _ask(user: str) -> bytes:
    try:
        first = getpass.getpass(f"Password of {user}: ")
        second = getpass.getpass("The same again: ")
    except EOFError:
        sys.stderr.write("\n")
        raise PasswordError("no password was given") from None
    if first != second:
        raise PasswordError("the two passwords are not the same; start again")
    return first.encode("utf-8", "surrogateescape")


def _first_line() -> bytes:
    # One byte more than the longest password, and the end of the line.
    line = sys.stdin.buffer.readline(MOST_PASSWORD + 3) if sys.stdin is not None else b""
    return line.removesuffix(b"\n").removesuffix(b"\r")
