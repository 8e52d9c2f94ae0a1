"""Ask running processes by their control sockets: the other end of :mod:`rtunnel.control.service`."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from rtunnel.errors import RtunnelError

#: Seconds that a process has to answer.
TIMEOUT = 5.0
#: The longest answer that is read, in bytes: that of a server with thousands of tunnels has a few million.
MOST_BYTES = 256 * 1024 * 1024


class NoAnswer(RtunnelError):
    """A process does not answer as it should. The message says which, and why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the UNIX socket in place of the host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, what: str = "/v1/status") -> dict[str, Any]:
    """Return what the process with this control socket answers.

    :raises NoAnswer: it does not, or may not be asked.
    """
    connection = _UnixConnection(path)
    try:
        connection.request("GET", what)
        answer = connection.getresponse().read(MOST_BYTES)
        found = json.loads(answer)
    except PermissionError as error:
        raise NoAnswer(f"{path} may not be asked by this user; try sudo, or the user that the service has") from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoAnswer(f"nobody answers at {path}: its process is gone") from error
    except TimeoutError as error:
        raise NoAnswer(f"the process at {path} does not answer within {TIMEOUT:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"the process at {path} does not answer as rtunnel does: {error}") from error
    finally:
        connection.close()
    if not isinstance(found, dict) or found.get("version") != 1:
        raise NoAnswer(f"the process at {path} is another version of rtunnel; use the 'rtunnel' that belongs to it")
    return found
