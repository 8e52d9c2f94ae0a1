"""How ``rtunnel-server`` hands over.

The successor gets the listening sockets and the name of this server, by which clients know it. Each client loses its
link, as if the network had failed, and makes one to the successor; its streams on data connections go on here. Nothing
of a link, a key or a stream leaves this process. Visitors who wait for a client have none of these, and go there too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from rtunnel.access.public import NAMED, Public
from rtunnel.options.upgrade.waiting import WAITING, Receiver, Sender
from rtunnel.relay.inheritance import Handed, inheritance
from rtunnel.reverse.cluster.leaving import ON_LINK_ONLY, let_go_of_clients
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.held import LEAST_HOLD
from rtunnel.reverse.server.service import TunnelServer

if TYPE_CHECKING:
    from rtunnel.reverse.stored.keeper import IStore

#: How the names of sockets begin by which old processes say what is used of quotas there.
REPORTS = "quotas "


class ServerSuccession:
    """See :class:`~rtunnel.options.upgrade.succession.ISuccession`."""

    log = Logger()

    def __init__(self, server: TunnelServer) -> None:
        self._server = server
        self._sender: Sender | None = None

    def why_not(self) -> str:
        """Return why there can be no successor now; empty if there can."""
        return ""

    def handed(self) -> Iterator[Handed]:
        """Yield the sockets that the successor gets.

        :raises ConfigError: one of them cannot be handed over.
        """
        server = self._server
        listeners = [server.control, server.shared_port.listener, *server.named.listeners.values()]
        for listener in listeners:
            if listener is not None:
                yield from listener.handed()
        yield from server.path_port.handed()
        yield from server.ports.handed()

    def beside(self) -> Iterator[Handed]:
        """See :class:`ISuccession`."""
        for number, descriptor in enumerate(self._server.metering.report()):
            yield Handed(f"{REPORTS}{number}", descriptor)
        self._forget_sender()
        self._sender = Sender()
        yield Handed(WAITING, self._sender.theirs.fileno())

    def _forget_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    def state(self) -> dict[str, Any]:
        """Return what the successor must know: JSON."""
        return self.lasting()

    def lasting(self) -> dict[str, Any]:
        """See :class:`ISuccession`."""
        groups: list[Group] = [*self._server.ports.groups, *self._server.names.groups]
        return {"session": self._server.hello.session, "places": [_place_of(group) for group in groups]}

    # At the successor

    def inherit(self, state: Mapping[str, Any]) -> None:
        """Be what the predecessor was, as far as *state* says. The sockets have come."""
        self._server.hello = replace(self._server.hello, session=str(state["session"]))
        for sock in inheritance.take_all(REPORTS):
            self._server.metering.hear(sock)
        for sock in inheritance.take_all(WAITING):
            Receiver(self._server, sock)
        self.revive(state)

    def revive(self, state: Mapping[str, Any]) -> None:
        """Let visitors wait for the clients that were there."""
        server, settings = self._server, self._server.settings
        if "session" in state and not server.directory.is_cluster:
            server.hello = replace(server.hello, session=str(state["session"]))
        hold = max(settings.hold, LEAST_HOLD) + min(settings.drain, ON_LINK_ONLY)
        server.shared_port.expect(hold)
        for each in state.get("places", ()):
            public = Public(each["port"], each["protocol"], each["host"], each["path"])
            holders = [tuple(holder) for holder in each["holders"]]
            if public.protocol not in NAMED:
                server.ports.expect(public, holders, hold)
            elif public.protocol in server.named.listeners:
                server.names.expect(public, holders, hold)
            group = server.group_of(public)
            if group is not None and "group" in each:
                # Whoever of it comes first serves those who wait.
                name, key = each["group"]
                group.rules = replace(group.rules, group=str(name), group_key=str(key))

    def take_back(self, states: Sequence[Any], sockets: Mapping[int, socket.socket]) -> None:
        """See :class:`ISuccession`."""
        if not sockets:
            return
        from rtunnel.reverse.stored.pools import Sockets
        from rtunnel.reverse.stored.server import take_back

        found = Sockets(sockets)
        for state in states:
            take_back(self._server, state, found)
        found.close()

    def when_ready(self, done: Callable[[], None]) -> None:
        """Call *done* once the predecessor may go."""
        done()

    # At the predecessor

    async def settle(self) -> None:
        """Wait until there is little that would be lost."""
        await self._server.http.settle(self._server.reactor)

    def pause(self) -> None:
        """Write nothing that the successor may write too."""
        self._server.metering.rest()

    def resume(self) -> None:
        """Go on as ever, as nothing has come of it."""
        self._server.http.is_stopping = False
        self._server.metering.go_on()
        self._forget_sender()

    def keep_visitors(self, store: IStore) -> None:
        """See :class:`ISuccession`."""
        # Imported once it is needed.
        from rtunnel.reverse.stored.server import ServerKeeper

        self._server.keeper = keeper = ServerKeeper(self._server, store)
        self._server.leave_waiting_to(keeper.take_waiting)

    def hand_over(self) -> None:
        """There is a successor; this service stops next."""
        self._server.let_go = self._let_go_of_all
        if self._sender is not None:
            self._sender.theirs.close()
            self._server.leave_waiting_to(self._sender.send)

    async def _let_go_of_all(self) -> None:
        """Let clients make their links to the successor."""
        self._server.path_port.close()
        await let_go_of_clients(self._server, "another process takes the place of this server")


def _place_of(group: Group) -> dict[str, Any]:
    public = group.public
    return {
        "protocol": public.protocol,
        "port": public.port,
        "host": public.host,
        "path": public.path,
        "holders": [list(holder) for holder in group.holders],
        "group": [group.rules.group, group.rules.group_key],
    }
