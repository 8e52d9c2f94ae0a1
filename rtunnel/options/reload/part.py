"""What a service does with settings that have changed while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any


def nothing(_new: Any) -> None:
    """Do nothing: whoever uses these settings looks at those of the service each time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Settings that are applied together.

    :ivar names: theirs; see :class:`~rtunnel.options.settings.declaration.Setting`.
    :ivar apply: called with the new options of the plugin, whose ``settings`` the service gets next. If it raises
        :class:`~rtunnel.errors.RtunnelError`, nothing may have changed.
    """

    names: frozenset[str]
    apply: Callable[[Any], Awaitable[None] | None] = nothing


@dataclass(frozen=True, slots=True)
class Reloadable:
    """A service that can be given other settings while it runs.

    :ivar service: its attribute ``settings`` is what it looks at.
    :ivar parts: how settings are applied that it does not look at each time.
    :ivar others: applies those that have no part.
    :ivar look: looks at all files whose content may have changed, and returns a line for each that has.
    """

    service: Any
    parts: Iterable[Part] = ()
    look: Callable[[], Iterable[str]] = tuple
    others: Callable[[Any], Awaitable[None] | None] = nothing
