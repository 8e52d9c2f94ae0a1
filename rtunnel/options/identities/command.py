"""``rtunnel id``: the fingerprints of this machine's ends of the WebRTC tunnel."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import ClassVar

from twisted.python import usage

from rtunnel.access.identities import FOLDER, load_identity
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.acme.settings import default_state_dir
from rtunnel.coercions import path
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.options.verbs import Verb
from rtunnel.tls.hedge.schemes import SCHEMES

ENDS = ("host", "client")


class Options(Verb):
    """Print the fingerprints by which others know this machine: as the host of a WebRTC tunnel, and as a client. An
    identity that does not exist yet is made. Read the fingerprint to the other person, or compare it with what a log
    shows there. A client that is told that of a host takes it with --host-key; a host has those of its clients in the
    file authorized_clients. With --second a new identity has two keys of different mathematics, both of which it has to
    prove; that needs liboqs at both ends."""

    synopsis = "[options] [host|client]"
    examples = (
        "rtunnel id",
        "rtunnel id client",
        "rtunnel id host --second Falcon-1024",
        "sudo -u rtunnel rtunnel id host --state-dir /var/lib/rtunnel",
        "rtunnel id --json | jq -r .host.fingerprint",
    )

    #: For completion: the values of options.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"second": tuple(SCHEMES)}

    def __init__(self) -> None:
        super().__init__()
        self.as_json = False
        self.state_dir: Path | None = None
        self.second: str | None = None
        self.ends: tuple[str, ...] = ENDS

    def opt_json(self) -> None:
        """Print JSON: for each end its fingerprint, the whole SHA-256, the kinds of its keys, its file, and whether it
        is new."""
        self.as_json = True

    def opt_second(self, value: str) -> None:
        """Make an identity that does not exist yet with a second key beside that of ML-DSA-65: Falcon-1024 or MAYO-5.
        One that exists without it stays as it is, and a line says what to do."""
        if value not in SCHEMES:
            hint = suggestion(value, tuple(SCHEMES)) or f"; write {' or '.join(SCHEMES)}"
            raise usage.UsageError(f"--second: '{value}' is no kind of second key{hint}")
        self.second = value

    def opt_state_dir(self, value: str) -> None:
        """The directory in which the identities are, or are made, instead of $RTUNNEL_STATE_DIR, else
        $STATE_DIRECTORY, else ~/.local/state/rtunnel."""
        try:
            self.state_dir = path(value)
        except ConfigError as error:
            raise usage.UsageError(f"--state-dir: {error}") from None

    def parseArgs(self, *arguments: str) -> None:
        """Take the end that is meant, if it is only one.

        :raises usage.UsageError: it is none, or there are several.
        """
        if not arguments:
            return
        name, *others = arguments
        if name not in ENDS or others:
            wrong = others[0] if name in ENDS else name
            hint = suggestion(wrong, ENDS) or "; write host, client, or nothing for both"
            raise usage.UsageError(f"'{wrong}' is too much{hint}" if others else f"'{wrong}' is not an end{hint}")
        self.ends = (name,)

    def run(self) -> None:
        named = os.environ.get("RTUNNEL_STATE_DIR", "")
        state = self.state_dir or (path(named) if named.strip() else default_state_dir(os.environ))
        files = {end: state / FOLDER / f"{end}.pem" for end in self.ends}
        found = {}
        # Those that exist come first, so that none is made if one of them has not what is wanted.
        for end in sorted(files, key=lambda each: not files[each].exists()):
            file = files[end]
            is_new = not file.exists()
            identity = load_identity(file, f"rtunnel {end}", self.second)
            found[end] = {
                "fingerprint": show_fingerprint(identity.fingerprint),
                "sha256": identity.fingerprint,
                "signature": identity.signature,
                "file": str(file),
                "new": is_new,
            }
        if self.as_json:
            sys.stdout.write(json.dumps({end: found[end] for end in self.ends}, indent=2) + "\n")
            return
        for end in self.ends:
            each = found[end]
            notes = [str(each["signature"])] if "+" in str(each["signature"]) else []
            notes += [f"new; its key is in {each['file']}"] if each["new"] else []
            note = f"   ({'; '.join(notes)})" if notes else ""
            sys.stdout.write(f"{f'{end}:':7} {each['fingerprint']}{note}\n")
