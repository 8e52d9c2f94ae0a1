"""ICE (RFC 8445) with trickle (RFC 8838), on aioice's agent.

aioice gathers all candidates before it reports the first, uses one STUN and one TURN server, and takes 30 s to notice
a dead peer. This agent reports host candidates at once and the others as they are found; it asks all servers; it
offers only those addresses of the machine that the operator allows, and prefers that of the default route, so that a
machine with many is reached at once; and it watches the path that it has found
(:mod:`rtunnel.rtc.aiortc.sessions.consent`).

Relayed paths are tried :data:`RELAY_WAIT` later than direct ones, because aioice takes the first path that works, not
the best one.
"""

from __future__ import annotations

import asyncio
import copy
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aioice import Candidate, TransportPolicy, turn
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, server_reflexive_candidate
from aioice.stun import Message, TransactionError
from aioice.turn import create_turn_endpoint
from twisted.logger import Logger

from rtunnel.relay.sockets import format_host_port
from rtunnel.rtc.aiortc import udp_socket
from rtunnel.rtc.aiortc.addresses import MAX_ADDRESSES, NoAddress, local_addresses, show_interfaces
from rtunnel.rtc.aiortc.checks import MAX_REMOTE_CANDIDATES, explain_no_path, local_preference
from rtunnel.rtc.aiortc.mdns import LocalNames, is_local_name
from rtunnel.rtc.aiortc.port import Port
from rtunnel.rtc.aiortc.sdp import UnusableCandidate, parse_candidate, show_candidate
from rtunnel.rtc.aiortc.sessions.consent import WatchedConnection, is_relayed
from rtunnel.rtc.aiortc.turn import explain, tls_context, turn_credentials
from rtunnel.rtc.settings import IceSettings, TurnServer
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.messages import clean_text

# aioice renews TURN channels by the time of day, which may be set back.
vars(turn)["time"] = SimpleNamespace(time=time.monotonic)

#: How many seconds direct paths get before relayed ones are tried.
RELAY_WAIT = 1.0
#: Seconds to wait for the answer of a STUN or TURN server.
SERVER_TIMEOUT = 10.0
#: How many sockets ask the STUN server, those of the default route first.
MAX_REFLEXIVE = 8
#: How many packets are kept for DTLS, which reads none before there is a path.
MAX_WAITING = 1024


