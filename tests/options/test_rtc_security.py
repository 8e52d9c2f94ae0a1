"""The options of the WebRTC tunnel about TLS, tokens and the secrets of TURN servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.options.plugins import rtc_client
from rtunnel.rtc.aiortc import addresses
from rtunnel.rtc.settings import (
    IceSettings,
    TurnServer,
)
from tests.options.conftest import Write
from tests.options.rtc_parts import STUN, parse_host, parse_signal
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", kind="ECDSA")


class TestTurn:
    def test_shared_secret(self) -> None:
        ice = parse_host("--turn-server=turn:h:1?transport=tcp", "--turn-secret=s", "--turn-user=u").ice
        assert ice == IceSettings(STUN, (TurnServer("h", 1, "tcp"),), "u", "", "s")

    def test_secrets_are_not_shown(self) -> None:
        host = parse_host("--turn-server=turn:h", "--turn-user=u", "--turn-credential=geheim1", "--token=geheim2")
        signal = parse_signal("--valid-tokens=geheim3")
        assert "geheim" not in repr((host, signal))


class TestTls:
    def test_certificate_of_the_server(self, authority: Authority) -> None:
        holder = authority.server(kind="ECDSA")
        settings = parse_signal(f"--tls-cert-file={holder.cert}", f"--tls-key-file={holder.key}")
        assert (settings.cert, settings.key) == (holder.cert, holder.key)

    def test_paths_are_those_of_the_start(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon changes its directory."""
        holder = authority.server(kind="ECDSA")
        monkeypatch.chdir(authority.directory)
        monkeypatch.setenv("WTT_SERVER_TLS_CERT_FILE", "server.crt")
        monkeypatch.setenv("WTT_SERVER_TLS_KEY_FILE", "server.key")
        assert parse_signal() == replace(parse_signal(), cert=holder.cert, key=holder.key)

    def test_key_of_another(self, authority: Authority) -> None:
        holder, other = authority.server(kind="ECDSA"), authority.server("other", kind="ECDSA")
        with pytest.raises(usage.UsageError) as caught:
            parse_signal(f"--tls-cert-file={holder.cert}", f"--tls-key-file={other.key}")
        assert str(caught.value) == f"{other.key} is not the key of {holder.cert}; give the two that belong together"

    def test_no_such_file(self, authority: Authority) -> None:
        holder = authority.server(kind="ECDSA")
        with pytest.raises(usage.UsageError, match=r"/nonexistent.*give the server's certificate with --tls-cert-file"):
            parse_signal("--tls-cert-file=/nonexistent", f"--tls-key-file={holder.key}")

    def test_a_ca_of_ones_own(self, authority: Authority) -> None:
        settings = parse_host("--signal=wss://h", f"--ca-file={authority.cert}")
        assert settings.signal.ca_file == settings.ice.ca_file == authority.cert
        turn = ("--turn-server=turns:h", "--turn-secret=s")
        assert parse_host(*turn, f"--ca-file={authority.cert}").ice.ca_file == authority.cert

    def test_a_ca_of_the_file_does_not_matter_for_a_flag_without_tls(self, authority: Authority, config: Write) -> None:
        path = config(f"signal: wss://h\nca_file: {authority.cert}\n")
        assert parse_host("--config", path).signal.ca_file == authority.cert
        parse_host("--config", path, "--signal=ws://h")


class TestToken:
    """A token in the clear is allowed, since the replaced program did it, but the log says so."""

    @pytest.mark.parametrize(
        ("url", "warned"),
        [
            ("ws://192.0.2.1:8080", True),
            ("ws://signal.example.org", True),
            ("wss://signal.example.org", False),
            ("ws://localhost:8080", False),
            ("ws://127.0.0.5", False),
            ("ws://[::1]:8080", False),
        ],
    )
    @pytest.mark.parametrize("token", ["", "my-token"])
    def test_warning(self, url: str, warned: bool, token: str, logged: list[tuple[str, str]]) -> None:
        options = rtc_client.Options()
        options.parseOptions(["--id=x", f"--signal={url}", f"--token={token}"])
        options.tell()
        warnings = [text for level, text in logged if level == "warn"]
        expected = f"the token travels to {url} in the clear, where everybody on the way can read it; use wss://"
        assert warnings == ([expected] if warned and token else [])


class TestInterfaces:
    """An interface that does not exist yet, such as that of a VPN, is no error, but the log says so."""

    @pytest.fixture(autouse=True)
    def two_interfaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(addresses, "_all_addresses", lambda: iter([("lo", "127.0.0.1"), ("eth0", "10.1.2.3")]))

    def warnings(self, logged: list[tuple[str, str]], *interfaces: str) -> list[str]:
        options = rtc_client.Options()
        options.parseOptions(["--id=x", *(f"--ice-interface={one}" for one in interfaces)])
        options.tell()
        return [text for level, text in logged if level == "warn"]

    def test_all_are_there(self, logged: list[tuple[str, str]]) -> None:
        assert self.warnings(logged) == []
        assert self.warnings(logged, "127.0.0.1", "10.0.0.0/8", "eth0") == []

    def test_some_are_missing(self, logged: list[tuple[str, str]]) -> None:
        (line,) = self.warnings(logged, "eth7", "127.0.0.1", "192.0.2.0/24")
        missing = "--ice-interface eth7, 192.0.2.0/24: this machine has no such interface or address now"
        assert line == f"{missing}; it has lo (127.0.0.1), eth0 (10.1.2.3)"
