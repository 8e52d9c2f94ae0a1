"""An action, and how it is done for whoever asks (docs/control.rst, "The interface")."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from twisted.logger import Logger

from rtunnel.errors import ConfigError, RtunnelError

#: Takes what is asked for, and returns what to say about it. Raises :class:`~rtunnel.errors.ConfigError`, or another
#: error of this package, if that cannot be done.
Action = Callable[[dict[str, Any]], Awaitable[dict[str, Any]] | dict[str, Any]]
#: Those of a process, by name.
Actions = Mapping[str, Action]

#: The longest request, in bytes.
MOST_BODY = 64 * 1024

_log = Logger()


def failed(why: str) -> dict[str, Any]:
    """Return the answer to what was not done."""
    return {"ok": False, "error": why}


async def perform(action: Action, body: bytes) -> tuple[int, dict[str, Any]]:
    """Do what a request asks for. Return the status code and the answer.

    :param body: what is asked for: a JSON object.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        return 400, failed("the body must be a JSON object; send {} if there is nothing to say")
    try:
        done = action(asked)
        if isawaitable(done):
            done = await done
    except RtunnelError as error:
        return 422, failed(str(error))
    except Exception:
        _log.failure("an action at the control socket failed")
        return 500, failed("this failed for a reason that nobody thought of; the log has it")
    return 200, {"ok": True, **done}


def only(asked: Mapping[str, Any], *names: str) -> None:
    """Check that nothing else is asked for than an action knows.

    :raises ConfigError: something is.
    """
    for name in asked:
        if name not in names:
            known = ", ".join(f"'{each}'" for each in names) or "none"
            raise ConfigError(f"the key '{name}' is unknown; known: {known}")


def text(asked: Mapping[str, Any], name: str) -> str:
    """Return the text under a key; empty if it is not there.

    :raises ConfigError: it is not a text.
    """
    value = asked.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"'{name}' must be a text")
    return value
