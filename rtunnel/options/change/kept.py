"""What ``rtunnel publish --keep`` keeps: a file for each client, which is read when it starts.

A client is known by its server and its settings' file. The file of those without one is shared by all clients of the
same server and the same state directory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rtunnel.errors import ConfigError, PkiError
from rtunnel.pki import files
from rtunnel.pki.files import Draft
from rtunnel.trusted_files import read_trusted

#: The version of the file.
VERSION = 1


class KeptTunnels:
    """The file.

    :param directory: where it is; see :func:`~rtunnel.acme.settings.default_state_dir`.
    :param server: the client's server, as the operator writes it.
    :param config: the path of the settings' file; empty: there is none.
    """

    def __init__(self, directory: Path, server: str, config: str) -> None:
        name = re.sub("[^A-Za-z0-9.-]+", "_", server)[:100]
        if config:
            name += "-" + hashlib.sha256(str(Path(config).absolute()).encode()).hexdigest()[:8]
        self.path = directory.absolute() / f"published-{name}.json"

    def read(self) -> list[object]:
        """Return what is kept, as the operator wrote it.

        :raises ConfigError: the file cannot be used, or another user may have written it.
        """
        try:
            found = json.loads(read_trusted(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self.path} is not what 'rtunnel publish --keep' writes; remove it") from error
        tunnels = found.get("tunnels") if isinstance(found, dict) and found.get("version") == VERSION else None
        if not isinstance(tunnels, list):
            raise ConfigError(f"{self.path} is not what this version of 'rtunnel publish --keep' writes; remove it")
        return tunnels

    def write(self, entries: Sequence[object]) -> None:
        """Keep these, and no others.

        :raises ConfigError: that cannot be done.
        """
        try:
            if entries:
                content = json.dumps({"version": VERSION, "tunnels": list(entries)}, indent=2)
                files.make_directory(self.path.parent)
                files.publish([Draft(self.path, content.encode() + b"\n", files.PRIVATE, replaces=True)])
            else:
                with suppress(FileNotFoundError):
                    self.path.unlink()
        except (PkiError, OSError) as error:
            raise ConfigError(f"this cannot be kept across restarts: {error}") from error
