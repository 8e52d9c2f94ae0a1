"""Why connecting or listening failed, in the words of an operator. Twisted's own words are for programmers.

A reason is a few words without a full stop, which a log line puts after a colon or in brackets.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
    TimeoutError as ConnectTimeout,
)
from twisted.python.failure import Failure

_TIMEOUT = "no answer in time"
_LOOKUP = "its name cannot be resolved"
#: What to look at, by the reason.
_LOOK_AT = {
    _TIMEOUT: "is the port open in all firewalls on the way, and the address right?",
    _LOOKUP: "is it right, and does the resolver of this machine work?",
    "connection refused": "is it running there, and is the port right?",
    "network is unreachable": "does this machine have a network, and a route to that address?",
    "no route to host": "is that machine up, and the address right?",
}
#: What to do when the system does not let this process listen on a port.
LOW_PORTS = (
    "low ports need the capability CAP_NET_BIND_SERVICE, in a systemd unit AmbientCapabilities=CAP_NET_BIND_SERVICE"
)
#: How many addresses of this machine an error lists.
_MOST_ADDRESSES = 8


def reason_of(error: BaseException | Failure) -> str:
    """Return why a connection was not made, or was lost: ``connection refused``."""
    if isinstance(error, Failure):
        error = error.value if isinstance(error.value, BaseException) else ConnectionLost()
    if isinstance(error, ConnectTimeout):
        # Ours may say what took so long; Twisted's have no text.
        return str(next(iter(error.args), "")) or _TIMEOUT
    if isinstance(error, DNSLookupError | socket.gaierror):
        return _LOOKUP
    if isinstance(error, ConnectError):
        if isinstance(error.osError, int):
            return _system_text(error.osError)
        if isinstance(error.args[0], Failure):
            # Twisted's reactor has seen that the attempt failed, but has not asked the system why.
            return "no connection is possible"
    if isinstance(error, ConnectionDone):
        return "the other end closed the connection"
    if type(error) is ConnectionLost:
        return "the connection was reset or timed out"
    if isinstance(error, OSError) and error.errno is not None:
        return _system_text(error.errno)
    return str(error).rstrip(".") or type(error).__name__


def _system_text(number: int) -> str:
    if number == errno.ETIMEDOUT:
        return _TIMEOUT
    text = os.strerror(number)
    return text[0].lower() + text[1:]


def reason_and_advice(error: BaseException | Failure) -> str:
    """Return why another machine cannot be reached, and what to look at: ``no route to host (is ...?)``."""
    text = reason_of(error)
    return f"{text} ({_LOOK_AT[text]})" if text in _LOOK_AT else text


def why_not_listening(error: BaseException | None) -> str:
    """Return the system's own text for why ``listen`` failed."""
    found = _os_error(error)
    return (found.strerror or str(found)) if found is not None else str(error)


def cannot_listen(address: object, what: str, option: str, error: BaseException | None) -> str:
    """Return the line about a socket that cannot be bound, with the remedy.

    :param address: the operator's setting.
    :param what: what the socket is for, such as ``control port``.
    :param option: the setting, such as ``--control-listen``.
    """
    setting = str(address)
    path = setting.split(":")[1] if setting.startswith("unix:") else ""
    remedy = _unix_remedy(path, option, error) if path else _remedy(option, error)
    return f"cannot listen on {address} ({what}): {why_not_listening(error)}; {remedy}"


def _os_error(error: BaseException | None) -> OSError | None:
    if isinstance(error, CannotListenError):
        error = error.socketError
    return error if isinstance(error, OSError) else None


def _remedy(option: str, error: BaseException | None) -> str:
    found = _os_error(error)
    match found.errno if found is not None else None:
        case errno.EADDRINUSE:
            return f"stop what holds it, or choose another address with {option}"
        case errno.EACCES:
            return f"{LOW_PORTS}; or choose a port from 1024 on with {option}"
        case errno.EADDRNOTAVAIL:
            return f"this machine has {_addresses()}; choose one of these with {option}"
    return f"choose another address with {option}"


def _unix_remedy(path: str, option: str, error: BaseException | None) -> str:
    choose = f"choose another path with {option}"
    lock = f"{path}.lock"
    found = _os_error(error)
    match found.errno if found is not None else None:
        case errno.EACCES:
            return f"let this user write to its directory, or {choose}"
        case errno.ENOENT:
            return f"make its directory, or {choose}"
        # Twisted has no OSError for a lock that is held, and EPERM where another user has a process of that ID.
        case None | errno.EPERM if os.path.lexists(lock):
            try:
                owner = f"process {Path(lock).readlink()}"
            except OSError:
                owner = "another process"
            return f"{owner} holds {lock}: stop it, or {choose}; if it is another program, remove that file"
        case errno.EADDRINUSE:
            return f"stop what listens there, or remove the file; or {choose}"
    return choose


def _addresses() -> str:
    import ifaddr

    found = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    more = len(found) - _MOST_ADDRESSES
    return ", ".join(found[:_MOST_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
