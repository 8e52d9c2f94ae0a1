"""How a changed setting is told: ``max-links 1024 -> 2048``, ``tunnel tcp:8080 added``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtunnel.options.settings.declaration import Setting
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.rtc.settings import ForwardSettings, ServiceSettings

#: What one entry of a list is called, where that is not the name of the setting.
_ENTRY = {"publish": "tunnel"}
#: The longest value that is shown, in characters.
_LONGEST = 160


def shown(setting: Setting, old: Any, new: Any) -> Iterator[str]:
    """Yield a line for each change; none if the values are the same. No line shows a secret."""
    if old == new:
        return
    if setting.is_secret:
        yield f"{setting.name} changed"
    elif isinstance(old, tuple) and isinstance(new, tuple) and setting.repeatable:
        yield from _entries(_ENTRY.get(setting.name, setting.name), old, new)
    else:
        yield f"{setting.name} {_value(setting, old)} -> {_value(setting, new)}"


def _entries(what: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[str]:
    before, after = ({_name(entry): entry for entry in entries} for entries in (old, new))
    for name in before | after:
        if name not in after:
            yield f"{what} {name} removed"
        elif name not in before:
            yield f"{what} {name} added"
        elif before[name] != after[name]:
            yield f"{what} {name} changed"


def _name(entry: Any) -> str:
    if isinstance(entry, TunnelSettings):
        return f"{entry.protocol}:{f'{entry.host}{entry.path}' if entry.host else entry.remote_port}"
    if isinstance(entry, ServiceSettings):
        return entry.name
    if isinstance(entry, ForwardSettings):
        return f"{entry.local}={entry.service}"
    return str(entry)


def _value(setting: Setting, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == () or value == "":
        return "none"
    if isinstance(value, tuple | frozenset):
        text = setting.kind.show(value)
        if not text or text.startswith(("(", "frozenset")):
            text = ",".join(map(str, value))
    else:
        text = setting.kind.show(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
