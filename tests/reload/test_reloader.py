"""How settings are read again: all or nothing is checked, one reload at a time, and nobody is told a secret."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, maybeDeferred

from rtunnel.addresses import ListenAddress
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_signal, rtunnel_server
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.reloader import Outcome, Reloader
from rtunnel.options.reload.shown import shown
from rtunnel.options.settings.reverse import SERVER
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.reload.conftest import Run
from tests.reload.parts import Running
from tests.reverse.net import reactor
from tests.reverse.world import port_of


@pytest.fixture
def server(run: Run) -> Running:
    return run(rtunnel_server, ("--pool", "8"), control_listen="127.0.0.1:0", valid_tokens=["a-secret-word"])


async def refused(running: Running, **changes: object) -> str:
    """Why nothing has changed."""
    before = running.service.settings
    with pytest.raises(ConfigError) as caught:
        await running.reload(**changes)
    assert running.service.settings is before
    return str(caught.value)


@ensureDeferred
async def test_what_has_changed_is_named(server: Running, logged: TestLog) -> None:
    outcome = await server.reload(max_links=7, drain="1m")
    assert sorted(outcome.changed) == ["drain 10 -> 60", "max-links 4096 -> 7"]
    assert "reloaded: max-links 4096 -> 7" in logged.text()


@ensureDeferred
async def test_nothing_has_changed(server: Running, logged: TestLog) -> None:
    outcome = await server.reload()
    assert (outcome.changed, outcome.failed, outcome.restart) == ([], [], [])
    assert "reloaded: nothing has changed" in logged.text()


@ensureDeferred
async def test_a_flag_still_wins(server: Running) -> None:
    assert (await server.reload(pool=9)).changed == []
    assert server.service.pool_size == 8


@ensureDeferred
async def test_a_bad_file_changes_nothing(server: Running, logged: TestLog) -> None:
    why = await refused(server, max_links=7, allow_ports="many")
    assert why.startswith(f"{server.file}: line 1: key 'allow_ports': ")
    assert f"settings are not reloaded, and all stays as it is: {why}" in logged.text()
    assert "key 'max_link'" in await refused(server, allow_ports=None, max_link=7)
    server.file.write_text('{\n"max_links": 7,\n"hold" 3}')
    with pytest.raises(ConfigError, match=r": line 3: is not JSON"):
        await server.plugin.reload()
    # And once it is mended, all of it counts.
    assert (await server.reload(max_link=None)).changed == ["max-links 4096 -> 7"]


@ensureDeferred
async def test_a_file_that_is_gone(server: Running) -> None:
    server.file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        await server.plugin.reload()


@ensureDeferred
async def test_the_file_of_the_current_directory_is_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All settings would have their defaults."""
    monkeypatch.chdir(tmp_path)
    running = run(rtc_signal, server={"addr": "127.0.0.1:0"})
    by_default = tmp_path / "config.yaml"
    running.file.rename(by_default)
    del running.options.flags["config"]
    running.options.config_path = "config.yaml"
    assert (await running.plugin.reload()).changed == []
    by_default.unlink()
    with pytest.raises(ConfigError, match=r"^config\.yaml: the file is gone from which settings were read; put it "):
        await running.plugin.reload()


@ensureDeferred
async def test_a_pipe_of_a_shell(server: Running, tmp_path: Path) -> None:
    """What was in it is gone, and it looks empty now."""
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "63")
    server.file.unlink()
    server.file.symlink_to(tmp_path / "pipe" / "63")
    with pytest.raises(ConfigError, match=r"settings\.json: is a pipe, which cannot be read again; put a file in its"):
        await server.plugin.reload()


@ensureDeferred
async def test_a_directory(server: Running) -> None:
    server.file.unlink()
    server.file.mkdir()
    with pytest.raises(ConfigError, match=r"settings\.json: cannot be read: Is a directory"):
        await server.plugin.reload()


@ensureDeferred
async def test_a_file_that_others_can_write(server: Running) -> None:
    server.file.chmod(0o666)
    assert "every user of this machine may change" in await refused(server)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@ensureDeferred
