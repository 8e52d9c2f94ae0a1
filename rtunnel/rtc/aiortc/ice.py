"""ICE (RFC 8445) with trickle (RFC 8838), on aioice's agent.

aioice gathers all candidates before it reports the first, uses one STUN and one TURN server, and takes 30 s to notice
a dead peer. This agent reports host candidates at once and the others as they are found; it asks all servers; it
offers only those addresses of the machine that the operator allows; and it checks consent every second (RFC 7675), so
that a peer is known to be dead after :data:`DEAD_AFTER`, whatever protocol runs on top.

Relayed paths are tried :data:`RELAY_WAIT` later than direct ones, because aioice takes the first path that works, not
the best one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

from aioice import Candidate, Connection, TransportPolicy
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, StunProtocol, server_reflexive_candidate
from aioice.stun import Message, TransactionError, TransactionFailed
from aioice.turn import create_turn_endpoint
from twisted.logger import Logger

from rtunnel.reasons import reason_of
from rtunnel.relay.sockets import format_host_port
from rtunnel.rtc.aiortc.addresses import NoAddress, local_addresses
from rtunnel.rtc.settings import IceSettings, TurnServer
from rtunnel.upkeep.log_limiter import LogLimiter

#: Seconds without an answer after which the peer counts as dead, plus or minus a fifth.
DEAD_AFTER = 7
#: How many seconds direct paths get before relayed ones are tried.
RELAY_WAIT = 1.0
#: Seconds to wait for the answer of a STUN or TURN server.
SERVER_TIMEOUT = 10.0
#: Seconds for which a time-limited TURN credential is valid.
CREDENTIAL_LIFETIME = 24 * 3600
#: The size of the kernel's buffer in each direction, in bytes.
SOCKET_BUFFER = 1024 * 1024
#: How many candidates of the peer are accepted.
MAX_REMOTE_CANDIDATES = 64
#: How many packets are kept for DTLS, which reads none before there is a path.
MAX_WAITING = 1024


def turn_credentials(ice: IceSettings, now: float) -> tuple[str, str]:
    """Return user name and password for TURN servers.

    With a shared secret they are derived from it (coturn's ``use-auth-secret``, draft-uberti-behave-turn-rest-00).

    :param now: seconds since 1970.
    """
    if not ice.turn_secret:
        return ice.turn_user, ice.turn_credential
    expiry = int(now) + CREDENTIAL_LIFETIME
    user = f"{expiry}:{ice.turn_user}" if ice.turn_user else str(expiry)
    digest = hmac.new(ice.turn_secret.encode(), user.encode(), hashlib.sha1).digest()
    return user, base64.b64encode(digest).decode()


def _explain(error: Exception) -> str:
    """Return why a TURN server cannot be used; if it rejects our credentials, also what to check."""
    if isinstance(error, TransactionFailed) and error.response.attributes.get("ERROR-CODE", (0,))[0] == 401:
        return f"{error}; check --turn-user and --turn-credential, or --turn-secret, and both clocks"
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of(error)
    return str(error) or "no answer"


def show_candidate(candidate: Candidate) -> str:
    """Return the candidate as ``192.0.2.1:5000 (host)``."""
    return f"{format_host_port(candidate.host, candidate.port)} ({candidate.type})"


class _Port(StunProtocol):
    """A socket to which strangers may send anything."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        try:
            super().datagram_received(data, addr)
        except (AssertionError, LookupError, ValueError, struct.error):
            # A malformed STUN message.
            pass


class IceAgent(Connection):
    """One ICE session of one component.

    :param controlling: whether this end is the one that offered.
    :param on_candidate: called with each candidate that is found after :meth:`gather` returned, and with None at the
        end of candidates.
    :param log_limiter: limits log lines: peers decide how often servers are asked.
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
        self._asking: set[asyncio.Task[None]] = set()
        self._silent = 0

    # Gathering

    async def gather(self) -> list[Candidate]:
        """Bind a socket on each address, and start to ask the servers.

        :returns: the host candidates.
        :raises NoAddress: no address may be offered, and there is no TURN server either.
        """
        for address in local_addresses(self._settings.interfaces):
            await self._bind(address)
        if not self._local_candidates and not self._settings.turn_servers:
            which = ", ".join(self._settings.interfaces)
            raise NoAddress(
                f"no address of this machine fits --ice-interface {which}"
                if which
                else "this machine has only loopback addresses; to offer those, add --ice-interface 127.0.0.1"
            )
        self._local_candidates_start = self._local_candidates_end = True
        self._gathering = asyncio.create_task(self._ask_servers(list(self._protocols)))
        return self.local_candidates

    async def _bind(self, address: str) -> None:
        try:
            transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Port(self), local_addr=(address, 0)
            )
        except OSError as error:
            self.log.debug("cannot use the address {address}: {error}", address=address, error=str(error))
            return
        # Do this first, so that it is closed whatever happens next.
        self._protocols.append(protocol)
        handle: Any = transport.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        host, port, *_ = transport.get_extra_info("sockname")
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=host,
            port=port,
            type="host",
        )
        self._local_candidates.append(protocol.local_candidate)

    async def _ask_servers(self, protocols: list[StunProtocol]) -> None:
        asking = [self._reflexive(protocol) for protocol in protocols] if self._settings.stun_server else []
        asking += [self._relayed(server) for server in self._settings.turn_servers]
        await asyncio.gather(*asking)
        self._gathering = None
        self._on_candidate(None)
        # The checks may have been waiting for this.
        if self._checking.is_set():
            self._check_list_maybe_fail()

    async def _reflexive(self, protocol: StunProtocol) -> None:
        server = self._settings.stun_server
        assert server is not None
        address = ipaddress.ip_address(protocol.local_candidate.host)
        if address.version != 4:
            return
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                candidate, _ = await server_reflexive_candidate(protocol, server)
        except (OSError, TransactionError, LookupError, ValueError) as error:
            self.log.debug(
                "STUN server {server} does not answer: {error}", server=format_host_port(*server), error=_explain(error)
            )
            return
        if not self._closing and candidate.host != protocol.local_candidate.host:
            self._local_candidates.append(candidate)
            self._on_candidate(candidate)

    async def _relayed(self, server: TurnServer) -> None:
        user, password = turn_credentials(self._settings, time.time())
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                transport, protocol = await create_turn_endpoint(
                    lambda: _Port(self),
                    server_addr=(server.host, server.port),
                    username=user,
                    password=password,
                    ssl=self._tls() if server.tls else None,
                    transport=server.transport,
                )
        except (OSError, TransactionError, LookupError, ValueError) as error:
            self._log_limiter.warn("TURN server {server} cannot be used: {error}", server=server, error=_explain(error))
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

    def _tls(self) -> ssl.SSLContext:
        ca_file = self._settings.ca_file
        return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)

    # Checks

    def _remote_candidates_expected(self) -> bool:
        """Return whether more paths may come: from the peer, or from servers that have not answered yet."""
        return super()._remote_candidates_expected() or self._gathering is not None

    async def connect(self) -> None:
        """Find a path.

        :raises ConnectionError: no path works.
        """
        self._checking.set()
        await super().connect()
        # Candidates that are still being gathered are no longer needed.
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            self._on_candidate(None)

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        """See aioice. At most :data:`MAX_REMOTE_CANDIDATES` are accepted."""
        if self._remote_candidates_end or (remote_candidate is not None and not self._has_room()):
            return
        await super().add_remote_candidate(remote_candidate)

    def _has_room(self) -> bool:
        return len(self._remote_candidates) + self._remote_candidates_resolving < MAX_REMOTE_CANDIDATES

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        """See aioice. An unknown address becomes a peer-reflexive candidate, which counts like the others."""
        known = any((one._network_host, one.port) == addr for one in self._remote_candidates)
        if known or self._has_room():
            super().check_incoming(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """See aioice. Strangers can send anything; what is not DTLS is dropped (RFC 7983)."""
        if data and 19 < data[0] < 64 and self._queue.qsize() < MAX_WAITING:
            super().data_received(data, component)

    @property
    def selected(self) -> CandidatePair | None:
        """The candidate pair in use; None before there is one."""
        return self._nominated.get(1)

    @property
    def path(self) -> str:
        """See :attr:`rtunnel.rtc.interfaces.IPeerConnection.path`."""
        pair = self.selected
        if pair is None:
            return ""
        local, remote = pair.local_candidate, pair.remote_candidate
        kind = "relayed" if "relay" in (local.type, remote.type) else "direct"
        return f"{kind}, {show_candidate(local)} to {show_candidate(remote)}"

    # Consent

    @property
    def peer_is_silent(self) -> bool:
        """Whether the peer has not answered for :data:`DEAD_AFTER` and so counts as dead."""
        return self._silent >= DEAD_AFTER

    async def query_consent(self) -> None:
        """Check consent every second (RFC 7675); close when the peer has not answered for :data:`DEAD_AFTER`.

        Only seconds in which this loop runs are counted: a process that was stopped for a while (SIGSTOP, suspend) does
        not take its peer for dead when it resumes.
        """
        self._silent = 0
        while self._silent < DEAD_AFTER:
            await asyncio.sleep(0.8 + 0.4 * random.random())
            self._silent += 1
            task = asyncio.create_task(self._ask_consent())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        self._query_consent_task = None
        await self.close()

    async def _ask_consent(self) -> None:
        pair = self.selected
        if pair is None or self.remote_password is None:
            return
        request = self.build_request(pair, nominate=False)
        try:
            await pair.protocol.request(
                request, pair.remote_addr, integrity_key=self.remote_password.encode(), retransmissions=2
            )
        except (TransactionError, OSError):
            return
        self._silent = 0

    # Closing

    def _unfinished(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that may send STUN requests."""
        checks = (pair.task for pair in self._check_list)
        tasks = (self._query_consent_task, self._gathering, *self._asking, *checks)
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


def parse_candidate(text: str) -> Candidate | None:
    """Parse a candidate from signaling or from a description (RFC 8839, section 5.1).

    :returns: None if it is malformed or cannot be used here.
    """
    try:
        candidate = Candidate.from_sdp(text.removeprefix("a=").removeprefix("candidate:"))
    except ValueError:
        return None
    if candidate.component != 1 or candidate.transport.lower() != "udp" or not 0 < candidate.port < 65536:
        return None
    return candidate
