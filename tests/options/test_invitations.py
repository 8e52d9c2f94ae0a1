"""``rtunnel connect CODE``, ``rtunnel host invite`` and ``--invite`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.access.identities import load_identity, show_fingerprint
from rtunnel.errors import ConfigError
from rtunnel.options.command import main
from rtunnel.options.invitations.connect import Options as Connect
from rtunnel.options.invitations.host import Options as Host
from rtunnel.options.invitations.own_id import own_id
from rtunnel.options.plugins import rtc_client, rtc_host
from rtunnel.rtc.settings import IdentitySettings
from rtunnel.wire.invitations.code import InvitationCode

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

CODE = InvitationCode(7, ("guitarist", "orca"))


def connect(*arguments: str) -> Connect:
    options = Connect()
    options.parseOptions(list(arguments))
    return options


@pytest.mark.parametrize(
    "words",
    [
        ["7-guitarist-orca", "--local=127.0.0.1:8080"],
        ["7", "guitarist", "Orca", "--local", "127.0.0.1:8080"],
        ["7-guitarist-orca", "--local", "127.0.0.1:8080", "--stun-server", ""],
        ["--local", "127.0.0.1:8080", "7-GUITARIST-ORCA"],
    ],
)
def test_a_code_in_place_of_an_id(words: list[str]) -> None:
    settings = connect(*words).settings
    assert (settings.invitation, settings.id) == (CODE, "")
    assert [str(each.local) for each in settings.forwards] == ["127.0.0.1:8080"]


def test_the_old_command_line() -> None:
    settings = connect("--id", "x", "--local", ":80").settings
    assert (settings.invitation, settings.id) == (None, "x")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["7-guit-orca"], "its first word is not 'guit'; did you mean '7-guitarist-orca'?"),
        (["7"], "a code has two words after its number"),
        (["foo"], "'foo' is no code: a code begins with a number; of a host's ID write --id=foo"),
        (["foo", "--id", "x"], "'foo' is no code"),
        (["foo", "bar"], "'foo' is not an option; options begin with two dashes"),
        ([], "--id is missing"),
        (
            ["7-guitarist-orca", "--id", "x"],
            "flag --id: cannot be combined with a code, which says which host is meant",
        ),
        (["7-guitarist-orca", "--host-key", "ab" * 32], "flag --host-key: cannot be combined with a code"),
        (["7-guitarist-orca", "--trust-on-first-use"], "flag --trust-on-first-use: cannot be combined with a code"),
        (["7-guitarist-orca", "--locl", "x"], "option --locl not recognized; did you mean '--local'?"),
        (["7-guitarist-orca", "--local"], "option --local requires argument"),
    ],
)
def test_mistakes(words: list[str], why: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        connect(*words)
    assert why in str(caught.value)


def test_a_code_is_stronger_than_an_id_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTUNNEL_ID", "another")
    monkeypatch.setenv("RTUNNEL_HOST_KEY", "ab" * 32)
    settings = connect("7-guitarist-orca").settings
    assert (settings.invitation, settings.id, settings.identity.host_keys) == (CODE, "", ())


def test_a_reload_knows_where_the_code_has_led() -> None:
    options = connect("7-guitarist-orca")
    assert options.read_again().settings == options.settings
    options.host_known("cottage", False)
    again = options.read_again().settings
    assert (again.id, again.invitation) == ("cottage", CODE)
    options.host_known("cottage", True)
    again = options.read_again().settings
    assert (again.id, again.invitation) == ("cottage", None)


def test_twistd_takes_no_code() -> None:
    options = rtc_client.Options()
    with pytest.raises(usage.UsageError, match="'7-guitarist-orca' is not an option"):
        options.parseOptions(["7-guitarist-orca"])
    host = rtc_host.Options()
    with pytest.raises(usage.UsageError, match="'invite' is not an option"):
        host.parseOptions(["invite"])


def test_a_host_that_invites_needs_no_id(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    options = Host()
    options.parseOptions(["--service", "web=:80", "--invite", "--state-dir", str(tmp_path)])
    fingerprint = load_identity(tmp_path / "identities" / "host.pem", "x").fingerprint
    assert options.settings.invite
    assert options.settings.id == "host-" + show_fingerprint(fingerprint)[:11]
    assert options.read_again().settings == options.settings
    named = Host()
    named.parseOptions(["--id", "cottage", "--invite", "--state-dir", str(tmp_path)])
    assert (named.settings.id, named.settings.invite) == ("cottage", True)
    with pytest.raises(usage.UsageError, match="--id is missing; write for example --id myhost"):
        Host().parseOptions(["--service", "web=:80", "--state-dir", str(tmp_path)])


def test_an_identity_that_cannot_be_read_gives_no_id(tmp_path: Path) -> None:
    (tmp_path / "identities").mkdir(mode=0o700)
    (tmp_path / "identities" / "host.pem").write_text("nothing")
    (tmp_path / "identities" / "host.pem").chmod(0o600)
    with pytest.raises(ConfigError, match="--id is missing, and this host has no identity to make one of: "):
        own_id(IdentitySettings(tmp_path))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["invit"], "rtunnel host: 'invit' is not an option; did you mean 'invite'?"),
        ([""], "rtunnel host: '' is not an option; options begin with two dashes"),
        (["foo"], "rtunnel host: 'foo' is not an option; options begin with two dashes"),
        (["--id", "x", "invite"], "rtunnel host invite: --id has no effect before 'invite'; leave it out"),
        (
            ["invite", "--services", "x"],
            "rtunnel host invite: option --services not recognized; did you mean '--service'?",
        ),
        (
            ["invite", "--service="],
            "rtunnel host invite: --service: is empty; write the name of a service, or",
        ),
        (["invite", ""], "rtunnel host invite: the name of the process is empty; write a name or a process id, or "),
        (["invite", "1", "2"], "rtunnel host invite: name one process; remove '2'"),
        (["invite", "rtc-client"], "rtunnel host invite: this is not for rtc-client, but for rtc-host"),
    ],
)
def test_the_verb(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", *words]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(why)


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for words, texts in (
        (["host", "--help"], ("Usage: rtunnel host --id ID", "--invite", "Commands:\n    rtunnel host invite\n")),
        (
            ["host", "invite", "--help"],
            ("Usage: rtunnel host invite [--service NAME]", "--for=", "Ctrl-C withdraws"),
        ),
        (
            ["connect", "--help"],
            ("Usage: rtunnel connect [CODE | --id ID]", "rtunnel connect 7-guitarist-orca "),
        ),
    ):
        with pytest.raises(SystemExit):
            main(words)
        shown = capsys.readouterr().out
        assert all(text in shown for text in texts), shown
