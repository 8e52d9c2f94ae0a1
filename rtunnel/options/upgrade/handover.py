"""What a process does about upgrades, in the order in which it lives: it may take another one's place, and leave its
own to another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from rtunnel.control.actions.perform import Action, Actions, only
from rtunnel.errors import ConfigError, RtunnelError, StartupError
from rtunnel.options.reload.drain import time_of
from rtunnel.options.upgrade import predecessor
from rtunnel.options.upgrade.fdstore import VisitorStore, fdstore, is_kept, put
from rtunnel.options.upgrade.notify import notify
from rtunnel.options.upgrade.succession import ISuccession
from rtunnel.relay.inheritance import Handed, inheritance

if TYPE_CHECKING:
    from rtunnel.options.upgrade.upgrade import Upgrade

#: Of what a predecessor has left, the sockets of clients who have not come back wait, for so many seconds.
CLAIMED_LATER, UNCLAIMED = "public ", 30.0
#: Why something is not done any more.
NOT_NOW = "another process takes the place of this one; ask that one"


class Handover:
    """Both sides of an upgrade.

    :param service: the name of this process's service, such as ``rtunnel-server``.
    :param build: returns how another process takes the place of this one; None: none can.
    :param options: of the plugin; their parent is that of ``twistd``, or a command.
    :param why_not: returns why this is no time for an upgrade; empty if it is.
    :param leave: see :class:`Upgrade`.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: str,
        build: Callable[[], ISuccession] | None,
        options: usage.Options,
        why_not: Callable[[], str],
        leave: Callable[[int, float], None],
    ) -> None:
        self._reactor = reactor
        self._service = service
        self._build = build
        self._options = options
        self._why_not = why_not
        self._leave = leave
        self._upgrade: Upgrade | None = None
        #: Yields sockets beside those of the service.
        self.ports: Callable[[], Iterator[Handed]] = lambda: iter(())
        self._directory = ""
        with suppress(OSError):
            self._directory = str(Path.cwd())
        self._before = predecessor.current()
        # What another process has left; None: there was none.
        self._state: Mapping[str, Any] | None = None
        self._succession: ISuccession | None = None
        self._has_begun = False

    # This process takes the place of another

    def meet(self) -> None:
        """Take what a predecessor leaves, if there is one. Call this before anything listens.

        :raises StartupError: it leaves nothing.
        """
        if self._before is None:
            self._state = fdstore.take(self._service)
            return
        if self._build is None:
            raise StartupError(f"{self._service} cannot take the place of another process")
        self._state = self._before.meet(self._service)

    def inherit(self) -> None:
        """Be what the predecessor was. Call this once all ports of the settings listen.

        :raises StartupError: that cannot be.
        """
        if self._build is None or self._state is None:
            return
        succession = self._build()
        try:
            if self._before is None:
                succession.revive(self._state)
            else:
                self._succession = succession
                succession.inherit(self._state)
        except (LookupError, TypeError, ValueError, AttributeError, RtunnelError) as error:
            why = f"what another process has left cannot be used: {error}"
            if self._before is not None:
                raise StartupError(why) from error
            self.log.warn("{why}", why=why)
        if self._before is None:
            succession.take_back(*fdstore.take_visitors(self._service))
        inheritance.close(but=CLAIMED_LATER)

    def wait(self) -> None:
        """Wait until the predecessor does nothing any more.

        :raises StartupError: it goes on.
        """
        if self._before is not None:
            self._before.wait_for_go()

    def begin(self) -> None:
        """The reactor runs: let the predecessor go, once it may."""
        self._has_begun = True
        if self._before is not None and self._succession is not None:
            self._succession.when_ready(self._before.started)
        if self._state is not None:
            self._reactor.callLater(UNCLAIMED, inheritance.close)

    # Another one takes the place of this process

    def request(self) -> None:
        """Upgrade because of a signal. What comes of it is in the log."""
        if self.pass_on(signal.SIGUSR2):
            return
        Deferred.fromCoroutine(self.upgrade()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        # Other reasons are there already.
        if self._upgrade is None or not self._upgrade.has_said(failure.value):
            self.log.warn("{why}", why=failure.getErrorMessage())

    async def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Upgrade because of a request at the control socket.

        :raises ConfigError: nothing has come of it.
        """
        only(asked, "within")
        return await self.upgrade(time_of(asked, "within", inf))

    async def upgrade(self, within: float = inf) -> dict[str, Any]:
        """See :meth:`Upgrade.upgrade`."""
        if self._build is None:
            raise ConfigError(f"no upgrade: {self._service} ends with its connections; restart it")
        if self._upgrade is None:
            # Most processes are never asked.
            from rtunnel.options.upgrade.upgrade import Upgrade

            parent = self._options.parent
            twistd: MutableMapping[str, Any] = parent if parent is not None and "pidfile" in parent else {}
            self._upgrade = Upgrade(
                self._reactor, self._service, self._build(), self.ports, twistd, self._directory, self._leave
            )
        if not self.is_under_way and (why := self._why_not()):
            raise ConfigError(f"no upgrade: {why}")
        return await self._upgrade.upgrade(within)

    @property
    def is_under_way(self) -> bool:
        """Whether another process takes the place of this one, or has taken it."""
        return self._upgrade is not None and self._upgrade.is_under_way

    def guarded(self, actions: Actions) -> Actions:
        """Return actions that are refused while what they would change goes to another process."""
        return {name: partial(self._act_unless_upgrading, action) for name, action in actions.items()}

    async def _act_unless_upgrading(self, action: Action, asked: dict[str, Any]) -> dict[str, Any]:
        if self.is_under_way:
            raise ConfigError(NOT_NOW)
        done = action(asked)
        return await done if isawaitable(done) else done

    def told_to_stop(self, *, is_ending: bool) -> None:
        """A signal has told this process to stop. If it is only to be started again, nobody is refused until then.

        :param is_ending: it was about to end before.
        """
        if is_ending:
            if self._successor is not None:
                from rtunnel.options.upgrade.first import end_all, is_first

                if is_first():
                    end_all()
            return
        notify("STOPPING=1")
        if self._build is not None and self._has_begun and "NOTIFY_SOCKET" in os.environ:
            succession = self._build()
            with suppress(ConfigError, OSError):
                handed = [*succession.handed(), *self.ports()]
                put(self._service, handed, succession.lasting())
                if is_kept():
                    succession.keep_visitors(VisitorStore(self._service, len(handed)))

    @property
    def _successor(self) -> int | None:
        return None if self._upgrade is None else self._upgrade.successor

    def pass_on(self, number: int) -> bool:
        """Return whether another process has taken the place of this one; it gets the signal then."""
        if self._successor is None:
            return False
        with suppress(OSError):
            os.kill(self._successor, number)
        return True

    def stop(self) -> None:
        """This process stops."""
        if self._upgrade is not None:
            self._upgrade.stop()
