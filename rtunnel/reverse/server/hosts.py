"""The host names that clients publish, and which tunnel serves a visitor who asks for one.

A name belongs to one client, for ``http`` and ``https`` alike, with all its paths: whoever could answer for one of them
could get a certificate for the name. ``*.dev.example.org`` is a name too, and stands for all names below
``dev.example.org`` that nobody has, at any depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from rtunnel.access.public import Public
from rtunnel.errors import Code, Refused
from rtunnel.host_names import canonical, canonical_path, host_pattern, patterns_of
from rtunnel.reverse.server.interfaces import Backend, ISession
from rtunnel.reverse.server.take_over import make_way


class _Name:
    """One host name.

    :ivar session: the client that it belongs to.
    :ivar https: the tunnel of TLS connections; None: there is none.
    :ivar http: the tunnels of HTTP requests by what their paths begin with, the longest first.
    """

    def __init__(self, session: ISession) -> None:
        self.session = session
        self.https: Backend | None = None
        self.http: list[tuple[str, Backend]] = []

    def backends(self) -> Iterator[Backend]:
        if self.https is not None:
            yield self.https
        yield from (backend for _, backend in self.http)


class HostNames:
    """All host names that are published now."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._names: dict[str, _Name] = {}
        self._publics: dict[Backend, Public] = {}

    def __len__(self) -> int:
        return len(self._publics)

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
        found = self._names.get(public.host)
        if found is not None and found.session is not claimant:
            await make_way(self._reactor, public.host, found.session, claimant, Code.HOST_IN_USE)
            found = self._names.get(public.host)
            if found is not None and found.session is not claimant:
                text = f"{public.host} was just taken by another client"
                raise Refused(Code.HOST_IN_USE, text, f"client {found.session.peer_name}")
        if not claimant.is_live:
            raise Refused(Code.CONNECTION_LOST, "the client is gone")
        if found is None:
            found = self._names[public.host] = _Name(claimant)
        if public.protocol == "https":
            if found.https is not None:
                raise Refused(Code.HOST_IN_USE, f"this client serves {public} already")
            found.https = backend
        else:
            if any(path == public.path for path, _ in found.http):
                raise Refused(Code.HOST_IN_USE, f"this client serves {public} already")
            found.http.append((public.path, backend))
            found.http.sort(key=lambda each: -len(each[0]))
        self._publics[backend] = public

    def release(self, backend: Backend) -> Public | None:
        """Free the name of *backend*; return which, if it had one."""
        public = self._publics.pop(backend, None)
        if public is not None:
            name = self._names[public.host]
            if name.https is backend:
                name.https = None
            name.http = [each for each in name.http if each[1] is not backend]
            if not any(name.backends()):
                del self._names[public.host]
        return public

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

    def https(self, host: str) -> Backend | None:
        """Return the tunnel for a TLS connection to *host*, a name in any form; None: nobody serves it."""
        found = self._find(host)
        return found.https if found is not None else None

    def http(self, host: str, path: str) -> Backend | None:
        """Return the tunnel for an HTTP request to *host*, a name in any form; None: nobody serves it.

        :param path: of the request, without the query.
        """
        path = canonical_path(path)
        found = self._find(host)
        for prefix, backend in found.http if found is not None else ():
            if not prefix or (path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")):
                return backend
        return None


@lru_cache(1024)
def _canonical(host: str) -> str:
    """Return *host* as names are compared; if it is no name, what nobody can have."""
    try:
        return canonical(host)
    except ValueError:
        return ""
