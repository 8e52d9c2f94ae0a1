"""What a service must be able to do so that another process can take its place."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rtunnel.relay.inheritance import Handed

if TYPE_CHECKING:
    from rtunnel.reverse.stored.keeper import IStore


class ISuccession(Protocol):
    """A service, in both processes."""

    def why_not(self) -> str:
        """Return why no other process can take its place now; empty if one can."""

    def handed(self) -> Iterator[Handed]:
        """Yield the sockets that the successor gets.

        :raises ConfigError: one of them cannot be handed over.
        """

    def beside(self) -> Iterator[Handed]:
        """Yield what else the successor gets: sockets by which this process goes on to talk to it."""

    def state(self) -> dict[str, Any]:
        """Return what the successor must know, as JSON has it."""

    def lasting(self) -> dict[str, Any]:
        """Return what of :meth:`state` is still true if this process ends before the next one starts."""

    # In the new process

    def inherit(self, state: Mapping[str, Any]) -> None:
        """Be what the predecessor was, as far as *state* says. Listening sockets have been taken by now.

        :raises ConfigError: that cannot be.
        """

    def revive(self, state: Mapping[str, Any]) -> None:
        """Be what a process was that has ended, as far as *state* says, which is that of :meth:`lasting`."""

    def take_back(self, states: Sequence[Any], sockets: Mapping[int, socket.socket]) -> None:
        """Go on with the visitors whom a process that has ended has put away, and close what is of no use."""

    def when_ready(self, done: Callable[[], None]) -> None:
        """Call *done* once the predecessor may go. The service runs."""

    # In the old process

    def settle(self) -> Awaitable[None]:
        """Wait, for a bounded time, until little would be lost."""

    def pause(self) -> None:
        """Write no file that the successor may write too, and be ready for it to take links over."""

    def resume(self) -> None:
        """Undo :meth:`pause`, as nothing has come of it."""

    def keep_visitors(self, store: IStore) -> None:
        """This process stops, and another one may be started: put visitors away."""

    def hand_over(self) -> None:
        """The successor has started, and this service stops next: let streams go on for as long as they like."""
