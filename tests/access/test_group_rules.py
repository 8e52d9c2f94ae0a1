"""Rules of a group: its name, its key, and how its members share visitors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.access.rules import BALANCES, read_rules, rules_as_json
from rtunnel.errors import ConfigError
from rtunnel.options.settings.tunnels import tunnels
from rtunnel.reverse.server.routing import POLICIES
from rtunnel.reverse.server.take_over import are_one_group

KEY = "0123456789abcdef"
NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
KEYS = st.from_regex(r"[!-~]{16,128}", fullmatch=True)


@given(NAMES, KEYS, st.sampled_from(BALANCES), st.sampled_from(["tcp", "http", "https"]))
def test_from_the_file_over_the_wire(name: str, key: str, balance: str, protocol: str) -> None:
    rules = read_rules({"group": name, "group-key": key, "balance": balance}, protocol)
    assert (rules.group, rules.group_key, rules.balance) == (name, key, balance)
    assert read_rules(rules_as_json(rules), protocol) == rules
    assert repr(rules) == repr(read_rules({"group": name, "group-key": "f" * 16, "balance": balance}, protocol))


def test_each_has_its_policy() -> None:
    assert set(POLICIES) == set(BALANCES)
    assert read_rules({"group": "web", "group-key": KEY}).balance == "round-robin"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"group": "web"}, "key 'group': needs a group-key, or everybody could join; write what 'openssl rand"),
        ({"group-key": KEY}, "key 'group-key': has no effect without a group; add 'group: NAME'"),
        ({"balance": "sticky"}, "key 'balance': has no effect without a group; add 'group: NAME'"),
        ({"group": "", "group-key": KEY}, "key 'group': '' is not the name of a group: "),
        ({"group": "a b", "group-key": KEY}, "key 'group': 'a b' is not the name of a group: "),
        ({"group": "a" * 65, "group-key": KEY}, "key 'group': 'a"),
        ({"group": 5, "group-key": KEY}, "key 'group': 5 is not the name of a group: "),
        ({"group": "web", "group-key": KEY[1:]}, "key 'group-key': is not 16 to 128 characters of ASCII"),
        ({"group": "web", "group-key": "a" * 129}, "key 'group-key': is not 16 to 128 characters of ASCII"),
        ({"group": "web", "group-key": KEY + " "}, "key 'group-key': is not 16 to 128 characters of ASCII"),
        ({"group": "web", "group-key": 10**20}, "key 'group-key': is not 16 to 128 characters of ASCII"),
        ({"group": "web", "group-key": KEY, "balance": "fair"}, "key 'balance': 'fair' is not a way to share visitors"),
        ({"group": "web", "group-key": KEY, "balance": ["sticky"]}, "key 'balance': "),
        ({"groop": "web"}, "unknown key 'groop'; did you mean 'group'?"),
    ],
)
def test_mistakes(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rules(written)
    assert str(caught.value).startswith(message)
    assert KEY not in str(caught.value), "it is a secret"


def test_udp_has_no_groups() -> None:
    with pytest.raises(
        ConfigError, match=r"^key 'group': is not for UDP, whose ports one client serves; leave it out$"
    ):
        read_rules({"group": "web", "group-key": KEY}, "udp")


def test_in_the_file() -> None:
    entries = [
        {"publish": f"{what}=127.0.0.1:80", "group": "web", "group_key": KEY, "balance": "sticky"}
        for what in ("tcp:8080", "http:app", "https:app")
    ]
    assert {(each.rules.group, each.rules.balance) for each in tunnels(entries)} == {("web", "sticky")}


@given(st.sampled_from(["", "web", "app"]), st.sampled_from(["", KEY, KEY + "0"]), st.sampled_from(["", "web"]))
def test_are_one_group(name: str, key: str, other: str) -> None:
    rules = read_rules({})
    one, two = replace(rules, group=name, group_key=key), replace(rules, group=other, group_key=KEY)
    assert are_one_group(one, two) == are_one_group(two, one) == (bool(name) and (name, key) == (other, KEY))
