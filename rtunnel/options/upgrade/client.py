"""How ``rtunnel-client`` hands over: the new process makes a link by the same name, and so takes it over.
With several links, that is so for each of them.

The server gives the new link what it knows of the old one: its ports, and the streams on its data connections, which
lead to the old process and go on there. Only streams on the link itself are cut, so the old process waits for them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.task import deferLater

from rtunnel.control.actions.publish import Publishing
from rtunnel.relay.inheritance import Handed
from rtunnel.reverse.client.service import TunnelClient

if TYPE_CHECKING:
    from rtunnel.reverse.stored.keeper import IStore

#: Seconds that visitors on the link have to end, or to go on on a data connection.
ON_LINK = 2.0
#: The same where there are no data connections; and never more than the setting drain.
ON_LINK_ONLY = 10.0
#: How often something is looked at, in seconds.
LOOK_EVERY = 0.02


class ClientSuccession:
    """See :class:`~rtunnel.options.upgrade.succession.ISuccession`."""

    def __init__(self, client: TunnelClient, publishing: Publishing) -> None:
        self._client = client
        self._publishing = publishing
        # The numbers of the links that must be up.
        self._needed: list[int] = []

    def why_not(self) -> str:
        """See :class:`ISuccession`."""
        if any(session.is_reference for session in self._client.links.sessions):
            return "the server speaks the reference protocol, and does not know a client again; restart it"
        if self._client.links.tls_hosts.is_ordering:
            return "a certificate is being ordered; try again in a minute"
        return ""

    def handed(self) -> Iterator[Handed]:
        """See :class:`ISuccession`."""
        return iter(())

    def beside(self) -> Iterator[Handed]:
        """See :class:`ISuccession`."""
        return iter(())

    def state(self) -> dict[str, Any]:
        """See :class:`ISuccession`."""
        lasting = self.lasting()
        return {"connected": "0" in lasting["links"], **lasting, **self._publishing.state()}

    def lasting(self) -> dict[str, Any]:
        """See :class:`ISuccession`."""
        links = self._client.links
        up = {str(link.number): link.place for link in links.all if link.session is not None}
        return {"session": links.session_name, "links": up}

    # In the new process

    def revive(self, state: Mapping[str, Any]) -> None:
        """See :class:`ISuccession`."""
        links = self._client.links
        if "session" in state:
            links.session_name = str(state["session"])
            for link in links.all:
                link.begin_at(state["links"].get(str(link.number)))

    def take_back(self, states: Sequence[Any], sockets: Mapping[int, socket.socket]) -> None:
        """See :class:`ISuccession`."""
        if not sockets:
            return
        from rtunnel.reverse.stored.client import take_back
        from rtunnel.reverse.stored.pools import Sockets

        found = Sockets(sockets)
        for state in states:
            take_back(self._client.links, self._client.visitors, state, found)
        found.close()

    def inherit(self, state: Mapping[str, Any]) -> None:
        """See :class:`ISuccession`."""
        links = self._client.links
        links.session_name = str(state["session"])
        # A process of an earlier version has one link, and says nothing of its server.
        up = state.get("links", {"0": None} if state["connected"] else {})
        for link in links.all:
            if str(link.number) in up and link.begin_at(up[str(link.number)]):
                self._needed.append(link.number)
        self._publishing.inherit(state)

    def when_ready(self, done: Callable[[], None]) -> None:
        """See :class:`ISuccession`. The links that the old process has, this one must have."""
        found = [link.session for link in self._client.links.all if link.number in self._needed]
        if all(session is not None and session.was_useful for session in found):
            done()
        else:
            self._client.reactor.callLater(LOOK_EVERY, self.when_ready, done)

    # In the old process

    async def settle(self) -> None:
        """See :class:`ISuccession`."""
        client = self._client
        clock = client.reactor
        await client.links.tls_hosts.https.settle(clock)
        has_data = all(session.data is not None for session in client.links.sessions)
        most = ON_LINK if has_data else ON_LINK_ONLY
        until = clock.seconds() + min(most, client.settings.drain)
        while any(session.link.streams for session in client.links.sessions) and clock.seconds() < until:
            await deferLater(clock, LOOK_EVERY)

    def pause(self) -> None:
        """See :class:`ISuccession`."""
        links = self._client.links
        links.tls_hosts.rest()
        links.await_successor()
        for session in links.sessions:
            session.link.on_stream_count = lambda _change: self._client.stream_ended()

    def resume(self) -> None:
        """See :class:`ISuccession`."""
        links = self._client.links
        links.tls_hosts.https.is_stopping = False
        links.go_on()
        links.tls_hosts.go_on()

    def keep_visitors(self, store: IStore) -> None:
        """See :class:`ISuccession`."""
        # Imported once it is needed.
        from rtunnel.reverse.stored.client import ClientKeeper

        self._client.keeper = ClientKeeper(self._client.links, self._client.visitors, store)

    def hand_over(self) -> None:
        """See :class:`ISuccession`."""
        self._client.links.hand_over()
