"""How ``rtunnel-client`` hands over: the new process makes a link by the same name, and so takes it over.

The server gives the new link what it knows of the old one: its ports, and the streams on its data connections, which
lead to the old process and go on there. Only streams on the link itself are cut, so the old process waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.task import deferLater

from rtunnel.control.actions.publish import Publishing
from rtunnel.relay.inheritance import Handed
from rtunnel.reverse.client.service import TunnelClient

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
        self._needs_link = False

    def why_not(self) -> str:
        """See :class:`ISuccession`."""
        session = self._client.link.session
        if session is not None and session.is_reference:
            return "the server speaks the reference protocol, and does not know a client again; restart it"
        if self._client.link.tls_hosts.is_ordering:
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
        link = self._client.link
        return {"session": link.session_name, "connected": link.session is not None, **self._publishing.state()}

    def lasting(self) -> dict[str, Any]:
        """See :class:`ISuccession`."""
        return {}

    # In the new process

    def revive(self, state: Mapping[str, Any]) -> None:
        """See :class:`ISuccession`."""

    def inherit(self, state: Mapping[str, Any]) -> None:
        """See :class:`ISuccession`."""
        self._client.link.session_name = str(state["session"])
        self._needs_link = bool(state["connected"])
        self._publishing.inherit(state)

    def when_ready(self, done: Callable[[], None]) -> None:
        """See :class:`ISuccession`. If the old process has a link, this one must have one."""
        session = self._client.link.session
        if self._needs_link and (session is None or not session.was_useful):
            self._client.reactor.callLater(LOOK_EVERY, self.when_ready, done)
        else:
            done()

    # In the old process

    async def settle(self) -> None:
        """See :class:`ISuccession`."""
        client = self._client
        clock = client.reactor
        await client.link.tls_hosts.https.settle(clock)
        session = client.link.session
        most = ON_LINK if session is not None and session.data is not None else ON_LINK_ONLY
        until = clock.seconds() + min(most, client.settings.drain)
        while session is not None and session.link.streams and clock.seconds() < until:
            await deferLater(clock, LOOK_EVERY)
            session = client.link.session

    def pause(self) -> None:
        """See :class:`ISuccession`."""
        link = self._client.link
        link.tls_hosts.rest()
        link.await_successor()
        if link.session is not None:
            link.session.link.on_stream_count = lambda _change: self._client.stream_ended()

    def resume(self) -> None:
        """See :class:`ISuccession`."""
        self._client.link.tls_hosts.https.is_stopping = False
        self._client.link.go_on()
        self._client.link.tls_hosts.go_on()

    def hand_over(self) -> None:
        """See :class:`ISuccession`."""
        self._client.link.has_successor = True
