"""``files:DIR`` in place of a local service: its forms, and one line with the remedy for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.python import usage

from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.options.plugins import rtc_host, rtunnel_client
from tests.options.conftest import Write
from tests.options.tunnels import parse, refused
from tests.tls.parts import Authority

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

NO_TLS = "has no TLS of its own; end it here, with --acme-email or the key 'tls', or publish http:files.example.org="


@pytest.fixture
def share(tmp_path: Path) -> Path:
    root = tmp_path / "my share, a:b=c"
    root.mkdir()
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        ("--publish", "tcp:8080=files:{share}"),
        ("--publish", "http:files.example.org=files:{share}"),
        ("--publish", "http:files.example.org/x=files:{share}"),
        ("--publish", "https:files.example.org=files:{share}", "--acme-email=me@example.org"),
        ("--tunnel", "8080:files:{share}"),
        ("--local", "files:{share}"),
        ("--local", "files:{share}/"),
    ],
)
def test_forms(share: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    # A comma separates several in one flag.
    plain = tmp_path / "a:b=c"
    share.rename(plain)
    (tunnel,) = parse(*(text.format(share=plain) for text in arguments))
    assert tunnel.local.directory == plain
    assert tunnel.local.text.rstrip("/") == f"files:{plain}"
    assert tunnel.local.socket_address() is None


def test_file(share: Path, config: Write, tmp_path: Path) -> None:
    holder = Authority(tmp_path / "pki").server(hosts=["files.example.org"])
    found = parse(
        "--config",
        config(
            f"tunnels:\n"
            f"- {{local: 'files:{share}', remote-port: 8080, name: share}}\n"
            f"- {{publish: 'http:files.example.org=files:{share}', allow: 192.0.2.0/24}}\n"
            f"- {{publish: 'https:files.example.org=files:{share}', "
            f"tls: {{certificate: {holder.cert}, private-key: {holder.key}}}}}\n"
            f"publish:\n"
            f"- 'tcp:9090=files:{share}'\n"
        ),
    )
    assert [tunnel.local.directory for tunnel in found] == [share] * 4


def test_a_relative_path_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every other option. A daemon may have another one later."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for written in ("here", "./here", "~/here"):
        (tunnel,) = parse("--local", f"files:{written}")
        assert tunnel.local.directory == tmp_path / "here"
        assert str(tunnel.local) == tunnel.local.in_full == f"files:{written}"


def test_two_of_the_same_directory_are_the_same() -> None:
    one, other = (DialAddress.of_directory(text, Path("/srv/share")) for text in ("files:/srv/share", "files:share"))
    assert one == other
    assert one.directory == Path("/srv/share")
    assert DialAddress.parse("unix:/srv/share").directory is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--local", "files:"), "flag --local: 'files:' does not say which directory; write files:/srv/share"),
        (("--local", "files:///srv"), "flag --local: 'files:///srv' is a URL; write files:/srv"),
        (("--publish", "tcp:1=files:"), "'files:' does not say which directory; write files:/srv/share"),
        (("--publish", "udp:1=files:/srv"), "'files:/srv' is a directory, which is served by HTTP and not by UDP"),
        (("--publish", "tcp:1-2=files:/srv"), "has a range of public ports, and no range of local ones"),
        (("--publish", "files:/srv"), "'files' in 'files:/srv' is not a kind of tunnel"),
        (("--publish", "https:files.example.org=files:{share}"), NO_TLS),
        (("--publish", "https:*.example.org=files:{share}", "--acme-email=me@example.org"), "has no TLS of its own"),
        (("--local", "files:{share}/nothing"), "/nothing cannot be read: no such file or directory; name a directory"),
        (("--local", "files:{share}/file"), "/file cannot be read: not a directory; name a directory that this user"),
        (("--local", "files:" + "x/" * 5000), "cannot be read: file name too long; name a directory"),
        (("--local", "files:a\0b"), "is not the name of a file"),
        (("--local", "files:~nobody-here/x"), "begins with ~, and there is no such home directory"),
        (("--local", "/"), "flag --local: '/' is a directory; write files:/"),
        (("--local", "/srv/nothing"), "flag --local: '/srv/nothing' is a path; write unix:/srv/nothing"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "file").touch()
    found = refused(*(text.format(share=share) for text in arguments))
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{{local: 'files:{share}', remote-port: 80, proxy-protocol: v2}}", "reads no PROXY header; leave out the key"),
        (
            "{{publish: 'http:x.example.org=files:{share}', proxy-protocol: v2}}",
            "key 'proxy_protocol': is about",
        ),
        ("{{publish: 'https:x.example.org=files:{share}', tls: passthrough}}", "has no TLS of its own"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, config: Write, entry: str, message: str) -> None:
    path = config(f"acme-email: me@example.org\ntunnels: [{entry.format(share=tmp_path)}]")
    assert message in refused("--config", path)


def test_only_a_local_service_of_the_client(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory, which only a local service of rtunnel-client can be"):
        DialAddress.parse(f"files:{tmp_path}")
    options = rtunnel_client.Options()
    with pytest.raises(usage.UsageError, match="flag --server: 'files:/srv' is a directory, which only"):
        options.parseOptions(["--server=files:/srv", "--local=:80"])
    with pytest.raises(usage.UsageError, match="'files:/srv' is a directory, which only a local service of rtunnel-cl"):
        rtc_host.Options().parseOptions(["--signal=ws://x:1", "--id=x", "--remote=files:/srv"])
