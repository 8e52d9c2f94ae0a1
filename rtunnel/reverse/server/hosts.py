"""The host names that clients publish, and which tunnel serves a visitor who asks for one.

A name belongs to one client, or to one group of clients, for ``http`` and ``https`` alike, with all its paths: whoever
could answer for one of them could get a certificate for the name. ``*.dev.example.org`` is a name too, and stands for
all names below ``dev.example.org`` that nobody has, at any depth.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from rtunnel.access.public import Public
from rtunnel.errors import Code, Refused
from rtunnel.host_names import canonical, canonical_path, host_pattern, patterns_of
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import Lobby
from rtunnel.reverse.server.interfaces import Backend, IClaims, ISession
from rtunnel.reverse.server.refusals import Refusals
from rtunnel.reverse.server.take_over import make_way, why_apart


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

    def why_not(self, public: Public, backend: Backend) -> str:
        """Return why *backend* may not serve *public*; empty if it may. See :meth:`Group.why_not`."""
        group = self.find(public)
        if group is not None and (why := group.why_apart(backend)):
            return why
        for each in self.groups():
            others = (member for member in each if not member.gives_way_to(backend))
            if any(backend.is_apart_from(member) for member in others) and (
                why := why_apart(public.host, backend.rules, each.rules)
            ):
                return why
        return ""

    def in_the_way(self, public: Public, claimant: ISession) -> list[Backend]:
        """Return who must be gone before *claimant* can have *public*."""
        others = (member for group in self.groups() for member in group if member.session is not claimant)
        return [member for member in (*(self.find(public) or ()), *others) if not member.is_elsewhere]

    def override(self, backend: Backend) -> None:
        """See :meth:`Group.override`."""
        for group in self.groups():
            group.override(backend)

    def find(self, public: Public) -> Group | None:
        """Return the group of exactly *public*."""
        if public.protocol == "https":
            return self.https
        return next((group for path, group in self.http if path == public.path), None)


class HostNames:
    """All host names that are published now.

    :param lobby: for visitors who wait.
    :param refusals: tells who is turned away.
    :param claims: those of this node.
    """

    def __init__(self, reactor: Any, lobby: Lobby, refusals: Refusals, claims: IClaims) -> None:
        self._reactor = reactor
        self._lobby = lobby
        self._claims = claims
        self._refusals = refusals
        self._names: dict[str, _Name] = {}

    def __len__(self) -> int:
        return sum(len(group) for name in self._names.values() for group in name.groups())

    def check(self, public: Public, backend: Backend) -> None:
        """Check whether *backend* could serve the host name of *public* now, without asking whether its holder lives.

        :raises Refused: see :meth:`claim`.
        """
        _check_form(public)
        name = self._names.get(public.host)
        if name is not None and (why := name.why_not(public, backend)):
            raise Refused(Code.HOST_IN_USE, why)

    async def claim(self, public: Public, backend: Backend) -> None:
        """Let *backend* serve the host name of *public*.

        :raises Refused: somebody else has it, it is no host name, or its path is not in its canonical form.
        """
        claimant = backend.session
        _check_form(public)
        name = self._names.get(public.host)
        if name is not None and (why := name.why_not(public, backend)):
            holders = name.in_the_way(public, claimant)
            await make_way(self._reactor, public.host, holders, claimant, Refused(Code.HOST_IN_USE, why))
        await self._claims.hold(public, backend)
        with self._claims.asking(backend):
            self._join(public, backend)

    def _join(self, public: Public, backend: Backend) -> None:
        claimant = backend.session
        if (name := self._names.get(public.host)) is not None:
            name.override(backend)
        name = self._names.get(public.host)
        if name is not None and (why := name.why_not(public, backend)):
            # Somebody else was quicker.
            holders = name.in_the_way(public, claimant)
            raise Refused(Code.HOST_IN_USE, why, f"client {holders[0].session.peer_name}" if holders else "")
        if not claimant.is_live:
            raise Refused(Code.CONNECTION_LOST, "the client is gone")
        if name is None:
            name = self._names[public.host] = _Name()
        self._group(name, public).join(backend)
        # What was another client's, and is waited for, must not stay beside it.
        for each in name.groups():
            if not len(each) and not each.may_return(backend):
                each.end()

    def _group(self, name: _Name, public: Public) -> Group:
        group = name.find(public)
        if group is None:
            group = Group(self._reactor, public, self._lobby, self._refusals, self._forget)
            if public.protocol == "https":
                name.https = group
            else:
                name.http.append((public.path, group))
                name.http.sort(key=lambda each: -len(each[0]))
        return group

    @property
    def groups(self) -> list[Group]:
        """Those of all names."""
        return [group for name in self._names.values() for group in name.groups()]

    def find(self, public: Public) -> Group | None:
        """Return who serves exactly this name and path, or is waited for there."""
        name = self._names.get(public.host)
        return None if name is None else name.find(public)

    def expect(self, public: Public, holders: Collection[object], hold: float) -> None:
        """Let visitors of a name wait, which nobody serves yet; see :meth:`Group.expect`."""
        name = self._names.setdefault(public.host, _Name())
        self._group(name, public).expect(holders, hold)

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
        """Turn away visitors who wait."""
        for name in list(self._names.values()):
            for group in name.groups():
                group.end()

    def _find(self, host: str) -> _Name | None:
        """Find *host*, a name in any form."""
        if (exact := self._names.get(host)) is not None and host[0] != "*":
            return exact  # *host* is in its canonical form
        for pattern in patterns_of(_canonical(host)):
            if (found := self._names.get(pattern)) is not None:
                return found
        return None

    def at_once(self, host: str) -> Group | None:
        """Return the tunnels for all HTTP requests to *host*; None: ask :meth:`http`, which takes longer."""
        found = self._names.get(host)
        if found is None or len(found.http) != 1 or host[0] == "*":
            return None
        prefix, group = found.http[0]
        return None if prefix else group

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


def _check_form(public: Public) -> None:
    try:
        is_good = host_pattern(public.host) == public.host
    except ValueError:
        is_good = False
    if not is_good:
        raise Refused(Code.BAD_REQUEST, f"{public.host!r} is not a host name in lower case and ASCII")
    if canonical_path(public.path) != public.path:
        raise Refused(Code.BAD_REQUEST, f"{public.path!r} is not a path in its canonical form")


@lru_cache(1024)
def _canonical(host: str) -> str:
    """Return *host* as names are compared; if it is no name, what nobody can have."""
    try:
        return canonical(host)
    except ValueError:
        return ""