class IceAgent(WatchedConnection):
    """One ICE session of one component.

    :param controlling: whether this end is the one that offered.
    :param on_candidate: called with each candidate that is found after :meth:`gather` returned, and with None at the
        end of candidates.
    :param log_limiter: limits log lines: peers decide how often servers are asked.
    :ivar heard: whether the peer has sent anything beyond checks.
    """

    log = Logger()

    def __init__(
        self,
        settings: IceSettings,
        controlling: bool,
        on_candidate: Callable[[Candidate | None], None],
        log_limiter: LogLimiter,
    ) -> None:
        super().__init__(ice_controlling=controlling, transport_policy=TransportPolicy.ALL)
        self._settings = settings
        self._on_candidate = on_candidate
        self._log_limiter = log_limiter
        self._checking = asyncio.Event()
        self._gathering: asyncio.Task[None] | None = None
        self._names = LocalNames([])
        self._unusable: Counter[str] = Counter()
        self.heard = False

    # Gathering

    async def gather(self) -> list[Candidate]:
        """Bind a socket on each address, and start to ask the servers.

        :returns: the host candidates.
        :raises NoAddress: no address may be offered, and there is no TURN server either.
        """
        addresses = local_addresses(self._settings.interfaces)
        if len(addresses) > MAX_ADDRESSES:
            self._log_limiter.warn(
                "of {count} addresses of this machine only {most} are offered; choose them with --ice-interface",
                count=len(addresses),
                most=MAX_ADDRESSES,
            )
        for rank, address in enumerate(addresses[:MAX_ADDRESSES]):
            self._bind(address, 65535 - rank)
        if not self._local_candidates and not self._settings.turn_servers:
            which = ", ".join(self._settings.interfaces)
            raise NoAddress(
                f"no address of this machine fits --ice-interface {which}; it has {show_interfaces()}"
                if which
                else "this machine has only loopback addresses; to offer those, add --ice-interface 127.0.0.1"
            )
        self._local_candidates_start = self._local_candidates_end = True
        self._names = LocalNames([candidate.host for candidate in self._local_candidates])
        self._gathering = asyncio.create_task(self._ask_servers(list(self._protocols)))
        return self.local_candidates

    def _bind(self, address: str, preference: int) -> None:
        protocol = Port(self)
        try:
            transport = udp_socket.bind(address, protocol)
        except OSError as error:
            self.log.debug("cannot use the address {address}: {error}", address=address, error=str(error))
            return
        self._protocols.append(protocol)
        host, port, *_ = transport.get_extra_info("sockname")
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host", preference),
            host=host,
            port=port,
            type="host",
        )
        self._local_candidates.append(protocol.local_candidate)

    async def _ask_servers(self, protocols: list[StunProtocol]) -> None:
        best = protocols[:MAX_REFLEXIVE] if self._settings.stun_server else []
        asking = [self._reflexive(protocol) for protocol in best]
        asking += [self._relayed(server) for server in self._settings.turn_servers]
        for error in await asyncio.gather(*asking, return_exceptions=True):
            if error is not None:
                # A server may answer anything, and this must not end the others' candidates.
                self._log_limiter.warn("a STUN or TURN server cannot be used: {error}", error=repr(error)[:200])
        self._gathering = None
        self._on_candidate(None)

    async def _reflexive(self, protocol: StunProtocol) -> None:
        server = self._settings.stun_server
        assert server is not None
        address = ipaddress.ip_address(protocol.local_candidate.host)
        if address.version != 4:
            return
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                # aioice would look the name up in threads for which the process waits at its end.
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(*server, family=socket.AF_INET, type=socket.SOCK_DGRAM)
                host, port, *_ = found[0][4]
                candidate, _ = await server_reflexive_candidate(protocol, (str(host), int(port)))
        except (OSError, TransactionError, LookupError, ValueError) as error:
            self.log.debug(
                "STUN server {server} does not answer: {error}", server=format_host_port(*server), error=explain(error)
            )
            return
        if not self._closing and candidate.host != protocol.local_candidate.host:
            candidate.priority = candidate_priority(1, "srflx", local_preference(protocol.local_candidate))
            self._local_candidates.append(candidate)
            self._on_candidate(candidate)

    async def _relayed(self, server: TurnServer) -> None:
        user, password = turn_credentials(self._settings, time.time())
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                transport, protocol = await create_turn_endpoint(
                    lambda: Port(self),
                    server_addr=(server.host, server.port),
                    username=user,
                    password=password,
                    ssl=tls_context(self._settings) if server.tls else None,
                    transport=server.transport,
                )
        except (OSError, TransactionError, LookupError, ValueError) as error:
            self._log_limiter.warn("TURN server {server} cannot be used: {error}", server=server, error=explain(error))
            return
        relayed, mapped = transport.get_extra_info("sockname"), transport.get_extra_info("related_address")
        candidate = protocol.local_candidate = Candidate(
            foundation=candidate_foundation("relay", server.transport, relayed[0]),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "relay"),
            host=relayed[0],
            port=relayed[1],
            type="relay",
            related_address=mapped[0],
            related_port=mapped[1],
        )
        try:
            self._local_candidates.append(candidate)
            self._on_candidate(candidate)
            await self._checking.wait()
            await asyncio.sleep(RELAY_WAIT)
        except asyncio.CancelledError:
            # Free the allocation at the server now; otherwise it stays until it expires.
            await protocol.close()
            raise
        self._protocols.append(protocol)
        for remote in self._remote_candidates:
            self._pair_remote_candidate(remote)
        self.sort_check_list()

    # Checks

    async def connect(self) -> None:
        """See :meth:`PatientConnection.connect`."""
        self._checking.set()
        await super().connect()
        # Candidates that are still being gathered are no longer needed.
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            self._on_candidate(None)

    async def take_candidate(self, text: str) -> None:
        """Use a candidate of the peer, or note why it cannot be used. Empty text means that there are no more."""
        try:
            await self.add_remote_candidate(parse_candidate(text) if text else None)
        except UnusableCandidate as error:
            self.log.debug("a candidate of the peer cannot be used: it is {error}", error=clean_text(str(error)))
            self._unusable[str(error)] += 1

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """See aioice. At most :data:`MAX_REMOTE_CANDIDATES` are accepted.

        :raises UnusableCandidate: it has a name that cannot be looked up.
        """
        if self._remote_candidates_end or (remote_candidate is not None and not self._has_room()):
            return
        if remote_candidate is not None and is_local_name(remote_candidate.host):
            await self._add_hidden(copy.copy(remote_candidate))
        else:
            await super().add_remote_candidate(remote_candidate)
        self.hurry()

    async def _add_hidden(self, candidate: Candidate) -> None:
        self._remote_candidates_resolving += 1
        try:
            address = await self._names.look_up(candidate.host)
        finally:
            self._remote_candidates_resolving -= 1
        if address is None:
            raise UnusableCandidate("hidden behind a name in .local that nobody in our network knows")
        self.log.debug("{name} is {address}", name=clean_text(candidate.host), address=address)
        if not self._closing:
            self._add_remote_candidate(candidate, address)

    def _has_room(self) -> bool:
        return len(self._remote_candidates) + self._remote_candidates_resolving < MAX_REMOTE_CANDIDATES

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        """See aioice. An unknown address becomes a peer-reflexive candidate, which counts like the others."""
        known = any((one._network_host, one.port) == addr for one in self._remote_candidates)
        if known or self._has_room():
            super().check_incoming(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """See aioice. At most :data:`MAX_WAITING` packets are kept."""
        if self._queue.qsize() < MAX_WAITING:
            self.heard = True
            super().data_received(data, component)

    def take_waiting(self) -> list[bytes]:
        """Return the packets that are kept, which nobody else gets then."""
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        return [entry[0] for entry in waiting if entry is not None]

    @property
    def why_no_path(self) -> str:
        """What to look at when there is no path; see :func:`explain_no_path`."""
        look_at = (
            "do both ends reach the TURN server?"
            if self._settings.turn_servers
            else "does UDP get out at both ends? otherwise a TURN server helps, see --turn-server"
        )
        why = explain_no_path(len(self._check_list), len(self._remote_candidates), self._unusable)
        return why or f" ({look_at})"

    @property
    def path(self) -> str:
        """See :attr:`rtunnel.rtc.interfaces.IPeerConnection.path`."""
        pair = self.selected
        if pair is None:
            return ""
        local, remote = pair.local_candidate, pair.remote_candidate
        kind = "relayed" if is_relayed(pair) else "direct"
        return f"{kind}, {show_candidate(local)} to {show_candidate(remote)}"

    # Closing

    def _unfinished(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that may send STUN requests."""
        checks = (self._pacing, *(pair.task for pair in self._check_list))
        tasks = (
            self._query_consent_task,
            self._looking,
            self._gathering,
            *self._asking,
            *self._names.unfinished,
            *checks,
        )
        return {task for task in tasks if task is not None and not task.done()}

    async def close(self) -> None:
        """Close all sockets."""
        self._closing = True
        # Until none is left: what arrives meanwhile may start another. A transaction that outlives its socket raises
        # when it is time to repeat its request.
        while tasks := self._unfinished():
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._gathering = None
        # Close all transports first: a TURN server that does not answer must not keep the others open.
        for protocol in self._protocols:
            protocol.transport.close()
        await super().close()
        # No reference cycles: they would keep DTLS too until the garbage collector comes.
        self._check_list.clear()
        self._query_consent_task = self.user = None
        self._on_candidate = lambda _candidate: None
        self.reader = None
