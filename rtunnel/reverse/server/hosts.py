"""The host names that clients publish, and which tunnel serves a visitor who asks for one.

A name belongs to one client or group, for ``http`` and ``https`` alike, with all its paths: whoever could answer for
one of them could get a certificate for the name. ``*.dev.example.org`` is a name too, and stands for all names below
``dev.example.org`` that nobody has, at any depth.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rtunnel.access.public import Public
from rtunnel.errors import Code, Refused
from rtunnel.host_names import canonical, canonical_path, host_pattern, patterns_of
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.interfaces import Backend
from rtunnel.reverse.server.take_over import make_way
from rtunnel.upkeep.visitors import Visitors


class _Name:
    """One host name.

    :ivar https: who serves TLS connections; None: nobody.
    :ivar http: who serves HTTP requests, by what their paths begin with, the longest first.
    """

    def __init__(self) -> None:
        self.https: Group | None = None
        self.http: list[tuple[str, Group]] = []

    def groups(self) -> list[Group]:
        return [*([] if self.https is None else [self.https]), *(group for _, group in self.http)]

    def is_for(self, backend: Backend) -> bool:
        """Return whether *backend* may serve a part of the name: it is of the same client or group as the others.

        :raises Refused: it is of the same group, and may not join.
        """
        others = [member for group in self.groups() for member in group]
        key = (backend.rules.group, backend.rules.group_key)
        return all(
            other.session is backend.session or (key[0] and key == (other.rules.group, other.rules.group_key))
            for other in others
        )

    def find(self, public: Public) -> Group | None:
        """Return the group of exactly *public*."""
        if public.protocol == "https":
            return self.https
        return next((group for path, group in self.http if path == public.path), None)


class HostNames:
    """All host names that are published now."""

    def __init__(self, reactor: Any, visitors: Visitors) -> None:
        self._reactor = reactor
        self._visitors = visitors
        self._names: dict[str, _Name] = {}

    def __len__(self) -> int:
        return sum(len(group) for name in self._names.values() for group in name.groups())

    async def claim(self, public: Public, backend: Backend) -> None:
        """Let *backend* serve the host name of *public*.

        :raises Refused: somebody else has it, it is no host name, or its path is not in its canonical form.
        """
        claimant = backend.session
        try:
            is_good = host_pattern(public.host) == public.host
        except ValueError:
            is_good = False
        if not is_good:
            raise Refused(Code.BAD_REQUEST, f"{public.host!r} is not a host name in lower case and ASCII")
        if canonical_path(public.path) != public.path:
            raise Refused(Code.BAD_REQUEST, f"{public.path!r} is not a path in its canonical form")
        name = self._names.get(public.host)
        group = name.find(public) if name is not None else None
        if group is not None and len(group) and not group.has_part(backend):
            await make_way(self._reactor, public, group, claimant, Code.HOST_IN_USE)
        if name is not None and not name.is_for(backend):
            others = [member for each in name.groups() for member in each if member.session is not claimant]
            await make_way(self._reactor, public.host, others, claimant, Code.HOST_IN_USE)
        name = self._names.get(public.host)
        if name is not None and not name.is_for(backend):
            holder = next(member for each in name.groups() for member in each).session
            text = f"{public.host} was just taken by another client"
            raise Refused(Code.HOST_IN_USE, text, f"client {holder.peer_name}")
        if not claimant.is_live:
            raise Refused(Code.CONNECTION_LOST, "the client is gone")
        if name is None:
            name = self._names[public.host] = _Name()
        group = name.find(public)
        if group is None:
            group = Group(self._reactor, public, self._visitors, self._forget)
            if public.protocol == "https":
                name.https = group
            else:
                name.http.append((public.path, group))
                name.http.sort(key=lambda each: -len(each[0]))
        elif len(group) and not group.has_part(backend):
            raise Refused(Code.HOST_IN_USE, f"this client serves {public} already")
        group.join(backend)
        # What was another client's, and is waited for, must not stay beside it.
        for each in name.groups():
            if not len(each) and not each.may_return(backend):
                each.end()

    def _forget(self, group: Group) -> None:
        name = self._names.get(group.public.host)
        if name is None:
            return
        if name.https is group:
            name.https = None
        name.http = [each for each in name.http if each[1] is not group]
        if not name.groups():
            del self._names[group.public.host]

    def close(self) -> None:
        """Turn away visitors who wait for the return of a client."""
        for name in list(self._names.values()):
            for group in name.groups():
                if not len(group):
                    group.end()

    def _find(self, host: str) -> _Name | None:
        """Find *host*, a name in any form."""
        if (exact := self._names.get(host)) is not None and host[0] != "*":
            return exact  # *host* is in its canonical form
        for pattern in patterns_of(_canonical(host)):
            if (found := self._names.get(pattern)) is not None:
                return found
        return None

    def knows(self, host: str) -> bool:
        """Return whether somebody serves *host*, a name in any form, or a part of it."""
        return self._find(_canonical(host)) is not None

    def https(self, host: str) -> Group | None:
        """Return the tunnels for a TLS connection to *host*, a name in any form; None: nobody serves it."""
        found = self._find(host)
        return found.https if found is not None else None

    def http(self, host: str, path: str) -> Group | None:
        """Return the tunnels for an HTTP request to *host*, a name in any form; None: nobody serves it.

        :param path: of the request, without the query.
        """
        path = canonical_path(path)
        found = self._find(host)
        for prefix, group in found.http if found is not None else ():
            if not prefix or (path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")):
                return group
        return None


@lru_cache(1024)
def _canonical(host: str) -> str:
    """Return *host* as names are compared; if it is no name, what nobody can have."""
    try:
        return canonical(host)
    except ValueError:
        return ""
