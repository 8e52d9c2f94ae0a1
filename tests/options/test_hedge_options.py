"""``--hedge``: what it takes, and that it is refused where it could not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.options.plugins import rtc_client, rtc_host, rtunnel_client, rtunnel_server
from rtunnel.rtc.settings import EndSettings
from rtunnel.tls.hedge import liboqs
from rtunnel.wire.data.hedges import KEMS
from tests.needs import LIBOQS, NO_LIBOQS
from tests.options.rtc_parts import parse, parse_client, parse_host
from tests.tls.parts import Authority

MCELIECE, FRODO = KEMS
SERVER = ["--tls"]
CLIENT = ["--tls", "--server", "127.0.0.1:7000", "--tunnel", "8080:80"]


@pytest.fixture(autouse=True)
def _certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    monkeypatch.setenv("RTUNNEL_PKI_DIR", str(authority.directory))


@pytest.fixture
def _no_liboqs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    liboqs.look.cache_clear()
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    yield
    liboqs.look.cache_clear()


def _parse(arguments: list[str], *more: str) -> rtunnel_server.Options | rtunnel_client.Options:
    options = rtunnel_client.Options() if arguments is CLIENT else rtunnel_server.Options()
    options.parseOptions([*arguments, *more])
    return options


@pytest.mark.parametrize("arguments", [SERVER, CLIENT], ids=["server", "client"])
@pytest.mark.usefixtures("_no_liboqs")
def test_without_liboqs_the_error_says_how_to_get_it(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(usage.UsageError) as raised:
        _parse(arguments, "--hedge", FRODO)
    text = str(raised.value)
    assert text.startswith(f"flag --hedge: needs the native library liboqs, and there is none in {tmp_path} (")
    assert text.endswith("say where it is by OQS_INSTALL_PATH: see 'liboqs, for --hedge' in docs/installing.rst")
    assert "liboqs, for --hedge\n" in Path(__file__).parents[2].joinpath("docs/installing.rst").read_text("utf-8")


@pytest.mark.usefixtures("_no_liboqs")
def test_nobody_needs_liboqs_without_hedges() -> None:
    for arguments in (SERVER, CLIENT):
        assert _parse(arguments).settings.hedge == ()
        assert _parse(arguments).settings.plane == "auto"


def test_it_needs_tls() -> None:
    with pytest.raises(usage.UsageError, match=r"^flag --hedge: needs TLS, into whose keys it mixes others"):
        _parse([], "--hedge", FRODO)


def test_visitors_must_have_a_way() -> None:
    with pytest.raises(usage.UsageError, match=r"^flag --data-plane: mux leaves visitors no way, as none may "):
        _parse(SERVER, "--hedge", FRODO, "--data-plane", "mux")


def test_a_name_that_is_none() -> None:
    with pytest.raises(usage.UsageError, match=f"^flag --hedge: 'HQC-256' is not one of {MCELIECE}, {FRODO}$"):
        _parse(SERVER, "--hedge", f"{FRODO},HQC-256")


@pytest.mark.liboqs
@pytest.mark.skipif(not LIBOQS, reason=NO_LIBOQS)
@pytest.mark.parametrize("written", [f"{MCELIECE},{FRODO}", f"{FRODO}, {MCELIECE}", f"{FRODO},{MCELIECE},{FRODO},"])
@pytest.mark.parametrize("arguments", [SERVER, CLIENT], ids=["server", "client"])
@pytest.mark.parametrize("plane", ["auto", "direct"])
def test_both_in_one_order(written: str, arguments: list[str], plane: str) -> None:
    settings = _parse(arguments, "--hedge", written, "--data-plane", plane).settings
    assert settings.hedge == (MCELIECE, FRODO)
    assert settings.plane == "direct"


# The WebRTC tunnel


@pytest.mark.parametrize("options_class", [rtc_host.Options, rtc_client.Options])
@pytest.mark.usefixtures("_no_liboqs")
def test_peer_connections_without_liboqs(options_class: type, tmp_path: Path) -> None:
    with pytest.raises(usage.UsageError) as raised:
        parse(options_class, "--id=x", "--hedge", FRODO)
    assert str(raised.value).startswith(
        f"flag --hedge: needs the native library liboqs, and there is none in {tmp_path} ("
    )
    assert parse(options_class, "--id=x").hedge == ()


def test_a_name_that_is_none_for_peer_connections() -> None:
    with pytest.raises(usage.UsageError, match=f"^flag --hedge: 'HQC-256' is not one of {MCELIECE}, {FRODO}$"):
        parse_host("--hedge", "HQC-256")


@pytest.mark.liboqs
@pytest.mark.skipif(not LIBOQS, reason=NO_LIBOQS)
@pytest.mark.parametrize("read", [parse_host, parse_client])
def test_peer_connections_from_every_source(
    read: Callable[..., EndSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read("--hedge", f"{FRODO},{MCELIECE}").hedge == (MCELIECE, FRODO)
    file = tmp_path / "x.json"
    file.write_text(f'{{"hedge": ["{FRODO}", "{MCELIECE}"]}}')
    assert read("--config", str(file)).hedge == (MCELIECE, FRODO)
    monkeypatch.setenv("RTUNNEL_HEDGE", FRODO)
    assert read().hedge == (FRODO,)
