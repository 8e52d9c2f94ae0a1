"""The benchmark of clusters: each measurement gives its figures, with little of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cluster, crowd, scale
from benchmarks.cluster import Plan
from benchmarks.nodes import crowds, nodes, redis
from tests.process.harness import need

LITTLE = Plan(seconds=1, rounds=1, claims=50, links=20, hosts=20)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("redis-server", "iperf3", "nginx", "wrk"):
        need(program)
    monkeypatch.setattr(cluster, "REST", 0.1)


@pytest.mark.process
@pytest.mark.parametrize("name", cluster.MEASUREMENTS)
def test_a_measurement_gives_figures(name: str) -> None:
    figures = cluster.MEASUREMENTS[name](LITTLE)
    assert figures
    for what, figure in figures.items():
        # Little takes no CPU time that can be seen, and no memory.
        assert figure > 0 or any(word in what for word in ("CPU", "memory", "Redis", "sent away")), what


@pytest.mark.process
def test_the_idle_stay(tmp_path: Path) -> None:
    with (
        redis() as database,
        nodes("rtc-signal", 2, tmp_path, database.url) as both,
        crowds("hosts", both, 6) as found,
    ):
        assert [crowd.look()[0] for crowd in found] == [3, 3]
        both[0].program.stop()
        assert found[1].look()[0] == 3


def test_a_crowd_has_many_addresses() -> None:
    addresses = [crowd._address(number) for number in range(0, 1_000_000, crowd.OF_ONE_ADDRESS)]
    assert len(set(addresses)) == len(addresses)
    assert all(0 < int(part) < 255 for address in addresses for part in address.split(".")[1:2])


def test_the_document_has_the_tables_that_follow_from_what_was_measured() -> None:
    document = (Path(__file__).parent.parent / "docs" / "scale.rst").read_text()
    for table in scale.tables():
        assert table in document, "write it anew: python -m benchmarks.scale"


def test_more_ends_need_more() -> None:
    few, many = (scale.reverse(clients, 3) for clients in (1000, 2000))
    assert few["links of a node"] * 2 == many["links of a node"]
    assert few["memory of a node, GiB"] < many["memory of a node, GiB"] < 2 * few["memory of a node, GiB"]
    hosts = scale.signaling(1_000_000)
    assert hosts["CPU of a node at rest, cores"] <= scale.AT_REST
    assert hosts["hosts of a node"] <= scale.FOR_ENDS
