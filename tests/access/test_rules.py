"""Rules of a tunnel: from the file, over the wire, and what they say about an address."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.access import rules as module
from rtunnel.access.passwords import MOST_NAME
from rtunnel.access.rules import Rules, read_rules, rules_as_json
from rtunnel.errors import ConfigError
from rtunnel.wire.tunnel_request import MAX_RULES, TunnelRequest, decode_init, encode_init

HASH = "$scrypt$ln=15,r=8,p=1$Vm7V1DHShf38IJ6Ks/JM8A$Y2unA9pfOYYoQv2YsD5W28PN8kaP2fO9ucVf3tDCtPA"


def networks(bits: int, lowest: int) -> st.SearchStrategy[str]:
    addresses = st.integers(lowest, 2**bits - 1)
    return st.builds(lambda *parts: str(ip_network(parts, strict=False)), addresses, st.integers(0, bits))


NETWORKS = networks(32, 0) | networks(128, 2**32)
ADDRESSES = st.ip_addresses().map(str)
USER = (
    st.text(max_size=MOST_NAME)
    .filter(lambda name: name.isprintable() and name.strip() == name != "")
    .filter(lambda name: ":" not in name)
)
USERS = st.lists(USER, min_size=1, max_size=4, unique=True)
FIELDS = st.dictionaries(
    st.from_regex(r"X-[A-Za-z0-9_.~]{1,20}", fullmatch=True),
    st.none() | st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True) | st.integers(),
    max_size=4,
).filter(lambda fields: len({name.lower() for name in fields}) == len(fields))
WRITTEN = st.fixed_dictionaries(
    {},
    optional={
        "allow": st.lists(NETWORKS | ADDRESSES, min_size=1, max_size=5) | NETWORKS,
        "deny": st.lists(NETWORKS | ADDRESSES, min_size=1, max_size=5).map(",".join),
        "max-connections": st.integers(1, 1_000_000) | st.integers(1, 99).map(str),
        "max_requests": st.integers(1, 1_000_000) | st.floats(0.001, 1_000_000) | st.just("0.5"),
        "auth": USERS.map(lambda names: [f"{name}:{HASH}" for name in names]),
        "request-headers": FIELDS,
        "response_headers": FIELDS,
        "redirect-https": st.booleans() | st.sampled_from(["yes", "no"]),
    },
)


@given(WRITTEN)
def test_from_the_file_over_the_wire(written: dict[str, Any]) -> None:
    rules = read_rules(written)
    asked = TunnelRequest(0, ":80", "http", "app.example.org", "", rules_as_json(rules))
    arrived = decode_init(encode_init(asked)).rules
    assert arrived == rules_as_json(rules)
    assert read_rules(arrived) == rules


def test_what_says_nothing_is_left_out() -> None:
    assert rules_as_json(Rules()) == {}
    assert read_rules({}) == Rules()
    written: dict[str, object] = {
        "allow": None,
        "deny": [],
        "auth": None,
        "request-headers": {},
        "redirect-https": False,
    }
    assert read_rules(written) == Rules()


def test_a_single_user_and_the_names_of_keys() -> None:
    rules = read_rules({"auth": f"alice:{HASH}", "max-requests": 3, "request_headers": {"Host": "localhost"}})
    assert rules == Rules(users=(("alice", HASH),), requests=3.0, request_headers=(("Host", "localhost"),))


def test_networks() -> None:
    found = read_rules(
        {"allow": ["10.0.0.0/8", "192.0.2.7", "::ffff:192.0.2.0/120", "2001:DB8::/32", "fe80::1%lo", "10.0.0.0/8"]}
    )
    assert found.allow == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("192.0.2.7/32"),
        IPv4Network("192.0.2.0/24"),
        IPv6Network("2001:db8::/32"),
        IPv6Network("fe80::1"),
    )


MANY = [f"10.0.{number}.0/24" for number in range(module.MOST_NETWORKS)]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"alow": "10.0.0.0/8"}, "unknown key 'alow'; did you mean 'allow'?"),
        (
            {"max-requests": 1, "max_requests": 2},
            "keys 'max-requests' and 'max_requests' are the same; keep one",
        ),
        # Networks.
        ({"allow": "10.0.0.1/8"}, "key 'allow': '10.0.0.1/8' is not a network; write 10.0.0.0/8"),
        ({"deny": ["2001:db8::1/32"]}, "key 'deny': '2001:db8::1/32' is not a network; write 2001:db8::/32"),
        ({"allow": "office"}, "key 'allow': 'office' is not a network; write networks such as 10.0.0.0/8"),
        ({"allow": "10.0.0.0/33"}, "key 'allow': '10.0.0.0/33' is not a network"),
        ({"allow": 5}, "key 'allow': '5' is not a network"),
        ({"allow": "1.2.3.4:80"}, "key 'allow': '1.2.3.4:80' is not a network"),
        (
            {"allow": []},
            "key 'allow': has no network; write one such as 192.0.2.0/24, or leave it out to let everybody",
        ),
        ({"allow": "none"}, "key 'allow': has no network"),
        ({"auth": []}, "key 'auth': has no user; write what 'rtunnel passwd USER' prints, or leave it out to let"),
        ({"allow": ""}, "key 'allow': is empty"),
        ({"allow": "10.0.0.0/8,"}, "key 'allow': '' is not a network"),
        ({"allow": {"a": 1}}, "key 'allow': {\"a\": 1} is not text"),
        ({"allow": [["10.0.0.0/8"]]}, "key 'allow': [\"10.0.0.0/8\"] is not text"),
        ({"deny": [*MANY, "11.0.0.0/8"]}, "key 'deny': has 257 networks, and 256 is the most"),
        # Numbers.
        ({"max-connections": 0}, "key 'max-connections': 0 is out of range; write a whole number from 1 to 1000000"),
        ({"max-connections": 1.5}, "key 'max-connections': 1.5 is not a whole number"),
        (
            {"max-requests": 0},
            "key 'max-requests': 0 is not a number of requests a second; write one such as",
        ),
        ({"max-requests": -1}, "key 'max-requests': -1 is not a number"),
        ({"max-requests": True}, "key 'max-requests': true is not a number"),
        ({"max-requests": float("nan")}, "key 'max-requests': NaN is not a number"),
        ({"max-requests": float("inf")}, "key 'max-requests': Infinity is not a number"),
        ({"max-requests": 10**400}, "key 'max-requests': 1000"),
        ({"max-requests": 2_000_000}, "key 'max-requests': 2000000 is not a number"),
        ({"max-requests": "10/s"}, "key 'max-requests': '10/s' is not a number"),
        ({"redirect-https": "maybe"}, "key 'redirect-https': 'maybe' is neither true nor false"),
        # Users.
        (
            {"auth": "alice:secret"},
            "what stands behind 'alice:' is not the hash of a password; write what 'rtunnel passwd alice' prints",
        ),
        ({"auth": "alice"}, "key 'auth': is not USER:HASH; write what 'rtunnel passwd USER' prints"),
        ({"auth": ["alice:$2b$12$x"]}, "key 'auth': what stands behind 'alice:' is a hash of another kind;"),
        ({"auth": ["alice:{SHA}x"]}, "key 'auth': what stands behind 'alice:' is a hash of another kind;"),
        ({"auth": f"alice:{HASH[:-2]}"}, "key 'auth': what stands behind 'alice:' is cut off;"),
        (
            {"auth": f"alice:{HASH.replace('15', '18')}"},
            "what stands behind 'alice:' has ln=18, and 10 to 17 is allowed",
        ),
        ({"auth": f"alice:{HASH.replace('15', '9')}"}, "what stands behind 'alice:' has ln=9, and 10 to 17 is allowed"),
        ({"auth": f"alice:{HASH.replace('r=8', 'r=9')}"}, "what stands behind 'alice:' is a hash of another kind"),
        ({"auth": f":{HASH}"}, "key 'auth': '' is not the name of a user, which has 1 to 64 printable characters"),
        ({"auth": f"a\nb:{HASH}"}, "is not the name of a user"),
        ({"auth": f"{'a' * 65}:{HASH}"}, "is not the name of a user"),
        ({"auth": [f"a:{HASH}", f"a:{HASH}"]}, "key 'auth': user 'a' is there twice; keep one"),
        ({"auth": [f"a{number}:{HASH}" for number in range(65)]}, "key 'auth': has 65 users, and 64 is the most"),
        ({"auth": {"alice": HASH}}, "is not text; put it in quotes"),
        # Fields.
        (
            {"request-headers": "X: 1"},
            "key 'request-headers': 'X: 1' is not a mapping; write lines such as 'X-Name: text'",
        ),
        ({"request-headers": {"X Y": "1"}}, "key 'request-headers': 'X Y' is not the name of a field"),
        ({"request-headers": {"": "1"}}, "'' is not the name of a field"),
        ({"request-headers": {1: "1"}}, "1 is not the name of a field"),
        ({"request-headers": {"\u00e9": "1"}}, "is not the name of a field"),
        ({"request-headers": {"X:": "1"}}, "'X:' is not the name of a field"),
        ({"request-headers": {"x" * 65: "1"}}, "is not the name of a field"),
        ({"request-headers": {"X": "a\r\nEvil: 1"}}, "is not the value of a field, which has up to 1,024 printable"),
        ({"request-headers": {"X": "\0"}}, "is not the value of a field"),
        ({"request-headers": {"X": "\u00e9"}}, "is not the value of a field"),
        ({"request-headers": {"X": "\ud800"}}, "is not the value of a field"),
        ({"request-headers": {"X": "x" * 1025}}, "is not the value of a field"),
        ({"request-headers": {"X": ""}}, "key 'request-headers': 'X': is empty; to remove the field, write null"),
        ({"request-headers": {"X": True}}, "'X': true is not text; put it in quotes; to remove the field, write null"),
        ({"request-headers": {"X-A": "1", "x-a": "2"}}, "key 'request-headers': 'x-a' is there twice; keep one"),
        ({"request-headers": {f"X{n}": "1" for n in range(33)}}, "has 33 fields, and 32 is the most"),
        ({"request-headers": {"Host": None}}, "'Host' can be set for requests, and not removed; write it in 'request-"),
        ({"response-headers": {"Host": "x"}}, "'Host' can be set for requests, and not removed"),
        (
            {"request-headers": {f"X{n}": "x" * 1000 for n in range(16)}},
            "bytes, and 16,000 is the most; write fewer or shorter ones",
        ),
    ],
)
def test_mistakes(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rules(written)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "content-length",
        "Transfer-Encoding",
        "UPGRADE",
        "TE",
        "Trailer",
        "Keep-Alive",
        "Expect",
        "Proxy-Connection",
        "proxy-authenticate",
    ],
)
@pytest.mark.parametrize("key", ["request-headers", "response-headers"])
@pytest.mark.parametrize("value", ["x", None])
def test_fields_of_the_connection(key: str, name: str, value: str | None) -> None:
    with pytest.raises(ConfigError, match=f"^key '{key}': '{name}' belongs to the connection, and cannot be changed"):
        read_rules({key: {name: value}})


@pytest.mark.parametrize(
    "written",
    [
        {"max-requests": 1},
        {"auth": f"alice:{HASH}"},
        {"request-headers": {}},
        {"response_headers": {"X": "1"}},
        {"redirect-https": False},
    ],
)
def test_rules_about_requests_for_https(written: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is about requests, which the server does not see in https:; leave it out"):
        read_rules(written, "https")
    read_rules(written, "http")


def test_rules_that_are_long_fit_into_init() -> None:
    fields = {f"X{number}": "x" * 970 for number in range(16)}
    rules = rules_as_json(read_rules({"request-headers": fields}))
    assert module.MOST_BYTES * 0.95 < len(json.dumps(rules)) <= module.MOST_BYTES <= MAX_RULES
    asked = TunnelRequest(0, ":80", "http", "app", "", rules)
    assert decode_init(encode_init(asked)) == asked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(module.KEYS)) | st.text(max_size=9), JSON, max_size=3))
def test_whatever_comes_is_read_or_refused(written: dict[str, Any]) -> None:
    with suppress(ConfigError):
        rules = read_rules(written)
        assert read_rules(rules_as_json(rules)) == rules


# Addresses


@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=4), ADDRESSES)
def test_admits_as_each_network_says(allow: list[str], deny: list[str], address: str) -> None:
    rules = read_rules({"allow": allow or None, "deny": deny})
    visitor = ip_address(address)
    mapped = getattr(visitor, "ipv4_mapped", None)
    visitor = mapped or visitor
    expected = (not allow or any(visitor in each for each in rules.allow)) and not any(
        visitor in each for each in rules.deny
    )
    assert rules.admits(address) == expected
    if visitor.version == 4:
        assert rules.admits(f"::ffff:{visitor}") == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.9.0.1", False),
        ("::ffff:10.9.0.1", False),
        ("11.0.0.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("unix", False),
        ("10.1.2.3:80", False),
    ],
)
def test_admits(address: str, expected: bool) -> None:
    rules = read_rules({"allow": "10.0.0.0/8,2001:db8::/32,fe80::/10", "deny": "10.9.0.0/16"})
    assert rules.admits(address) == expected


def test_everybody_may_come() -> None:
    assert Rules().admits("")
    assert Rules().admits("192.0.2.1")
    assert read_rules({"deny": "192.0.2.1"}).admits("192.0.2.2")


def test_one_network_of_either_kind_does_not_stand_for_the_other() -> None:
    assert not read_rules({"allow": "::/0"}).admits("192.0.2.1")
    assert not read_rules({"allow": "0.0.0.0/0"}).admits("2001:db8::1")
    assert read_rules({"allow": "0.0.0.0/0,::/0"}).admits("2001:db8::1")
