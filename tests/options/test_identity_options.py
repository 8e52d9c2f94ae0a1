"""The options that say who an end of the WebRTC tunnel is, and whom it trusts; and ``rtunnel id``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rtunnel.access.identities import load_identity
from rtunnel.access.peers.fingerprints import parse_fingerprint, show_fingerprint
from rtunnel.errors import ConfigError
from rtunnel.options.command import main
from rtunnel.options.plugins import rtc_client, rtc_host
from rtunnel.pki.certificates import Kind
from rtunnel.rtc.rights.trusted import identity_of, trust_of
from rtunnel.rtc.settings import IdentitySettings
from tests.access.peers.parts import Organisation
from tests.options.conftest import Write
from tests.options.rtc_parts import parse, parse_client, parse_host

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

ONE, OTHER = "ab" * 32, "cd" * 32
SHORT = show_fingerprint(ONE)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def organisation(tmp_path: Path) -> Organisation:
    made = Organisation(tmp_path)
    for kind in (Kind.HOST, Kind.CLIENT):
        issued = made.issue("myhost", kind)
        (tmp_path / f"{kind}.crt").write_bytes(issued.certificate_pem)
        (tmp_path / f"{kind}.key").write_bytes(issued.key_pem)
    return made


def test_defaults(state: Path) -> None:
    assert parse_host().identity == parse_client().identity == IdentitySettings(state)
    assert not trust_of(parse_host()).is_closed
    assert not trust_of(parse_client()).is_closed
    assert not state.exists()


def test_host_keys(config: Write) -> None:
    other = show_fingerprint(OTHER)
    wanted = (ONE[:35], OTHER[:35])
    assert parse_client(f"--host-key={SHORT}", f"--host-key={other}").identity.host_keys == wanted
    assert parse_client(f"--host-key={SHORT},{other}").identity.host_keys == wanted
    path = config(f"client: {{host-key: [{SHORT}, {other}]}}")
    assert parse_client("--config", path).identity.host_keys == wanted
    assert parse_client(f"--host-key={ONE}").identity.host_keys == (ONE,)
    assert trust_of(parse_client(f"--host-key={ONE}")).is_closed


def test_lists(tmp_path: Path, config: Write) -> None:
    clients, hosts = tmp_path / "clients", tmp_path / "hosts"
    clients.write_text(f"laptop: {{fingerprint: {SHORT}}}")
    hosts.write_text(f"x: {SHORT}")
    path = config(f"host: {{authorized_clients: {clients}}}\nclient: {{known_hosts: {hosts}, trust-on-first-use: yes}}")
    host, client = parse_host("--config", path), parse_client("--config", path)
    assert host.identity.authorized_clients == clients
    assert client.identity.known_hosts == hosts
    assert client.identity.trust_on_first_use
    assert trust_of(host).is_closed
    assert trust_of(client).is_closed


def test_files_of_the_state_directory(state: Path) -> None:
    state.mkdir()
    (state / "authorized_clients").write_text(f"laptop: {{fingerprint: {SHORT}}}")
    (state / "known_hosts").write_text(f"x: {SHORT}")
    assert trust_of(parse_host()).is_closed
    assert trust_of(parse_client()).is_closed
    assert not trust_of(parse(rtc_client.Options, "--id=another")).is_closed
    # A mistake in them is one that ends the start.
    (state / "authorized_clients").write_text("laptop: oops")
    with pytest.raises(usage.UsageError, match="authorized_clients: line 1: 'laptop': is text and not a mapping"):
        parse_host()


def test_an_organisation(organisation: Organisation, tmp_path: Path) -> None:
    def own(kind: str) -> list[str]:
        files = tmp_path / kind
        return [f"--identity-cert={files}.crt", f"--identity-key={files}.key", f"--peer-ca={organisation.file}"]

    host = parse_host(*own("host"))
    assert identity_of(host).certificate.subject.rfc4514_string() == "CN=myhost"
    assert trust_of(host).is_closed
    client = parse_client(*own("client"), "--host-name=y")
    assert client.identity.host_name == "y"
    assert trust_of(client).is_closed
    with pytest.raises(usage.UsageError, match=r"client\.crt is not for a host: .*; make one with `rtunnel pki host`"):
        parse_host(*own("client"))
    with pytest.raises(usage.UsageError, match=r"host\.crt is not for a client: .*; make one with .*pki client"):
        parse_client(*own("host"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--host-key=oops"],
            "flag --host-key: 'oops' is not a fingerprint: it has 4 characters; it has six groups of",
        ),
        (
            [f"--host-key={SHORT[:-1]}g"],
            "flag --host-key: 'nentq-axbne-ntqax-bnent-qaxbn-ent4g' has a typing error, perhaps in the group 'ent4g'; ",
        ),
        (
            [f"--host-key={SHORT}", "--known-hosts=/x"],
            "flag --known-hosts: cannot be combined with --host-key; keep one of them",
        ),
        (
            [f"--host-key={SHORT}", "--trust-on-first-use"],
            "flag --trust-on-first-use: cannot be combined with --host-key; keep one of them",
        ),
        ([f"--host-key={SHORT}", "--peer-ca=/x"], "flag --peer-ca: cannot be combined with --host-key; keep one"),
        (["--known-hosts=/x", "--peer-ca=/x"], "flag --known-hosts: cannot be combined with --peer-ca; keep one"),
        (["--trust-on-first-use", "--peer-ca=/x"], "flag --trust-on-first-use: cannot be combined with --peer-ca"),
        (["--host-name=x"], "flag --host-name: has no effect without --peer-ca; add it, or leave this out"),
        (["--known-hosts=/no/file"], "/no/file: cannot be read: No such file or directory"),
        (["--peer-ca=/no/file"], "/no/file cannot be read: No such file or directory; name the file with your CA's"),
        (["--identity-cert=/x"], "flag --identity-cert: also needs --identity-key"),
        (["--identity-key=/x"], "flag --identity-key: also needs --identity-cert"),
        (["--identity-cert=/no/c", "--identity-key=/no/k"], "/no/c cannot be read: No such file or directory; get one"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse_client(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_file_says_which_line_names_a_list(config: Write) -> None:
    path = config("# x\nhost: {authorized_clients: /no/file}")
    with pytest.raises(usage.UsageError) as caught:
        parse_host("--config", path)
    assert str(caught.value).startswith(f"{path}: line 2: key 'host.authorized_clients': /no/file: cannot be read")


def test_the_client_names_the_weaker_setting(config: Write) -> None:
    path = config("client: {known_hosts: /x}")
    with pytest.raises(usage.UsageError, match="flag --host-key: cannot be combined with --known-hosts; keep one"):
        parse_client("--config", path, f"--host-key={SHORT}")


class TestIdentity:
    def test_each_end_has_its_own(self, state: Path) -> None:
        host, client = identity_of(parse_host()), identity_of(parse_client())
        assert host.fingerprint != client.fingerprint
        assert host.fingerprint == load_identity(state / "identities" / "host.pem", "x").fingerprint
        assert client.fingerprint == load_identity(state / "identities" / "client.pem", "x").fingerprint
        assert identity_of(parse_host()).fingerprint == host.fingerprint

    def test_an_open_end_goes_on_without_a_place_for_it(self) -> None:
        settings = parse_host("--state-dir=/proc/x")
        assert identity_of(settings).fingerprint != identity_of(settings).fingerprint

    def test_a_closed_end_does_not(self) -> None:
        settings = parse_client("--state-dir=/proc/x", f"--host-key={SHORT}")
        with pytest.raises(ConfigError, match="the identity of this machine: cannot write /proc/x"):
            identity_of(settings)

    def test_one_that_cannot_be_used_is_never_replaced(self, state: Path) -> None:
        identity_of(parse_host())
        (state / "identities" / "host.pem").write_text("oops")
        with pytest.raises(ConfigError, match="is damaged"):
            identity_of(parse_host())

    @pytest.mark.process
    def test_the_process_ends_with_one_line(self, state: Path) -> None:
        file = state / "identities" / "host.pem"
        identity_of(parse_host())
        file.chmod(0o644)
        options = rtc_host.Options()
        options.parseOptions(["--id=x"])
        with pytest.raises(SystemExit, match=f"can read the key in {file}; if nobody has, run: chmod 600"):
            rtc_host.makeService(options)


class TestCommand:
    def test_it_makes_what_there_is_not(self, state: Path, capsys: Any) -> None:
        assert main(["id"]) == 0
        shown = {end: load_identity(state / "identities" / f"{end}.pem", "x") for end in ("host", "client")}
        host, client = (show_fingerprint(shown[end].fingerprint) for end in ("host", "client"))
        folder = state / "identities"
        assert capsys.readouterr().out.splitlines() == [
            f"host:   {host}   (new; its key is in {folder / 'host.pem'})",
            f"client: {client}   (new; its key is in {folder / 'client.pem'})",
        ]
        assert main(["id"]) == 0
        assert capsys.readouterr().out.splitlines() == [f"host:   {host}", f"client: {client}"]

    def test_one_end(self, state: Path, capsys: Any) -> None:
        assert main(["id", "client", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        identity = load_identity(state / "identities" / "client.pem", "x")
        assert found == {
            "client": {
                "fingerprint": show_fingerprint(identity.fingerprint),
                "sha256": identity.fingerprint,
                "signature": "ML-DSA-65",
                "file": str(state / "identities" / "client.pem"),
                "new": True,
            }
        }
        assert parse_fingerprint(found["client"]["fingerprint"]) == identity.fingerprint[:35]
        assert not (state / "identities" / "host.pem").exists()

    def test_where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.setenv("RTUNNEL_STATE_DIR", str(tmp_path / "named"))
        assert main(["id", "host"]) == 0
        assert (tmp_path / "named" / "identities" / "host.pem").exists()
        assert main(["id", "host", "--state-dir", str(tmp_path / "given")]) == 0
        assert (tmp_path / "given" / "identities" / "host.pem").exists()
        capsys.readouterr()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["hots"], "rtunnel id: 'hots' is not an end; did you mean 'host'?"),
            (["host", "client"], "rtunnel id: 'client' is too much"),
            (["--state-dir", "/proc/x"], "rtunnel id: the identity of this machine: cannot write /proc/x"),
            (["--state-dir", ""], "rtunnel id: --state-dir: is empty"),
        ],
    )
    def test_mistakes(self, arguments: list[str], message: str, capsys: Any) -> None:
        assert main(["id", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