async def test_a_file_of_somebody_else(server: Running) -> None:
    os.chown(server.file, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to"):
        await server.plugin.reload()


@ensureDeferred
async def test_a_relative_path_means_what_it_meant(
    run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``twistd --rundir`` the process is elsewhere by now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clients.yaml").write_text("laptop: {ports: 8000}\n")
    running = run(rtunnel_server, ("--config", "settings.json"), control_listen="127.0.0.1:0")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert (await running.reload(clients="clients.yaml")).changed == [f"clients none -> {tmp_path}/clients.yaml"]
    assert Path.cwd() == elsewhere


@ensureDeferred
async def test_what_needs_a_restart_is_named_and_the_rest_counts(server: Running, logged: TestLog) -> None:
    for _ in range(2):
        outcome = await server.reload(state_dir="/tmp/x", log_format="json", max_links=7)
        assert outcome.restart == ["log-format", "state-dir"]
        assert outcome.needs_restart == "these settings changed and need a restart: log-format, state-dir"
    assert outcome.changed == []
    assert server.service.settings.max_links == 7
    assert server.service.settings.state_dir is None
    assert outcome.needs_restart in logged.text()


@ensureDeferred
async def test_settings_that_contradict_one_that_needs_a_restart(server: Running) -> None:
    """Both files are right, but not what would come of half of the new one."""
    outcome = await server.reload(tls={"enabled": False}, drain=7)
    assert (outcome.changed, outcome.failed) == (["drain 10 -> 7"], [])


@ensureDeferred
async def test_an_address_in_use_changes_nothing_but_the_rest(server: Running, logged: TestLog) -> None:
    before = port_of(server.service.control)
    any_port = ListenAddress.parse("127.0.0.1:0").endpoint(reactor)
    listening = [await any_port.listen(server.service.door) for _ in range(2)]
    hosts: list[Any] = [each.getHost() for each in listening]
    taken, other = (host.port for host in hosts)
    outcome = await server.reload(control_listen=f"127.0.0.1:{taken}", http_listen=f"127.0.0.1:{other}", max_links=7)
    assert outcome.changed == ["max-links 4096 -> 7"]
    assert sorted(line.split(":")[0] for line in outcome.failed) == ["control-listen", "http-listen"]
    assert f"not reloaded: control-listen: cannot listen on 127.0.0.1:{taken}" in logged.text()
    assert port_of(server.service.control) == before
    assert server.service.named.listeners == {}
    for each in listening:
        await maybeDeferred(each.stopListening)
    # It is tried again.
    assert len((await server.reload()).changed) == 2
    assert port_of(server.service.control) == taken


@ensureDeferred
async def test_an_address_that_another_port_leaves(server: Running) -> None:
    """Which of the two is moved first does not matter."""
    address, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    await server.reload(http_listen=address)
    outcome = await server.reload(http_listen=other, public_listen=address)
    assert sorted(outcome.changed) == [f"http-listen {address} -> {other}", f"public-listen none -> {address}"]
    assert outcome.failed == []
    outcome = await server.reload(http_listen=address, public_listen=other)
    assert sorted(line.split(":")[0] for line in outcome.failed) == ["http-listen", "public-listen"]


@ensureDeferred
async def test_no_line_has_a_secret(server: Running, logged: TestLog) -> None:
    outcome = await server.reload(
        valid_tokens=["another-secret"], status_listen=f"127.0.0.1:{free_port()}", status_token="a-third-secret"
    )
    assert "valid-tokens changed" in outcome.changed
    assert "status-token changed" in outcome.changed
    assert "secret" not in logged.text()


def test_how_changes_are_shown() -> None:
    settings = {setting.name: setting for setting in SERVER}
    assert list(shown(settings["visitor-idle"], 0.0, 300.0)) == ["visitor-idle 0 -> 300"]
    assert list(shown(settings["memory"], None, 64 << 20)) == ["memory none -> 64M"]
    assert list(shown(settings["tls-allow-classical-certs"], False, True)) == ["tls-allow-classical-certs no -> yes"]
    [line] = shown(settings["trusted-proxies"], (), tuple(range(1000)))
    assert len(line) < 400


# When


class Slow:
    """Settings whose change takes until the test says."""

    def __init__(self, server: Running) -> None:
        self.begun = 0
        self.may_end: Deferred[None] = Deferred()
        self.why_not = ""
        reloadable = Reloadable(server.service, [Part(frozenset({"max-links"}), self._apply)])
        self.reloader = Reloader(reactor, server.options, reloadable, (), lambda: self.why_not)

    async def _apply(self, _new: object) -> None:
        self.begun += 1
        await self.may_end


@ensureDeferred
async def test_reloads_come_one_after_another(server: Running) -> None:
    slow = Slow(server)
    server.settings["max_links"] = 7
    server.write()
    first = slow.reloader.reload()
    assert slow.begun == 1
    server.settings["max_links"] = 8
    server.write()
    # A flood of signals is one reload more.
    others = [slow.reloader.reload() for _ in range(1000)]
    assert slow.begun == 1
    slow.may_end.callback(None)
    assert (await first).changed == ["max-links 4096 -> 7"]
    outcomes: list[Outcome] = [await each for each in others]
    assert slow.begun == 2
    assert all(outcome.changed == ["max-links 7 -> 8"] for outcome in outcomes)


@ensureDeferred
async def test_not_while_the_process_ends(server: Running, logged: TestLog) -> None:
    slow = Slow(server)
    slow.why_not = "the process is about to end"
    with pytest.raises(ConfigError, match=r"^the process is about to end$"):
        await slow.reloader.reload()
    slow.why_not = ""
    assert (await slow.reloader.reload()).changed == []


@ensureDeferred
async def test_the_process_is_told_to_end_meanwhile(server: Running) -> None:
    """No port opens that nobody would close."""
    slow = Slow(server)
    server.settings |= {"max_links": 7, "hold": 7}
    server.write()
    reloading = slow.reloader.reload()
    slow.why_not = "the process is about to end"
    slow.may_end.callback(None)
    outcome = await reloading
    assert (outcome.changed, outcome.failed) == (["max-links 4096 -> 7"], ["hold: the process is about to end"])


@ensureDeferred
async def test_a_fault_of_ours_is_in_the_log_and_the_next_one_works(
    server: Running, flush_logged_errors: Callable[..., Any]
) -> None:
    def fails(_new: object) -> None:
        raise ZeroDivisionError

    reloadable = Reloadable(server.service, [Part(frozenset({"max-links"}), fails)])
    reloader = Reloader(reactor, server.options, reloadable, ())
    server.settings["max_links"] = 7
    server.write()
    with pytest.raises(ZeroDivisionError):
        await reloader.reload()
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    del server.settings["max_links"]
    server.write()
    assert (await reloader.reload()).changed == []


@ensureDeferred
async def test_options_that_were_never_read(server: Running) -> None:
    reloader = Reloader(reactor, rtunnel_server.Options(), Reloadable(server.service), ())
    with pytest.raises(ConfigError, match=r"^this process has no options that could be read again; restart it$"):
        await reloader.reload()
