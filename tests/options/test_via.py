"""``--via``: URLs of proxies, the environment's proxy, and one line for each mistake, without the password."""

from __future__ import annotations

import pytest
from twisted.python import usage

from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.proxies import Proxy, proxy_of_environment
from rtunnel.reverse.settings import ClientSettings
from tests.options.reverse_parts import CLIENT_MINIMUM, parse_client

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

SERVER = "tunnel.example.org"


def proxy(kind: str, place: str, user: str = "", password: str = "") -> Proxy:
    return Proxy(kind, DialAddress.parse(place), user, password)


GOOD = {
    "http://proxy:3128": proxy("http", "proxy:3128"),
    " HTTP://192.0.2.1:8080/ ": proxy("http", "192.0.2.1:8080"),
    "http://[2001:db8::1]:3128": proxy("http", "[2001:db8::1]:3128"),
    "http://me:s3cret@proxy:3128": proxy("http", "proxy:3128", "me", "s3cret"),
    "http://me:p@ss:w/o%20rd%40@proxy:3128": proxy("http", "proxy:3128", "me", "p@ss:w/o rd@"),
    "http://DOMAIN%5Cme:%C3%A4@proxy:3128": proxy("http", "proxy:3128", "DOMAIN\\me", "ä"),
    "http://unix:3128": Proxy("http", DialAddress.parse("tcp:unix:3128")),
    "http://me@proxy:3128": proxy("http", "proxy:3128", "me"),
    "socks5://proxy:1080": proxy("socks5", "proxy:1080"),
    "socks5h://me:a%3Ab@proxy:1080": proxy("socks5", "proxy:1080", "me", "a:b"),
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_urls(text: str, expected: Proxy) -> None:
    assert parse_client(*CLIENT_MINIMUM, "--via", text).via == expected


def test_password_is_not_shown() -> None:
    settings = parse_client(*CLIENT_MINIMUM, "--via", "http://you:s3cret@proxy:3128")
    assert str(settings.via) == "http://proxy:3128"
    assert "s3cret" not in repr(settings)
    assert "you" not in repr(settings.via)


BAD = {
    "proxy:3128": "'proxy:3128' has no http:// or socks5:// in front; write http://HOST:3128",
    "you:s3cret@proxy:3128": "'...@proxy:3128' has no http:// or socks5:// in front",
    "you:s3cret://@proxy:3128": r"'\.\.\.@proxy:3128' has no http:// or socks5:// in front",
    "http://proxy": "'http://proxy' has no port; write http://proxy:3128",
    "http://you:s3cret@proxy": "'http://...@proxy' has no port; write http://proxy:3128",
    "socks5://[::1]": r"'socks5://\[::1\]' has no port; write socks5://\[::1\]:1080",
    "http://proxy:": "'proxy:' has no port after the colon; write proxy:3128",
    "http://you:s3cret@proxy:x": "'x' in 'proxy:x' is not a port number",
    "http://proxy:99999": "port 99999 is out of range",
    "http://::1:3128": r"is an IPv6 address without brackets; write \[::1\]:3128",
    "http://:3128": "'http://:3128' has no host",
    "http://": "'http://' has no host",
    "http://you:s3cret@": r"'http://\.\.\.@' has no host",
    "http://you:s3 cret@proxy:3128": r"'http://\.\.\.@proxy:3128' has a space or a control character in it",
    "http://pro xy:3128": "has a space or a control character in it; in a password write %20",
    "https://you:s3cret@proxy:3128": "'https://...@proxy:3128': TLS to the proxy itself is not supported; write http://",
    "socks4://proxy:1080": "'socks4' is no kind of proxy; did you mean 'socks5'",
    "ftp://proxy:21": "'ftp' is no kind of proxy",
    "http://you:s3cret@proxy:3128/path": "'http://...@proxy:3128/path' has a path, and a proxy has none",
    "http://proxy:3128?a=b": "has a path",
    "http://:s3cret@proxy:3128": "has no user before the @",
    "http://@proxy:3128": "has no user before the @",
    "http://a%3Ab:s3cret@proxy:3128": "a user with a colon cannot be sent to an HTTP proxy",
    "http://you:s3cret%0A@proxy:3128": "the user or the password has a control character in it",
    "http://you:s3cret%FF@proxy:3128": "the user or the password is not UTF-8",
    f"socks5://you:s3cret{'x' * 250}@proxy:1080": "the user or the password has more than 255 bytes",
    "http://tcp:proxy:3128": "'tcp:proxy' in 'tcp:proxy:3128' is not a host name",
    "http://-bad-:3128": "is not a host name",
    "environment": "has no http:// or socks5:// in front",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(usage.UsageError, match=f"^flag --via: .*{message}") as caught:
        parse_client(*CLIENT_MINIMUM, "--via", text)
    assert "s3cret" not in str(caught.value)
    assert "you:" not in str(caught.value)


@pytest.mark.parametrize("server", ["unix:/run/x", "tcp:192.0.2.1:7000:timeout=5"])
def test_server_that_no_proxy_reaches(server: str) -> None:
    with pytest.raises(usage.UsageError, match="flag --via: a proxy needs --server as host and port, and it is '"):
        parse_client("--server", server, "--local", ":80", "--via", "http://proxy:3128")


def test_datagrams_without_a_way() -> None:
    arguments = ["--server", "1.2.3.4:7000", "--publish", "udp:53=53", "--data-plane", "mux"]
    with pytest.raises(usage.UsageError, match="flag --data-plane: mux leaves UDP tunnels no way through the proxy"):
        parse_client(*arguments, "--via", "http://proxy:3128")
    assert parse_client(*arguments).via is None


@pytest.mark.parametrize(
    ("server", "via", "complaint"),
    [
        ("127.0.0.1:7000", "http://127.0.0.1:3128", ""),
        ("127.0.0.1:7000", "http://proxy:3128", "would travel to proxy:3128 in the clear"),
        ("192.0.2.1:7000", "http://127.0.0.1:3128", "would travel to 192.0.2.1:7000 in the clear"),
    ],
)
def test_token_in_the_clear(server: str, via: str, complaint: str) -> None:
    def parse() -> ClientSettings:
        return parse_client("--server", server, "--local", ":80", "--via", via, "--token", "some-long-secret-token")

    if complaint:
        with pytest.raises(usage.UsageError, match=complaint):
            parse()
    else:
        assert parse().token


ENVIRONMENTS: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"HTTPS_PROXY": ""}, None),
    ({"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
    ({"https_proxy": "http://b:1", "HTTPS_PROXY": "http://a:1"}, "http://b:1"),
    ({"ALL_PROXY": "socks5h://c:1"}, "socks5://c:1"),
    ({"ALL_PROXY": "socks5://c:1", "HTTPS_PROXY": "a:1"}, "http://a:1"),
    ({"HTTP_PROXY": "http://a:1", "http_proxy": "http://a:1"}, None),
    ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "*"}, None),
    ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "localhost, .Example.ORG"}, None),
    ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "tunnel.example.org"}, None),
    ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "ample.org 10.0.0.0/8"}, "http://a:1"),
    ({"HTTPS_PROXY": "http://a:1", "no_proxy": "other.org", "NO_PROXY": "*"}, "http://a:1"),
    ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": ",,"}, "http://a:1"),
]


@pytest.mark.parametrize(("environ", "expected"), ENVIRONMENTS)
def test_environment(environ: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    via = parse_client("--server", f"{SERVER}:7000", "--local", ":80", "--via", "env").via
    assert (None if via is None else str(via)) == expected
    assert parse_client("--server", f"{SERVER}:7000", "--local", ":80").via is None


@pytest.mark.parametrize(
    ("host", "exceptions", "is_excepted"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "[2001:db8:0::1]", True),
        ("10.1.2.3", "2.3", False),
        ("example.org.", "example.org", True),
    ],
)
def test_exceptions(host: str, exceptions: str, is_excepted: bool) -> None:
    found = proxy_of_environment({"HTTPS_PROXY": "http://a:1", "NO_PROXY": exceptions}, host)
    assert (found is None) == is_excepted


def test_environment_names_one_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match=r"^environment variable HTTPS_PROXY: .* has no port; write"):
        proxy_of_environment({"HTTPS_PROXY": "http://you:s3cret@proxy"}, SERVER)
