"""Whom rules let in: networks, connections at once, and how often."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from rtunnel.access.limits import MAY_NOT_COME, Limits, kind_of
from rtunnel.access.rules import Rules
from rtunnel.relay.sockets import text_prefix
from rtunnel.upkeep.token_bucket import MOST_KEYS

HERE, THERE = "192.0.2.1", "198.51.100.7"


def rules(*allow: str, deny: tuple[str, ...] = (), **more: Any) -> Rules:
    return Rules(tuple(map(ip_network, allow)), tuple(map(ip_network, deny)), **more)


def limits(*every: Rules, of: str = "connections") -> Limits:
    made = Limits(of)
    made.use(every, 0.0)
    return made


def nobody(_prefix: str) -> int:
    return 0


def why_not(of: Limits, address: str = HERE, now: float = 0.0, count: int = 0) -> str:
    return of.why_not(
        address, text_prefix(f"[{address}]:1" if ":" in address else f"{address}:1"), lambda _: count, now
    )


def test_without_rules_everybody_may_come() -> None:
    assert limits().is_open
    assert limits(Rules(), Rules(group="web", bandwidth=10**6)).is_open
    assert not why_not(limits(), count=10**6)
    assert not why_not(limits(), "somebody")


def test_all_rules_must_let_a_visitor_in() -> None:
    made = limits(rules("192.0.2.0/24", "2001:db8::/32"), rules(deny=("192.0.2.128/25",)))
    assert [why_not(made, address) for address in (HERE, "2001:db8::1", "::ffff:192.0.2.1")] == ["", "", ""]
    assert {why_not(made, address) for address in ("192.0.2.129", THERE, "2001:db9::1", "")} == {MAY_NOT_COME}
    assert made.admits(HERE)
    assert not made.admits(THERE)


def test_the_strictest_number_holds() -> None:
    made = limits(rules(connections=3, requests=5.0), rules(connections=2, connection_rate=0.5), rules())
    assert made.at_once == 2
    assert not why_not(made, count=1)
    assert why_not(made, count=2) == "its address has 2 connections at once, the limit"
    assert kind_of(why_not(made, count=2)) == "at-once"
    # Whoever is refused has spent nothing.
    assert why_not(made) == "its address opens more than 0.5 connections a second"
    assert kind_of(why_not(made)) == "rate"
    assert not why_not(made, now=2.0)


@pytest.mark.parametrize(("rate", "at_first"), [(0.2, 1), (5.0, 10), (1000.0, 2000)])
def test_the_rate_of_each_address(rate: float, at_first: int) -> None:
    made = limits(rules(connection_rate=rate), of="flows")
    assert not any(why_not(made) for _ in range(at_first))
    assert why_not(made) == f"its address opens more than {rate:g} flows a second"
    assert not why_not(made, THERE)
    assert not why_not(made, now=1 / rate)
    assert why_not(made, now=1 / rate)


def test_a_network_of_ipv6_is_one_address() -> None:
    made = limits(rules(connection_rate=1.0))
    assert not why_not(made, "2001:db8::1")
    assert not why_not(made, "2001:db8::ffff:1")
    assert why_not(made, "2001:db8::2")
    assert not why_not(made, "2001:db8:0:1::1")


def test_rules_that_change() -> None:
    """What was counted stays if the number does; nobody gets a second burst because something else has changed."""
    made = limits(rules(connection_rate=0.5))
    assert not why_not(made)
    made.use([rules(connection_rate=0.5, deny=(THERE,)), rules(connection_rate=7.0)], 0.0)
    assert why_not(made)
    assert why_not(made, THERE) == MAY_NOT_COME
    made.use([rules(connection_rate=3.0)], 0.0)
    assert not why_not(made)
    made.use([], 0.0)
    assert made.is_open
    assert not why_not(made)


def test_requests() -> None:
    made = limits(rules("192.0.2.0/24", requests=1.0, connections=4))

    def why_no(address: str = HERE, count: int = 0) -> str:
        return made.why_no_request(address, address, count, 0.0)

    assert why_no(THERE) == MAY_NOT_COME
    assert [why_no() for _ in range(2)] == ["", ""]
    assert why_no() == "its address sends more than 1 request a second"
    assert why_no("192.0.2.2", 4) == "its address has 4 requests at once, the limit"
    assert kind_of(why_no("192.0.2.2", 4)) == "at-once"
    assert kind_of(MAY_NOT_COME) == "address"
    assert not limits().why_no_request(HERE, HERE, 10**6, 0.0)


def test_addresses_without_number_cost_no_memory() -> None:
    made = limits(rules(connection_rate=0.5, deny=("203.0.113.0/24",)))
    for number in range(100_000):
        made.why_not(HERE, f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::", nobody, number / 1e6)
    buckets = made._connections._buckets
    assert buckets is not None
    assert len(buckets) <= MOST_KEYS
