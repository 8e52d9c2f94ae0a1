"""A node that is connected to Redis, and its lease there.

::

    connecting --connected--> joining --all claimed again--> settled
        ^                        ^  \\___ a reply late or odd: connecting
        |                        |_______ the lease had ended: joining
        '------------------------'------- the link is lost: connecting

Whatever an old connection has left undone, or another Redis has forgotten, is put right by joining: a new session, all
claims made again, and what Redis has beyond them released. Only after that the lease counts again. Until then it lasts
as it was last renewed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.cluster import redis_scripts as scripts
from rtunnel.cluster.interface import Away
from rtunnel.cluster.redis_link import RedisLink, connect
from rtunnel.cluster.redis_texts import MAX_MESSAGE, nodes_of, parsed
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.cluster.times import Times
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.periodic import Repeated

#: Names that one script is given at once.
BATCH = 100
#: The shortest wait before Redis is dialled again, in seconds. The longest is the time between two renewals.
_SHORTEST_WAIT = 0.1
_GONE = "the lease of this node has ended; its claims are being made again"


class RedisNode(Service):
    """Keeps the link and the lease. What a node has, and what it hears, is for those who inherit from this.

    :param reactor: provides time and connections.
    :param times: other than usual.
    """

    log = Logger()
    is_cluster = True

    def __init__(self, reactor: Any, url: ClusterUrl, times: Times | None = None) -> None:
        self.setName("directory")
        self.node = secrets.token_hex(8)
        self._reactor = reactor
        self._url = url
        self._times = times = times or Times()
        self._limited = LogLimiter(self.log, reactor)
        self._about: Mapping[str, Any] = {}
        self._nodes: Mapping[str, Mapping[str, Any]] = {}
        self._digest = ""
        self._watchers: list[Callable[[], None]] = []
        self._link: RedisLink | None = None
        self._session = 0
        self._is_joined = self._is_settled = False
        self._why = "it is not connected yet"
        self._said = ""
        # Until when the lease lasts, and until when it counts.
        self._lease_until = self._sure_until = 0.0
        self._backoff = Backoff(min(_SHORTEST_WAIT, times.renew_every), times.renew_every)
        self._redial: IDelayedCall | None = None
        self._connecting: Deferred[None] | None = None
        self._joining: Deferred[None] | None = None
        self._renewing: Deferred[None] | None = None
        self._is_renewal_wanted = False
        self._renewals = Repeated(reactor, "the lease", self.renew)

    # What those who inherit from this do

    def _channels(self) -> Sequence[str]:
        """Return the channels to hear, beside that about nodes."""
        raise NotImplementedError

    def _heard(self, channel: bytes, message: bytes) -> None:
        """Take a message."""
        raise NotImplementedError

    async def _make_again(self, held: Sequence[object]) -> None:
        """Make all claims and tallies again.

        :param held: what Redis has of this node.
        :raises Away: it cannot be done.
        """
        raise NotImplementedError

    def _forget(self) -> None:
        """Forget all that this node has."""
        raise NotImplementedError

    def _count(self) -> int:
        """Return how many claims this node has."""
        raise NotImplementedError

    # The service

    def startService(self) -> None:
        """Make the node known."""
        super().startService()
        self._renewals.start(self._times.renew_every)
        self._dial()

    def stopService(self) -> Deferred[None]:
        """Give back all that the node holds."""
        super().stopService()
        self._renewals.stop()
        self._forget()
        self._lease_until = self._sure_until = 0.0
        self._is_joined = self._is_settled = False
        self._why = "it is stopped"
        delayed_calls.cancel(self._redial)
        for each in (self._connecting, self._joining, self._renewing):
            if each is not None:
                each.cancel()
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        try:
            await link.run(scripts.LEAVE, self._url.prefix, self.node, self._session)
        except Away:
            pass  # all is free when the lease ends
        link.drop("this node leaves")

    # The link

    def _background(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Begin some work, whose errors are ours."""
        return Deferred.fromCoroutine(work).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if self.running:
            self.log.failure("the directory has failed and goes on; please report this", failure)
            if self._link is not None:
                self._drop(self._link, "it has failed")

    def _dial(self) -> None:
        self._connecting = self._background(self._connect())

    async def _connect(self) -> None:
        try:
            link = await connect(self._reactor, self._url, self._times.reply)
        except Away as away:
            self._is_away(str(away))
            self._dial_later()
            return
        self._link = link
        link.start(self._heard, lambda why: self._lost(link, why))
        if not link.is_there:
            self._lost(link, "it has closed the connection")
            return
        try:
            # One at a time: the replies do not say what they are about.
            await link.hear(self._url.prefix + "nodes")
            for channel in self._channels():
                await link.hear(channel)
        except Away as away:
            self._drop(link, str(away))
            return
        self._join()

    def _dial_later(self) -> None:
        if self.running:
            self._redial = self._reactor.callLater(self._backoff.next_wait(), self._dial)

    def _lost(self, link: RedisLink, why: str) -> None:
        if link is self._link:
            self._link = None
            self._is_joined = self._is_settled = False
            self._is_away(f"{link.place}: {why}")
            self._dial_later()

    def _drop(self, link: RedisLink, why: str) -> None:
        """Give up a link."""
        link.drop(why)
        self._lost(link, why)

    def _is_away(self, why: str) -> None:
        self._why = why
        if why != self._said and self.running:
            self._said = why
            self._limited.warn("the directory of the cluster is away: {why}; what is new has to wait", why=why)

    # The lease

    def _join(self) -> None:
        """Begin a session."""
        self._is_joined = self._is_settled = False
        self._why = _GONE if self._session else "its claims are being made"
        self._session += 1
        if self._link is not None:
            self._joining = self._background(self._join_with(self._link))

    async def _join_with(self, link: RedisLink) -> None:
        session, about = self._session, self._about
        try:
            sent = self._reactor.seconds()
            held = parsed(await self._run(scripts.JOIN, self._lease_ms, self._about_text()), "held")
            self._is_joined = True
            self._lease_until = sent + self._times.lease
            await self._make_again(held)
        except Away as away:
            # It is tried again with a new connection. What is there now may be half done.
            if session == self._session:
                self._drop(link, str(away))
            return
        if link is not self._link or session != self._session:
            return
        self._is_settled, self._why = True, ""
        self._sure_until = self._lease_until
        self._backoff.reset()
        self._digest = ""
        self.log.info(
            "the directory of the cluster is there: {place}, node {node}, {count} claims",
            place=link.place,
            node=self.node,
            count=self._count(),
        )
        self._said = ""
        if self._about is not about:
            self.announce(self._about)
        self.renew()

    def renew(self) -> None:
        """Renew the lease, and see which other nodes are there."""
        self._limited.tick()
        if self._link is None or not self._is_joined:
            return
        if self._renewing is not None and not self._renewing.called:
            self._is_renewal_wanted = True
            return
        self._renewing = self._background(self._renew(self._link))

    async def _renew(self, link: RedisLink) -> None:
        sent = self._reactor.seconds()
        session = self._session
        try:
            checked = self._background(self._check_hearing(link))
            reply = await self._run(scripts.RENEW, self._lease_ms, self._digest)
            await checked
        except Away as away:
            if session == self._session and self._is_settled:
                # What cannot renew is of no use; another Redis may be the master now.
                self._drop(link, str(away))
            return
        if link is not self._link or session != self._session:
            return
        self._lease_until = sent + self._times.lease
        if self._is_settled:
            self._sure_until = self._lease_until
        if reply != scripts.SAME:
            self._see(str(reply[:40], "ascii", "replace"), reply[40:])
        if self._is_renewal_wanted:
            self._is_renewal_wanted = False
            self._reactor.callLater(0, self.renew)

    async def _check_hearing(self, link: RedisLink) -> None:
        try:
            await link.check_hearing()
        except Away as away:
            self._drop(link, str(away))

    # Requests

    @property
    def _lease_ms(self) -> int:
        return round(self._times.lease * 1000)

    async def _run(self, script: str, *arguments: str | int) -> bytes:
        """Return what a script returns.

        :raises Away: it is not known what it has done, or it could not do it.
        """
        link, session = self._link, self._session
        if link is None:
            raise Away(self._why)
        reply = await link.run(script, self._url.prefix, self.node, session, *arguments)
        if reply == scripts.GONE:
            if link is self._link and session == self._session and self._is_joined:
                # Somebody else may have anything by now.
                self._sure_until = 0.0
                self._join()
            raise Away(_GONE)
        return reply

    def _check_there(self) -> None:
        if not self._is_settled:
            raise Away(self._why)

    def _odd(self, what: str) -> None:
        self._limited.warn("the directory of the cluster has something odd: {what}", what=what)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        """Tell somebody, whose errors are not ours."""
        try:
            what(*arguments)
        except Exception:
            self.log.failure("what was told about the directory has failed; please report this")

    # Nodes

    def _about_text(self) -> str:
        text = json.dumps(self._about)
        if len(text) > MAX_MESSAGE:
            self._odd(f"what this node says about itself has more than {MAX_MESSAGE} bytes")
            return "{}"
        return text

    def _see(self, digest: str, text: bytes) -> None:
        try:
            nodes, is_fine = nodes_of(text)
        except Away as away:
            self._odd(str(away))
            return
        if not is_fine:
            self._odd("a node says about itself what cannot be read")
        self._digest = digest
        if nodes != self._nodes:
            self._nodes = nodes
            for changed in list(self._watchers):
                self._call(changed)

    @property
    def is_sure(self) -> bool:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        now: float = self._reactor.seconds()
        return now < self._sure_until - self._times.margin

    @property
    def why_away(self) -> str:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        return self._why

    def announce(self, about: Mapping[str, Any]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._about = about
        if self._is_settled:
            self._background(self._announce())

    async def _announce(self) -> None:
        try:
            await self._run(scripts.ANNOUNCE, self._about_text())
        except Away as away:
            self._limited.warn("the other nodes do not hear about a change here: {why}", why=str(away))

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Any]]:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        return self._nodes

    def watch(self, changed: Callable[[], None]) -> None:
        """See :class:`~rtunnel.cluster.interface.IDirectory`."""
        self._watchers.append(changed)
