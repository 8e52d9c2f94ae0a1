"""What is kept between two runs: the account, and for each host its certificate, the key, and failed attempts.

    account.json          the account's key, and its URL
    app.example.org.pem   the key and the certificate with its chain, in one file, so that they always fit
    app.example.org.wait  how many attempts have failed, and when the next may be made

Each CA has a directory of its own. Files are for this user only, and each is written whole or not at all.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from rtunnel.acme.renewal import Attempts
from rtunnel.errors import PkiError
from rtunnel.pki import files
from rtunnel.pki.files import Draft

#: The longest name that is the name of a file; longer ones are cut.
_LONGEST = 200


class State:
    """The files of one CA.

    :param directory: is made when something is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.account = directory / "account.json"

    def certificate(self, host: str) -> Path:
        """Return where the certificate and the key of a host are."""
        return self._of(host, ".pem")

    def _of(self, host: str, ending: str) -> Path:
        if len(host) > _LONGEST:
            host = f"{host[: _LONGEST - 33]}-{hashlib.sha256(host.encode('ascii')).hexdigest()[:32]}"
        return self.directory / (host + ending)

    def read(self, path: Path) -> bytes | None:
        """Return the content of one of the files; None: there is none.

        :raises PkiError: it cannot be read.
        """
        try:
            if not path.exists():
                return None
        except OSError as error:
            raise PkiError(f"{path} cannot be read: {error.strerror}") from error
        return files.read(path)

    def write(self, path: Path, content: bytes) -> None:
        """Write one of the files.

        :raises PkiError: the system refuses; the former content is still there.
        """
        files.make_directory(self.directory)
        files.publish([Draft(path, content, files.PRIVATE, replaces=True)])

    def read_attempts(self, host: str, now: float) -> Attempts:
        """Return what has become of attempts for *host*.

        :raises PkiError: the file cannot be read.
        """
        content = self.read(self._of(host, ".wait"))
        return Attempts() if content is None else Attempts.decode(content, now)

    def write_attempts(self, host: str, attempts: Attempts) -> None:
        """Keep what has become of attempts for *host*.

        :raises PkiError: the system refuses.
        """
        path = self._of(host, ".wait")
        if attempts.failures:
            self.write(path, attempts.encode())
        else:
            with suppress(FileNotFoundError):
                path.unlink()

    def put_aside(self, path: Path) -> None:
        """Rename a file that cannot be used, so that somebody may look at it."""
        with suppress(OSError):
            path.replace(path.with_name(path.name + ".bad"))
