"""``--publish http:NAME[/PATH]=LOCAL``, ``https:NAME=LOCAL``, and their rules in a file."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from textwrap import dedent

import pytest
from hypothesis import given, strategies as st
from twisted.python import usage

from rtunnel.access.rules import Rules
from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.options.settings.tunnels import publish, tunnels
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.wire.tunnel_request import TunnelRequest, decode_init, encode_init
from tests.documents import ROOT
from tests.options.conftest import Write
from tests.options.tunnels import parse

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

HASH = "$scrypt$ln=15,r=8,p=1$Vm7V1DHShf38IJ6Ks/JM8A$Y2unA9pfOYYoQv2YsD5W28PN8kaP2fO9ucVf3tDCtPA"


def http(host: str, local: str, path: str = "", protocol: str = "http") -> TunnelSettings:
    return TunnelSettings(0, DialAddress.parse(local), "", protocol, host, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http:app.example.org=127.0.0.1:3000", http("app.example.org", "127.0.0.1:3000")),
        (" http:app.example.org=3000 ", http("app.example.org", "3000")),
        ("http:app=unix:/run/x", http("app", "unix:/run/x")),
        ("http:App.EXAMPLE.org.=:80", http("app.example.org", ":80")),
        ("http:b\u00fccher.example=:80", http("xn--bcher-kva.example", ":80")),
        ("http:*.dev.example.org=:80", http("*.dev.example.org", ":80")),
        ("http:*.b\u00fccher.example=:80", http("*.xn--bcher-kva.example", ":80")),
        ("http:app.example.org/=:80", http("app.example.org", ":80")),
        ("http:app.example.org/api=:80", http("app.example.org", ":80", "/api")),
        ("http:app.example.org/api/v1/=:80", http("app.example.org", ":80", "/api/v1")),
        ("http:app.example.org/%7Euser/%2f%c3%a9=:80", http("app.example.org", ":80", "/~user/%2F%C3%A9")),
        ("http:app.example.org/a/../b=:80", http("app.example.org", ":80", "/b")),
        ("http:app.example.org/.well-known=:80", http("app.example.org", ":80", "/.well-known")),
        ("http:app.example.org/" + "x" * 999 + "=:80", http("app.example.org", ":80", "/" + "x" * 999)),
        ("https:app.example.org=:8443", http("app.example.org", ":8443", protocol="https")),
        ("https:app.example.org/=:8443", http("app.example.org", ":8443", protocol="https")),
        ("https:*.dev.example.org=nas.lan:443", http("*.dev.example.org", "nas.lan:443", protocol="https")),
    ],
)
def test_forms(text: str, expected: TunnelSettings) -> None:
    assert parse("--publish", text) == (expected,)
    assert publish([text]) == tunnels([text]) == (expected,)


BOTH = "write http:app.example.org=80 or http:*.dev.example.org=80"
MISTAKES = [
    # Parts that are missing.
    ("http", "'http' has no host name; write http:app.example.org=127.0.0.1:3000"),
    ("https", "'https' has no host name; write https:app.example.org=127.0.0.1:8443"),
    ("http=80", "'http=80' has no host name; write http:app.example.org=80"),
    ("http:=80", "'http:=80' has no host name; write http:app.example.org=80"),
    ("http:/api=80", "'http:/api=80' has no host name; write http:app.example.org=80"),
    ("http:app", "'http:app' does not say which service; write http:app=127.0.0.1:3000"),
    ("http:*.x/api=", "'http:*.x/api=' does not say which service; write http:*.x/api=127.0.0.1:3000"),
    ("https:app=", "'https:app=' does not say which service; write https:app=127.0.0.1:8443"),
    ("app.example.org=80", "'app.example.org=80' has no kind; write http:app.example.org=80"),
    ("*.example.org", "'*.example.org' has no kind; write http:*.example.org=127.0.0.1:3000"),
    # Spelling.
    ("HTTP:app=80", "'HTTP' in 'HTTP:app=80' is not in lower case; write http:app=80"),
    ("http: app = :80", "'http: app = :80' has spaces; write http:app=:80"),
    ("http:app:80", "'http:app:80' has a colon where '=' belongs; write http:app=80"),
    ("http:app/api:127.0.0.1:80", "has a colon where '=' belongs; write http:app/api=127.0.0.1:80"),
    ("http:a=1,https:b=2", "'http:a=1,https:b=2' is several in one; give each by itself, http:a=1 and https:b=2"),
    # URLs.
    ("https://app=80", "'https://app=80' has a URL where a host name belongs; write https:app=80"),
    ("https://app:8443/x=80", "'https://app:8443/x=80' has a URL where a host name belongs; write https:app=80"),
    ("http://app:80/x", "'http://app:80/x' does not say which service; write http:app/x=127.0.0.1:3000"),
    ("http:http://app/x=80", "'http:http://app/x=80' has a URL where a host name belongs; write http:app/x=80"),
    ("https:https://app", "'https:https://app' does not say which service; write https:app=127.0.0.1:8443"),
    ("http:app=http://127.0.0.1:80/", "is a URL; write only its host and port, 127.0.0.1:80"),
    # Host names.
    ("http:8080=80", "'http:8080=80' has a port where http has a host name; write http:app.example.org=80"),
    ("https:80-81=80-81", "has a port where https has a host name; write https:app.example.org=80-81"),
    (
        "http:app.example.org:80=80",
        "has a port behind the host name, and --http-listen says it for all names; write http:app.example.org=80",
    ),
    (
        "https:app:443/x=80",
        "has a port behind the host name, and --https-listen says it for all names; write https:app",
    ),
    ("http:*=80", f"'*' would be every name there is; {BOTH}"),
    ("http:*.=80", f"'*.' would be every name there is; {BOTH}"),
    ("http:a.*.b=80", f"'a.*.b' has a * elsewhere than at its beginning, before a dot; {BOTH}"),
    ("http:192.0.2.1=80", f"'192.0.2.1' is not a host name; {BOTH}"),
    ("http:[::1]=80", f"'[::1]' is not a host name; {BOTH}"),
    ("http:::1=80", f"'::1' is not a host name; {BOTH}"),
    ("http:me@app=80", f"'me@app' is not a host name; {BOTH}"),
    ("http:a..b=80", f"'a..b' is not a host name; {BOTH}"),
    ("http:-a=80", f"'-a' is not a host name; {BOTH}"),
    # Paths.
    (
        "https:app/x=80",
        "'https:app/x=80' has a path, which the server does not see in https:; write https:app=80",
    ),
    ("http:app/a b=80", "'http:app/a b=80' has a path that is not one, '/a b'; write http:app/a%20b=80"),
    ("http:app/\u00e9=80", "has a path that is not one, '/\u00e9'; write http:app/%C3%A9=80"),
    ("http:app/%zz=80", "has a path that is not one, '/%zz'; write http:app/%25zz=80"),
    ("http:app/a//b?c#d=80", "has a path that is not one, '/a//b?c#d'; write http:app/a/b=80"),
    ("http:app/a:b=80", "has a path that is not one, '/a:b'; write http:app/a%3Ab=80"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse("--publish", text)
    assert str(caught.value).startswith("flag --publish: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_remedy_works() -> None:
    tried = 0
    for text, _ in MISTAKES:
        with pytest.raises(ConfigError) as caught:
            publish([text])
        remedy = str(caught.value).rpartition("; write ")[2]
        if remedy.startswith("http") and "80-81" not in remedy:
            tried += 1
            assert all(publish([each]) for each in remedy.split(" or ")), text
    assert tried > 30


@pytest.mark.parametrize("text", ["http:", "http:a=", "http:a/", "https:a=1,http:", "http://", "http:a:"])
def test_long_input_is_cut(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not KIND:PORT=LOCAL") as caught:
        publish([text + "8\u00e9" * 50_000])
    assert len(str(caught.value)) < 500


@given(st.from_regex(r"https?:[*.aB:/%2fE\[\]@ =\u00e9-]{0,20}=?[:0-9.]{0,9}", fullmatch=True))
def test_what_is_read_can_be_asked_for(text: str) -> None:
    with suppress(ConfigError):
        for each in publish([text]):
            asked = TunnelRequest(0, str(each.local), each.protocol, each.host, each.path)
            assert decode_init(encode_init(asked)) == asked
            (again,) = publish([f"{each.protocol}:{each.host}{each.path}={each.local}"])
            assert again == each


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (("http:app=1", "http:APP/=2"), "http:app"),
        (("http:app/x=1", "http:app/x/=2"), "http:app/x"),
        (("https:app=1", "https:app=2"), "https:app"),
    ],
)
def test_the_same_twice(texts: tuple[str, str], what: str) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parse(*(f"--publish={text}" for text in texts))
    assert str(caught.value) == f"flag --publish: two tunnels want {what}; a request goes to one of them"


def test_a_name_for_both_protocols_and_several_paths() -> None:
    assert len(parse("--publish=http:app=1", "--publish=https:app=1", "--publish=http:app/x=1")) == 3


# Rules


def entry(config: Write, *lines: str, publish: str = "http:app.example.org=3000") -> str:
    return config("tunnels:\n  - publish: " + publish + "".join(f"\n    {line}" for line in lines))


def test_rules_in_a_file(config: Write) -> None:
    path = entry(
        config,
        "name: web",
        "allow: 192.0.2.0/24,2001:db8::1",
        "deny: [192.0.2.7]",
        "max-connections: 20",
        "max_requests: 0.5",
        f"auth: alice:{HASH}",
        "request-headers: {X-From: outside, Cookie: null}",
        "response_headers: {Server: null}",
        "redirect-https: yes",
    )
    (found,) = parse("--config", path)
    assert found == TunnelSettings(
        0,
        DialAddress.parse("3000"),
        "web",
        "http",
        "app.example.org",
        rules=Rules(
            (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::1/128")),
            (IPv4Network("192.0.2.7/32"),),
            20,
            requests=0.5,
            users=(("alice", HASH),),
            request_headers=(("X-From", "outside"), ("Cookie", None)),
            response_headers=(("Server", None),),
            redirect_https=True,
        ),
    )


def test_rules_of_https(config: Write) -> None:
    path = entry(config, "deny: 192.0.2.7", "max-connections: 2", publish="https:app.example.org=8443")
    assert parse("--config", path)[0].rules == Rules(deny=(IPv4Network("192.0.2.7"),), connections=2)


@pytest.mark.parametrize(
    ("publish", "line", "message"),
    [
        ("http:app=1", "allow: 10.0.0.1/8", "'allow': '10.0.0.1/8' is not a network; write 10.0.0.0/8"),
        ("http:app=1", "auth: alice:secret", "'auth': what stands behind 'alice:' is not the hash of a password;"),
        ("http:app=1", "request-headers: {TE: x}", "'request-headers': 'TE' belongs to the connection"),
        (
            "https:app=1",
            "tls: passthrough\n    redirect-https: true",
            "'redirect-https': is about requests, which the server does not see in https:; leave it out",
        ),
        (
            "udp:53=1",
            "max-requests: 1",
            "'max-requests': is about requests, which the server sees only in tunnels of 'publish: http:NAME=LOCAL'",
        ),
        ("tcp:80=1", "redirect_https: true", "'redirect-https': is about requests, which the server sees only in"),
        (
            "tcp:80=1",
            "max-connections: 0",
            "'max-connections': 0 is out of range; write a whole number from 1 to 1000000",
        ),
        (
            "tcp:80=1",
            "max-connection-rate: fast",
            "'max-connection-rate': 'fast' is not a number of connections a second; write one such as 10 or 0.5, from",
        ),
        (
            "http:app=1",
            "max-connection-rate: 1",
            "'max-connection-rate': is about connections, and one carries many requests; write max-requests",
        ),
        ("tcp:80=1", "allow: none", "'allow': has no network; write one such as 192.0.2.0/24, or leave it out"),
    ],
)
def test_mistakes_in_rules(config: Write, publish: str, line: str, message: str) -> None:
    path = entry(config, line, publish=publish)
    with pytest.raises(usage.UsageError) as caught:
        parse("--config", path)
    number = 3 + line.count("\n")
    assert str(caught.value).startswith(f"{path}: line {number}: key 'tunnels': entry 1: key {message}")


@pytest.mark.parametrize(
    "kind", ["local: 80, remote-port: 80", "local: 80", "publish: 'tcp:80=80'", "publish: 'udp:53=53'"]
)
def test_rules_of_a_port(kind: str, config: Write) -> None:
    path = config(f"tunnels: [{{{kind}, allow: 10.0.0.0/8, max-connections: 3, max-connection-rate: 0.2}}]")
    (found,) = parse("--config", path)
    assert found.rules == Rules((IPv4Network("10.0.0.0/8"),), connections=3, connection_rate=0.2)


def test_rules_of_each_port_of_a_range(config: Write) -> None:
    found = parse("--config", entry(config, "deny: 10.0.0.0/8", publish="tcp:8000-8002=9000-9002"))
    assert [each.rules for each in found] == 3 * [Rules(deny=(IPv4Network("10.0.0.0/8"),))]


def test_rules_as_the_documents_have_them(config: Write) -> None:
    found = re.search(r"(?m)^Who may come$[^:]+::\n\n((?: .*\n)+)", (ROOT / "docs/reverse-tunnel.rst").read_text())
    assert found is not None
    ssh, dns = parse("--config", config(dedent(found[1])))
    assert (ssh.rules.connections, ssh.rules.connection_rate) == (4, 0.2)
    assert (dns.protocol, len(dns.rules.allow)) == ("udp", 2)


def test_an_unknown_rule(config: Write) -> None:
    with pytest.raises(usage.UsageError, match=r"unknown key 'redirct_https'; did you mean 'redirect_https'\?"):
        parse("--config", entry(config, "redirct-https: true"))
