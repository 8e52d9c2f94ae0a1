"""``rtunnel publish``: more tunnels of a running client."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from twisted.python import usage

from rtunnel.addresses import FILES
from rtunnel.config_file import no_duplicates
from rtunnel.control.ask import NotDone, tell
from rtunnel.errors import ConfigError
from rtunnel.options.change.process import pick, process_name
from rtunnel.options.verbs import Verb

SERVICES = ("rtunnel-client",)
#: Seconds that the client has to answer: as many as it gives the server, and some more.
TIMEOUT = 20.0


class Options(Verb):
    """Publish more services by a client that is running, without touching those there are. A tunnel is written as for
    --publish, or as a JSON object with the keys that an entry of the settings' file has. It is there until the client
    ends or 'rtunnel unpublish' takes it away; with --keep also after that."""

    synopsis = "[options] TUNNEL..."
    examples = (
        "rtunnel publish tcp:8080=3000",
        "rtunnel publish --keep http:app.example.org=3000 udp:53=127.0.0.1:53",
        """rtunnel publish '{"publish": "tcp:2222=22", "allow": ["192.0.2.0/24"]}'""",
    )

    def __init__(self) -> None:
        super().__init__()
        self.keeps = False
        self.process = ""
        self.tunnels: list[object] = []

    def opt_keep(self) -> None:
        """Publish it again whenever this client starts."""
        self.keeps = True

    def opt_process(self, value: str) -> None:
        """The process id of the client, if several are running."""
        self.process = process_name(value)

    def parseArgs(self, *arguments: str) -> None:
        """Take the tunnels.

        :raises usage.UsageError: there are none, or one is no JSON.
        """
        if not arguments:
            raise usage.UsageError("name a tunnel; write for example rtunnel publish tcp:8080=3000")
        self.tunnels = [_entry(each.strip()) for each in arguments]

    def run(self) -> None:
        done = tell(pick(self.process, SERVICES), "publish", {"tunnels": self.tunnels, "keep": self.keeps}, TIMEOUT)
        for each in done["tunnels"]:
            name = each["tunnel"]
            if each["public"]:
                sys.stdout.write(f"{name} is published: {each['public']} leads to {each['service']}\n")
            elif not each["refused"] and done["connected"]:
                sys.stdout.write(f"{name}: the server has not answered yet; it is published as soon as it does\n")
            elif not each["refused"]:
                sys.stdout.write(f"{name}: there is no link to the server; it is published as soon as there is one\n")
        refused = [
            f"{each['tunnel']} is refused by the server: {each['refused']}"
            for each in done["tunnels"]
            if each["refused"]
        ]
        if refused:
            sys.stdout.flush()
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise NotDone(refused[0] + more)


def _entry(written: str) -> object:
    """Return what the client is sent, with paths that mean the same there."""
    if not written.startswith("{"):
        return _absolute(written)
    try:
        entry = json.loads(written, object_pairs_hook=no_duplicates)
    except ConfigError as error:
        raise usage.UsageError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise usage.UsageError(f"this is not JSON: {written}") from error
    for key in ("publish", "local"):
        if isinstance(entry.get(key), str):
            entry[key] = _absolute(entry[key])
    if isinstance(entry.get("tls"), dict):
        paths = entry["tls"].items()
        entry["tls"] = {key: str(Path(path).absolute()) if isinstance(path, str) else path for key, path in paths}
    return entry


def _absolute(written: str) -> str:
    """Return a tunnel whose directory or UNIX socket, if it has one, is named by an absolute path."""
    public, equals, local = written.partition("=")
    for kind in (FILES, "unix:"):
        path = local.removeprefix(kind)
        if local != path and path and not path.startswith(("/", "~")):
            return f"{public}{equals}{kind}{Path(path).absolute()}"
    return written
