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


class NotDone(RtunnelError):
    """A process has not done what it was asked to do. The message says why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
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
    found = _exchange(path, "GET", what, None, TIMEOUT)
    if found.get("version") != 1:
        raise NoAnswer(_other_version(path))
    return found


def tell(path: Path, action: str, asked: dict[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Let the process with this control socket do something, and return what it says about it.

    :param action: the name of the action.
    :param timeout: how many seconds it has.
    :raises NoAnswer: it does not answer, or may not be asked.
    :raises NotDone: it has not done it.
    """
    found = _exchange(path, "POST", f"/v1/{action}", json.dumps(asked).encode(), timeout)
    if found.get("ok") is True:
        return found
    if found.get("ok") is False and isinstance(found.get("error"), str):
        raise NotDone(found["error"])
    raise NoAnswer(_other_version(path))


def _other_version(path: Path) -> str:
    return f"the process at {path} is another version of rtunnel; use the 'rtunnel' that belongs to it"


def _exchange(path: Path, method: str, what: str, body: bytes | None, timeout: float) -> dict[str, Any]:
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, what, body, {} if body is None else {"Content-Type": "application/json"})
        answer = connection.getresponse().read(MOST_BYTES)
        found = json.loads(answer)
    except PermissionError as error:
        raise NoAnswer(f"{path} may not be asked by this user; try sudo, or the user that the service has") from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoAnswer(f"nobody answers at {path}: its process is gone") from error
    except TimeoutError as error:
        raise NoAnswer(f"the process at {path} does not answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"the process at {path} does not answer as rtunnel does: {error}") from error
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise NoAnswer(_other_version(path))
    return found
