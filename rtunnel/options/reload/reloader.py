"""Read the settings again, find out what has changed, and have it applied, part by part.

    flags, environment, file -> new options -> what differs -> parts -> lines that say so

All is checked before anything is touched: a file that could not be used at the start is not used now. Each part is
then applied by itself. If that fails, for example because an address is in use, its settings stay as they were, and the
others are applied all the same. Then it is tried again, as the address may have been that of another part; and once
more by the next reload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import isawaitable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.errors import ConfigError, RtunnelError
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.shown import shown
from rtunnel.options.settings.declaration import Reload, Setting
from rtunnel.options.settings.sources import Rank, Resolved
from rtunnel.options.upgrade.notify import notify, notify_reloading

#: Seconds between the beginnings of two reloads, whoever asks for them how often.
REST = 0.5


class Outcome:
    """What has come of a reload.

    :ivar changed: a line for each change.
    :ivar failed: a line for each change that could not be made.
    :ivar restart: names of settings that count after a restart.
    """

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.failed: list[str] = []
        self.restart: list[str] = []

    @property
    def needs_restart(self) -> str:
        """What is to be said of *restart*; empty if there is nothing."""
        if not self.restart:
            return ""
        return f"these settings changed and need a restart: {', '.join(self.restart)}"


class Reloader:
    """Reloads the settings of a process.

    :param options: those of the plugin. They are kept up to date.
    :param reloadable: the service.
    :param parts: how settings are applied that belong to the process and not to the service.
    :param why_not: returns why nothing may change now; empty if it may.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        options: Any,
        reloadable: Reloadable,
        parts: Iterable[Part],
        why_not: Callable[[], str] = lambda: "",
    ) -> None:
        self._reactor = reactor
        self._options = options
        self._reloadable = reloadable
        special = [*reloadable.parts, *parts]
        taken = frozenset(name for part in special for name in part.names)
        others = frozenset(setting.name for setting in options.declared if setting.reload is not Reload.RESTART)
        self.parts = (*special, Part(others - taken, reloadable.others))
        self._why_not = why_not
        self._last = float("-inf")
        self._is_busy = False
        self._next: list[Deferred[Outcome]] = []

    def reload(self) -> Deferred[Outcome]:
        """Reload. If a reload is under way, another one begins after it, which serves all who have asked meanwhile.

        The :class:`Deferred` fails with :class:`~rtunnel.errors.ConfigError` if nothing was changed, with the reason.
        """
        asked: Deferred[Outcome] = Deferred()
        self._next.append(asked)
        if not self._is_busy:
            Deferred.fromCoroutine(self._serve())
        return asked

    async def _serve(self) -> None:
        self._is_busy = True
        try:
            while self._next:
                rest = self._last + REST - self._reactor.seconds()
                if rest > 0:
                    await deferLater(self._reactor, rest)
                self._last = self._reactor.seconds()
                waiting, self._next = self._next, []
                notify_reloading()
                done = Deferred.fromCoroutine(self._reload())
                for each in waiting:
                    done.addBoth(_tell, each)
                done.addErrback(lambda _failure: None)
                await done
                notify("READY=1")
        finally:
            self._is_busy = False

    async def _reload(self) -> Outcome:
        try:
            if why_not := self._why_not():
                raise ConfigError(why_not)
            outcome = await self._apply(self._options.read_again())
        except ConfigError as error:
            self.log.warn("settings are not reloaded, and all stays as it is: {why}", why=error)
            raise
        except Exception:
            self.log.failure("the settings could not be reloaded; please report this")
            raise
        for line in outcome.changed:
            self.log.info("reloaded: {line}", line=line)
        for line in outcome.failed:
            self.log.warn("not reloaded: {line}", line=line)
        if outcome.restart:
            self.log.warn("{what}", what=outcome.needs_restart)
        if not outcome.changed and not outcome.failed and not outcome.restart:
            self.log.info("reloaded: nothing has changed")
        return outcome

    async def _apply(self, new: Any) -> Outcome:
        outcome = Outcome()
        options = self._options
        for note in new.notes:
            self.log.warn("{note}", note=note)
        differing = [setting for setting in options.declared if _differs(setting, options.resolved, new.resolved)]
        names = {setting.name for setting in differing if setting.reload is not Reload.RESTART}
        outcome.restart = sorted(setting.name for setting in differing if setting.name not in names)
        of_parts = [(part, [each for each in differing if each.name in names & part.names]) for part in self.parts]
        concerned = [(part, chosen) for part, chosen in of_parts if chosen]
        while concerned:
            outcome.failed.clear()
            left = [each for each in concerned if not await self._apply_part(*each, new.resolved, outcome)]
            if len(left) == len(concerned):
                break
            concerned = left
        outcome.changed += self._reloadable.look()
        return outcome

    async def _apply_part(self, part: Part, chosen: list[Setting], new: Resolved, outcome: Outcome) -> bool:
        """Apply some settings. Return whether that could be done."""
        if why_not := self._why_not():
            # It has come while an old port closed.
            outcome.failed.append(f"{_names(chosen)}: {why_not}")
            return False
        options = self._options
        before: Resolved = options.resolved
        try:
            candidate = options.with_settings(_with(before, new, [setting.name for setting in chosen]))
            applied = part.apply(candidate)
            if isawaitable(applied):
                await applied
        except RtunnelError as error:
            outcome.failed.append(f"{_names(chosen)}: {error}")
            return False
        options.take_over(candidate)
        self._reloadable.service.settings = candidate.settings
        for setting in chosen:
            outcome.changed += shown(setting, before.values[setting.name], new.values[setting.name])
        return True


def _names(settings: Iterable[Setting]) -> str:
    return ", ".join(setting.name for setting in settings)


def _tell(result: Any, asked: Deferred[Any]) -> Any:
    asked.callback(result) if not hasattr(result, "raiseException") else asked.errback(result)
    return result


def _differs(setting: Setting, old: Resolved, new: Resolved) -> bool:
    """Return whether a setting has another value, or whether it is given only now; that can mean something too."""
    if old.values[setting.name] != new.values[setting.name]:
        return True
    ranks = [resolved.sources[setting.name].rank is Rank.DEFAULT for resolved in (old, new)]
    return ranks[0] != ranks[1] and setting.reload is not Reload.RESTART


def _with(old: Resolved, new: Resolved, names: Iterable[str]) -> Resolved:
    """Return *old* with some values of *new*."""
    values, sources = dict(old.values), dict(old.sources)
    for name in names:
        values[name], sources[name] = new.values[name], new.sources[name]
    return replace(old, values=values, sources=sources)
