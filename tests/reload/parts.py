"""A service that was started with options, and can be given others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from rtunnel.control.port import HttpsPort
from rtunnel.control.settings import StatusSettings
from rtunnel.options.plugins.log_level import LogThreshold
from rtunnel.options.reload.reloader import Outcome
from rtunnel.options.settings.declaration import Reload, Setting
from rtunnel.upkeep.listening import Listener
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import reactor


class Running:
    """One of the five services, whose file a test rewrites.

    :param plugin: its module.
    :param settings: the content of the file; keys may be nested.
    :param flags: of the command line.
    """

    def __init__(
        self, plugin: ModuleType, directory: Path, settings: Mapping[str, Any], flags: tuple[str, ...] = ()
    ) -> None:
        self.file = directory / "settings.json"
        self.settings = dict(settings)
        self.write()
        self.options = plugin.Options()
        self.options.parseOptions(["--config", str(self.file), *flags])
        self.plugin: Any = plugin.makeService(self.options)
        # With an application above it, it would change the log of the tests.
        self.plugin._threshold = LogThreshold(self.options["log-level"])
        #: What does the work.
        [self.service] = [each for each in self.plugin if each.name == plugin.NAME]
        self.plugin.privilegedStartService()
        self.plugin.startService()

    def write(self) -> None:
        self.file.write_text(json.dumps(self.settings))

    def reload(self, **changes: Any) -> Deferred[Outcome]:
        """Change keys of the file, and reload. None: the key goes."""
        self.settings = merged(self.settings, changes)
        self.write()
        reloading: Deferred[Outcome] = self.plugin.reload()
        return reloading.addTimeout(PATIENCE, reactor)

    async def stop(self) -> None:
        stop_now = getattr(self.service, "stop_now", None)
        if stop_now is not None:
            stop_now()
        if self.plugin.running:
            await maybeDeferred(self.plugin.stopService).addTimeout(PATIENCE, reactor)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with changes, section by section. None: the key goes."""
    found = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict):
            found[name] = merged(found.get(name, {}), value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


@dataclass(frozen=True)
class Case:
    """A change of one setting, and how it is seen.

    :ivar value: what the file has for it; a callable makes it for each test, in a directory.
    :ivar seen: whether the running service works by that value, as far as something new would; not so before.
    :ivar also: what else the file gets.
    """

    value: Any
    seen: Callable[[Running, Any], object]
    also: Callable[[Any], Mapping[str, Any]] = lambda _value: {}


def check_complete(declared: Sequence[Setting], cases: Mapping[str, Case]) -> None:
    """There is a case for each setting that counts without a restart, and for no other."""
    assert {setting.name for setting in declared if setting.reload is not Reload.RESTART} == set(cases)


async def check(running: Running, declared: Sequence[Setting], name: str, case: Case, directory: Path) -> None:
    """The service takes the value, and says so. It is given the one before again, and takes that too."""
    [setting] = [each for each in declared if each.name == name]
    value = case.value(directory) if callable(case.value) else case.value
    before = json.dumps(running.settings)
    assert not case.seen(running, value)
    outcome = await running.reload(**merged(nested(setting.key, value), case.also(value)))
    assert (outcome.failed, outcome.restart) == ([], [])
    assert any(line.split()[0] == name for line in outcome.changed) or setting.repeatable, outcome.changed
    assert case.seen(running, value)
    running.settings = json.loads(before)
    outcome = await running.reload()
    assert (outcome.failed, outcome.restart) == ([], [])
    assert not case.seen(running, value)
    assert (await running.reload()).changed == []


def nested(key: str, value: Any) -> dict[str, Any]:
    """The value under a key such as ``tls.cert``."""
    section, _, name = key.rpartition(".")
    return nested(section, {name: value}) if section else {key: value}


def _listens(running: Running, address: str) -> bool:
    port = running.plugin._control._status_port
    return isinstance(port, Listener) and port.local_address == address


def _status(running: Running) -> StatusSettings:
    """What the status port that listens has, if it has HTTPS; otherwise its defaults."""
    control = running.plugin._control
    found: StatusSettings = control._status
    assert isinstance(control._status_port, HttpsPort) == (found.cert is not None)
    return found


#: Those of all five services. ``web.crt`` and ``web.key`` have to be in ``pki``.
PROCESS = {
    "log-level": Case("error", lambda r, _: r.plugin._threshold.level == "error"),
    "status-listen": Case(lambda _: f"127.0.0.1:{free_port()}", _listens),
    "status-token": Case("a-secret-word", lambda r, v: _status(r).token == v),
    "status-tls-cert": Case(
        lambda d: str(d / "pki" / "web.crt"),
        lambda r, v: str(_status(r).cert) == v,
        lambda v: {"status_tls_key": v.replace(".crt", ".key")},
    ),
    "status-tls-key": Case(
        lambda d: str(d / "pki" / "web.key"),
        lambda r, v: str(_status(r).key) == v,
        lambda v: {"status_tls_cert": v.replace(".key", ".crt")},
    ),
    "status-tls-ca": Case(
        lambda d: str(d / "pki" / "ca.crt"),
        lambda r, v: str(_status(r).ca) == v,
        lambda v: {"status_tls_cert": v.replace("ca.", "web."), "status_tls_key": v.replace("ca.crt", "web.key")},
    ),
}
