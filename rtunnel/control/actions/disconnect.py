"""``rtunnel disconnect``: ends the connections of one peer, which may connect again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.logger import Logger

from rtunnel.control.actions.perform import Action, only, text
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError

#: Why, for the other end and the log.
WHY = "disconnected by the operator"
#: Of the peers that there are, so many are named to whoever names another.
MOST_NAMED = 10

_log = Logger()


@dataclass(frozen=True, slots=True)
class Connected:
    """Somebody who is connected.

    :ivar names: what the operator may call him; the first is what he is called in an error.
    :ivar end: ends the connection.
    """

    names: tuple[str, ...]
    end: Callable[[], object]


def disconnect(connected: Callable[[], Iterable[Connected]]) -> Action:
    """Return the action for a service.

    :param connected: returns who is connected now.
    """

    def act(asked: dict[str, Any]) -> dict[str, Any]:
        only(asked, "peer")
        peer = text(asked, "peer")
        if not peer:
            raise ConfigError("'peer' is missing: who is to be disconnected?")
        everybody = list(connected())
        found = [each for each in everybody if peer in each.names]
        if not found:
            raise ConfigError(f"nobody is connected as '{peer}'{_others(peer, everybody)}")
        _log.info("{peer}: {why} ({count})", peer=peer, why=WHY, count=len(found))
        for each in found:
            each.end()
        return {"disconnected": len(found)}

    return act


def _others(peer: str, everybody: list[Connected]) -> str:
    names = list(dict.fromkeys(each.names[0] for each in everybody))
    if not names:
        return "; nobody is connected at all"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return suggestion(peer, names) or f"; connected: {', '.join(names[:MOST_NAMED])}{more}"
