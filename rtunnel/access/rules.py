"""The rules of a tunnel for host names: who may come, and what is done with requests (docs/wire.rst, "Rules")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator of a client wants.

    :ivar allow: networks of visitors that may come; empty: all.
    :ivar deny: networks of visitors that may not, even if they are in *allow*.
    :ivar connections: connections that one address (of IPv6, one /64) may have at once; None: as many as it likes.
    :ivar requests: requests a second that one address may send for long; None: as many as it likes.
    :ivar users: for HTTP, who may come with a password: names, and the hashes of their passwords; see
        :mod:`rtunnel.access.passwords`. Empty: everybody may come without.
    :ivar request_headers: for HTTP, fields that requests get in place of theirs; None: they get none.
    :ivar response_headers: the same for responses.
    :ivar redirect_https: for HTTP, whether visitors are sent to ``https:`` instead.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    connections: int | None = None
    requests: float | None = None
    users: tuple[tuple[str, str], ...] = ()
    request_headers: tuple[tuple[str, str | None], ...] = ()
    response_headers: tuple[tuple[str, str | None], ...] = ()
    redirect_https: bool = False


def read_rules(written: Mapping[str, object]) -> Rules:
    """Read rules as the file has them, or as they came with INIT.

    :raises ConfigError: something is wrong; the message names the key.
    """
    if written:
        raise NotImplementedError
    return Rules()
