"""What many clients and hosts need, as it follows from what one of them was measured to cost.

``python -m benchmarks.scale`` prints the tables of docs/scale.rst. The figures below are those of ``python -m
benchmarks.cluster``, on the machine that the document names; a test compares the tables.
"""

from __future__ import annotations

import math

GIB, MIB, KIB = 2**30, 2**20, 2**10

#: A node without anybody, in bytes.
NODE = 57 * MIB
#: Memory of an idle link with one host name at its node, what the two nodes of one have together more than that, and
#: memory of an idle host, in bytes.
LINK, CARRIED, HOST = 20 * KIB, 7 * KIB, 12 * KIB
#: CPU of an idle link and an idle host at their node, in seconds a second.
LINK_IDLE, HOST_IDLE = 21e-6, 38e-6
#: CPU of all that a node does for a link that comes, of what one other node does, and for a host, in seconds.
LINK_COMES, LINK_ELSEWHERE, HOST_COMES = 1.1e-3, 0.14e-3, 0.88e-3
#: What Redis needs for a link and a host: bytes, and CPU seconds when it comes.
REDIS_LINK, REDIS_HOST = 292, 280
REDIS_CLAIM, REDIS_HOST_COMES = 26e-6, 34e-6
#: CPU of all nodes for an offer within a node, and across two.
OFFER_NEAR, OFFER_ACROSS = 0.17e-3, 0.41e-3

#: Descriptors of a process, and those of them that are for ends: ``LimitNOFILE`` of the units, less an eighth.
DESCRIPTORS = 65_536
FOR_ENDS = DESCRIPTORS - 1024
#: The part of a core that a signaling server gives to what registered ends send.
SHARE = 0.4
#: The part of a core that a node may need at rest.
AT_REST = 0.5
#: Links of a client.
LINKS = 2


def reverse(clients: int, nodes: int) -> dict[str, float]:
    """Return what the reverse tunnel needs.

    :param clients: each with one host name and :data:`LINKS` links, at different nodes.
    """
    links = clients * LINKS
    of_a_node = links / nodes
    elsewhere = links - of_a_node
    return {
        "nodes": nodes,
        "links of a node": of_a_node,
        "tunnels of other nodes": elsewhere,
        "memory of a node, GiB": (NODE + of_a_node * LINK + elsewhere * CARRIED) / GIB,
        "CPU of a node at rest, cores": of_a_node * LINK_IDLE,
        "memory of Redis, MiB": links * REDIS_LINK / MIB,
        "a node dies: busy for, s": of_a_node / (nodes - 1) * LINK_COMES + of_a_node * LINK_ELSEWHERE,
        "all come: a node is busy for, s": of_a_node * LINK_COMES + elsewhere * LINK_ELSEWHERE,
        "all come: Redis is busy for, s": links * REDIS_CLAIM,
    }


def signaling(hosts: int) -> dict[str, float]:
    """Return what hosts need that wait at signaling servers."""
    nodes = max(2, math.ceil(hosts / min(FOR_ENDS, AT_REST / HOST_IDLE)))
    of_a_node = hosts / nodes
    # The other end of an offer is most likely at another node.
    offer = (OFFER_NEAR + (nodes - 1) * OFFER_ACROSS) / nodes
    return {
        "nodes": nodes,
        "hosts of a node": of_a_node,
        "memory of a node, GiB": (NODE + of_a_node * HOST) / GIB,
        "CPU of a node at rest, cores": of_a_node * HOST_IDLE,
        "memory of Redis, MiB": hosts * REDIS_HOST / MIB,
        "a node dies: busy for, s": of_a_node / (nodes - 1) * HOST_COMES,
        "all come: a node is busy for, s": of_a_node * HOST_COMES,
        "all come: Redis is busy for, s": hosts * REDIS_HOST_COMES,
        "offers of all nodes, 1/s": nodes * SHARE / offer,
    }


def written(figure: float) -> str:
    """Return a figure with two digits that count, or all before the point."""
    if isinstance(figure, int):
        return f"{figure:,}"
    if figure >= 100:
        return f"{round(figure):,}"
    digits = max(0, 1 - math.floor(math.log10(figure))) if figure else 0
    return f"{figure:.{digits}f}"


def table(columns: dict[str, dict[str, float]]) -> str:
    """Return a table in reStructuredText."""
    first = next(iter(columns.values()))
    rows = [["", *columns], *([what, *(written(each[what]) for each in columns.values())] for what in first)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    # An empty first cell is an escape, or the row would go on with the one above.
    lines[0] = "\\ " + lines[0][2:]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def tables() -> list[str]:
    """Return the tables of docs/scale.rst."""
    return [
        table(
            {
                "1,000 clients": reverse(1000, 2),
                "10,000 clients": reverse(10_000, 3),
                "50,000 clients": reverse(50_000, 12),
                "100,000 clients": reverse(100_000, 24),
            }
        ),
        table(
            {
                "10,000 hosts": signaling(10_000),
                "100,000 hosts": signaling(100_000),
                "1,000,000 hosts": signaling(1_000_000),
            }
        ),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
