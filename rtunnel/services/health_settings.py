"""How the health of a local service is checked: the keys of an entry that begin with ``health-``.

::

    health-check: tcp                     # it accepts a connection
    health-check: /healthz                # it answers GET /healthz ...
    health-check: http://app/healthz      # ... with this name in the field Host
    health-status: 200-399                # with one of these statuses; also a list
    health-interval: 10s                  # from one check to the next, give or take a tenth
    health-timeout: 3s                    # for all of one check
    health-fall: 3                        # failures in a row after which it is taken out
    health-rise: 2                        # checks in a row that it passes before it is put back
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rtunnel.coercions import integer, joined, seconds, show_seconds, shown, text
from rtunnel.errors import ConfigError
from rtunnel.host_names import WILDCARD

#: The keys, as :func:`read_health` wants them.
KEYS = ("health_check", "health_status", "health_interval", "health_timeout", "health_fall", "health_rise")
#: Seconds.
SHORTEST_INTERVAL = 0.1
#: Checks in a row.
MOST_IN_A_ROW = 100

_CHECKS = "write tcp, a path such as /healthz, or http://NAME/healthz"
_PATH = re.compile(r"/[!-\"$-~]{0,999}")
_URL = re.compile(r"http://([A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?)(/.*)?")
_STATUS = re.compile(r"([2-5][0-9][0-9])(?:-([2-5][0-9][0-9]))?")


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How one service is checked. Times are in seconds.

    :ivar path: what is asked for with GET; empty: the service has to accept a connection, and no more.
    :ivar host: the field Host of that; empty: the service's own address.
    :ivar statuses: those of a service that is well: ranges, with both ends.
    :ivar interval: time from the beginning of one check to that of the next.
    :ivar timeout: time that a whole check may take.
    :ivar fall: failures in a row after which the service is taken out.
    :ivar rise: checks in a row that it has to pass before it is put back.
    """

    path: str = ""
    host: str = ""
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    interval: float = 10.0
    timeout: float = 3.0
    fall: int = 3
    rise: int = 2


def read_health(written: Mapping[str, object], protocol: str, host: str = "") -> HealthSettings | None:
    """Read those of :data:`KEYS` that an entry has; None: it has none.

    :param protocol: the tunnel's.
    :param host: its host name, if it is for one.
    :raises ConfigError: a value is wrong, or not for this tunnel; the message names the key.
    """
    if not written:
        return None
    if "health_check" not in written:
        raise _error(next(iter(written)), "has no effect without a check; add health-check: tcp")
    if protocol == "udp":
        raise _error("health_check", "is not for UDP, where a service accepts no connections; leave it out")
    found: dict[str, Any] = {}
    for key, value in written.items():
        try:
            found |= _READERS[key](value)
        except ConfigError as error:
            raise _error(key, str(error)) from None
    if not found["path"] and "health_status" in written:
        raise _error("health_status", "is for a check by HTTP; write health-check: /healthz, or leave it out")
    if found["path"] and not found["host"]:
        if host.startswith(WILDCARD):
            example = f"http://www{host[1:]}{found['path']}"
            raise _error("health_check", f"does not say for which name of {host} it asks; write for example {example}")
        found["host"] = host
    health = HealthSettings(**found)
    if "health_timeout" not in written:
        health = HealthSettings(**found | {"timeout": min(health.timeout, health.interval)})
    if health.timeout > health.interval:
        interval = show_seconds(health.interval)
        raise _error(
            "health_timeout", f"is longer than health-interval; write at most {interval}, or a longer interval"
        )
    return health


def _error(key: str, message: str) -> ConfigError:
    return ConfigError(message).within(f"key '{key}': ", key)


def _check(value: object) -> dict[str, object]:
    written = text(value)
    if written == "tcp":
        return {"path": "", "host": ""}
    url = _URL.fullmatch(written)
    host, path = (url[1], url[2] or "/") if url is not None else ("", written)
    if not _PATH.fullmatch(path):
        raise ConfigError(f"{shown(value)} is not a check; {_CHECKS}")
    return {"path": path, "host": host}


def _statuses(value: object) -> dict[str, object]:
    ranges = []
    for part in joined(value).split(","):
        match = _STATUS.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"{shown(part.strip())} is not an HTTP status; write 200, 200-299, or a list of these")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise ConfigError(f"{shown(part.strip())} ends before it begins; write {high}-{low}")
        ranges.append((low, high))
    return {"statuses": tuple(ranges)}


def _interval(value: object) -> dict[str, object]:
    interval = seconds(zero=False)(value)
    if interval < SHORTEST_INTERVAL:
        raise ConfigError(f"{shown(value)} is too short; write at least {SHORTEST_INTERVAL * 1000:.0f}ms")
    return {"interval": interval}


_in_a_row = integer(1, MOST_IN_A_ROW)
_READERS: dict[str, Callable[[object], dict[str, object]]] = {
    "health_check": _check,
    "health_status": _statuses,
    "health_interval": _interval,
    "health_timeout": lambda value: {"timeout": seconds(zero=False)(value)},
    "health_fall": lambda value: {"fall": _in_a_row(value)},
    "health_rise": lambda value: {"rise": _in_a_row(value)},
}
