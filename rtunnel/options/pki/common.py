"""What the commands of ``rtunnel pki`` share: the directory, options of new certificates, and writing a bundle."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TextIO

from cryptography import x509
from twisted.python import usage

from rtunnel.coercions import choice, integer
from rtunnel.errors import ConfigError, PkiError
from rtunnel.options.verbs import Verb
from rtunnel.pki import bundle, files, operations
from rtunnel.pki.certificates import Algorithm
from rtunnel.pki.files import PRIVATE, Draft
from rtunnel.pki.locations import default_pki_dir
from rtunnel.pki.store import Store

#: A hundred years: more than any other program expects.
_MOST_DAYS = 36_500
STANDARD = "-"


class Command(Verb):
    """A command that works in a directory of certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.named_directory = ""
        self.arguments: list[str] = []

    def opt_dir(self, value: str) -> None:
        """The directory with the certificates, instead of $RTUNNEL_PKI_DIR, else /etc/rtunnel/pki for root, else
        rtunnel/pki in the user's configuration directory."""
        if not value:
            raise usage.UsageError("--dir is empty; name a directory")
        self.named_directory = value

    def parseArgs(self, *arguments: str) -> None:
        """Keep the arguments."""
        self.arguments = list(arguments)

    @property
    def store(self) -> Store:
        """The directory to work in."""
        return Store(Path(self.named_directory).absolute() if self.named_directory else default_pki_dir(os.environ))

    def command(self, *words: str) -> str:
        """Return another command for the same directory, ready to be typed."""
        directory = ["--dir", self.named_directory] if self.named_directory else []
        # Words in capitals are placeholders.
        return " ".join(
            word if word.isupper() else shlex.quote(word) for word in ("rtunnel", "pki", *words, *directory)
        )

    def only_argument(self, what: str) -> str:
        """Return the only argument.

        :raises usage.UsageError: there is none, or more.
        """
        if not self.arguments:
            raise usage.UsageError(f"{what} is missing")
        if len(self.arguments) > 1:
            raise usage.UsageError(f"{what} is given once; remove '{self.arguments[1]}'")
        return self.arguments[0]


class Issuing(Command):
    """A command that makes certificates."""

    def __init__(self) -> None:
        super().__init__()
        self.algorithm: Algorithm | None = None
        self.days: int | None = None

    def opt_algorithm(self, value: str) -> None:
        """The algorithm of new keys: ml-dsa-65, ml-dsa-44 or ml-dsa-87, which are post-quantum; or ecdsa-p256, ed25519
        or rsa-3072, which both ends only accept with --tls-allow-classical-certs. [default: ml-dsa-65, or as before]"""
        try:
            self.algorithm = Algorithm(choice(*Algorithm)(value))
        except ConfigError as error:
            raise usage.UsageError(f"--algorithm: {error}") from None

    def opt_days(self, value: str) -> None:
        """How long the certificate is valid; never longer than the CA. [default: 825, or 3650 for the CA]"""
        self.days = days("days", value)


class Carrying(Command):
    """A command that may write a bundle."""

    output = ""

    def opt_out(self, value: str) -> None:
        """The file to write, for that machine only; - is standard output, as in: rtunnel pki client laptop -o - | ssh
        laptop rtunnel pki import -"""
        self.output = value

    opt_o = opt_out

    def check_output(self) -> None:
        """Check that the bundle can be written, before anything else is done.

        :raises PkiError: it cannot.
        """
        if self.output == STANDARD and sys.stdout.isatty():
            raise PkiError("a private key does not belong on a terminal; name a file, or pipe it to where it belongs")
        if self.output != STANDARD and os.path.lexists(self.output):
            raise PkiError(f"{self.output} already exists, and is not overwritten; name another file")

    def write_bundle(self, name: str) -> None:
        """Write the bundle of a name, and print what to do with it."""
        made = operations.make_bundle(self.store, name)
        if self.output == STANDARD:
            sys.stdout.buffer.write(bundle.write(made))
            sys.stdout.buffer.flush()
            return
        # It may go to the directory of another user, who is to carry it.
        files.publish([Draft(Path(self.output), bundle.write(made), PRIVATE)], is_ours=False)
        say(f"{self.output} has everything that '{made.name}' needs, including its private key.")
        say(f"Next: carry it to the {made.kind}'s machine over a secure channel, and delete it here. There:")
        say(f"    rtunnel pki import {shlex.quote(Path(self.output).name)}")


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line for the operator."""
    (stream or sys.stdout).write(f"{line}\n")


def days(option: str, value: str) -> int:
    """Return a number of days.

    :raises usage.UsageError: it is not a number, or is out of range.
    """
    try:
        return integer(1, _MOST_DAYS)(value)
    except ConfigError as error:
        raise usage.UsageError(f"--{option}: {error}") from None


def group(name: str) -> int:
    """Return the number of a group.

    :raises usage.UsageError: there is no group of that name.
    """
    try:
        import grp

        return grp.getgrnam(name).gr_gid
    except (ImportError, KeyError):
        raise usage.UsageError(f"--group: this machine has no group '{name}'") from None


def until(certificate: x509.Certificate) -> str:
    """Return how long a certificate is valid, as text."""
    return f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
