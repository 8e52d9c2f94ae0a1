"""Looks up the names in ``.local`` behind which browsers hide their addresses.

They are looked up by multicast DNS (RFC 6762, draft-ietf-mmusic-mdns-ice-candidates), over IPv4, and only in the
networks of those addresses that ICE may use. aioice's own lookup asks in the network of the default route, whichever
that is, only once, and it does not understand Chromium's answers.

Strangers choose the names, and everybody in the network hears the questions. So there are few of them, whoever asks.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from twisted.logger import Logger

from rtunnel.upkeep.token_bucket import TokenBucket

GROUP = "224.0.0.251"
PORT = 5353
#: How many seconds to wait for an answer each time after asking.
WAITS = (1.0, 2.0)
#: How many names of one peer are looked up, and how many of all peers at once.
MAX_NAMES = 8
MAX_AT_ONCE = 16
#: How many names are looked up in a second, and in a burst. A browser has one to four.
RATE, BURST = 4.0, 32
#: How many networks are asked, that of the default route first.
MAX_NETWORKS = 8
#: For how many seconds, and for how many names, it is remembered what came out.
REMEMBER = 10.0
MAX_REMEMBERED = 64
#: The largest message (RFC 6762, section 17), and how many messages that have the name are parsed for one question.
MAX_ANSWER = 9000
MAX_PARSED = 16

#: A random UUID; see section 3.1.1 of the draft. Other names are those of the machines of this network, about which a
#: stranger has nothing to learn.
_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.local", re.IGNORECASE | re.ASCII)
#: By the types A and AAAA: the family of the address, and its size in bytes.
_FAMILIES = {1: (socket.AF_INET, 4), 28: (socket.AF_INET6, 16)}
#: The Internet. In multicast DNS the highest bit of a class has a meaning of its own (RFC 6762, section 10.2).
_CLASS_IN, _CLASS = 1, 0x7FFF
#: Linux: take only what comes to the networks that this socket has joined. Python has no name for it.
_IP_MULTICAST_ALL = 49

_log = Logger()


def is_local_name(name: str) -> bool:
    """Return whether *name* is one that browsers use."""
    return _NAME.fullmatch(name) is not None


class LocalNames:
    """The names of one peer.

    :param addresses: addresses of this machine. A name is looked up in the networks of the IPv4 addresses among them.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(address for address in addresses if ":" not in address)
        self._lookups: dict[str, asyncio.Task[str | None]] = {}

    @property
    def unfinished(self) -> list[asyncio.Task[str | None]]:
        """The lookups that are still running."""
        return [task for task in self._lookups.values() if not task.done()]

    async def look_up(self, name: str) -> str | None:
        """Return the address of *name*; None if nobody tells, or if it is one name too many.

        :param name: see :func:`is_local_name`.
        """
        name = name.lower()
        if name not in self._lookups:
            if len(self._lookups) >= MAX_NAMES:
                return None
            self._lookups[name] = asyncio.create_task(_lookups.look_up(name, self._addresses))
        return await asyncio.shield(self._lookups[name])


class Lookups:
    """The lookups of all peers. Each name is looked up once, and the question that has waited longest gives way."""

    def __init__(self) -> None:
        self._running: OrderedDict[tuple[str, tuple[str, ...]], _Lookup] = OrderedDict()
        self._known: OrderedDict[tuple[str, tuple[str, ...]], tuple[str | None, float]] = OrderedDict()
        self._bucket = TokenBucket(RATE, BURST, 0.0)

    async def look_up(self, name: str, addresses: tuple[str, ...]) -> str | None:
        """See :meth:`LocalNames.look_up`."""
        key, now = (name, addresses), asyncio.get_running_loop().time()
        known, until = self._known.get(key, (None, 0.0))
        if now < until:
            return known
        lookup = self._running.get(key)
        if lookup is None:
            if not self._bucket.take(now):
                return None
            if len(self._running) >= MAX_AT_ONCE:
                self._running.popitem(last=False)[1].give_up()
            lookup = self._running[key] = _Lookup(name, addresses)
        lookup.waiting += 1
        try:
            answer = await asyncio.shield(lookup.task)
        finally:
            lookup.waiting -= 1
            if not lookup.waiting:
                lookup.task.cancel()
                if self._running.get(key) is lookup:
                    del self._running[key]
        if not lookup.given_up:
            self._remember(key, answer)
        return answer

    def _remember(self, key: tuple[str, tuple[str, ...]], answer: str | None) -> None:
        self._known[key] = answer, asyncio.get_running_loop().time() + REMEMBER
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)


class _Lookup:
    """One name that is being looked up.

    :ivar waiting: how many wait for the answer.
    :ivar given_up: whether it has made room for another.
    """

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self._question = _Question(name)
        self.waiting = 0
        self.given_up = False
        self.task = asyncio.create_task(self._ask(addresses))

    def give_up(self) -> None:
        self.given_up = True
        self._question.end(None)

    async def _ask(self, addresses: Sequence[str]) -> str | None:
        question = self._question
        try:
            sock, joined = _open(addresses)
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: question, sock=sock)
        except OSError as error:
            _log.debug("no multicast DNS here: {error}", error=str(error))
            return None
        try:
            for wait in WAITS:
                for address in joined:
                    # A network that is gone, or is down now, may be up for the next question.
                    with suppress(OSError):
                        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
                        for packet in question.packets:
                            sock.sendto(packet, (GROUP, PORT))
                await asyncio.wait({question.answer}, timeout=wait)
                if question.answer.done():
                    return question.answer.result()
            return None
        finally:
            transport.close()


_lookups = Lookups()


def _open(addresses: Sequence[str]) -> tuple[socket.socket, list[str]]:
    """Return a socket that hears answers, and those of *addresses* whose networks it has joined."""
    is_linux = sys.platform == "linux"
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        # Others on this machine use multicast DNS too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if is_linux:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        # What is sent to this machine alone is for others. Only Linux can send from a group's address.
        sock.bind((GROUP if is_linux else "", PORT))
        joined = list[str]()
        for address in addresses:
            if len(joined) == MAX_NETWORKS:
                break
            # Fails for further addresses of the same network.
            with suppress(OSError):
                request = socket.inet_aton(GROUP) + socket.inet_aton(address)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
                joined.append(address)
    except BaseException:
        sock.close()
        raise
    return sock, joined


class _Question(asyncio.DatagramProtocol):
    """Waits for the answer to one question."""

    def __init__(self, name: str) -> None:
        # Megabytes, and most processes never meet such a name.
        import dns.message

        self._name = dns.name.from_text(name)
        # As it is in a message: names can be compressed, but not their first part.
        first = name.partition(".")[0].encode()
        self._label = bytes([len(first)]) + first
        self._parsed = 0
        self.answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        # One message for each kind of address: Chromium does not answer a message with two questions.
        queries = [dns.message.make_query(self._name, kind, flags=0, id=0) for kind in ("A", "AAAA")]
        self.packets = [query.to_wire() for query in queries]

    def end(self, answer: str | None) -> None:
        """Wait no longer."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take an answer, which may be one to somebody else's question. Everybody in the network can send any."""
        is_answer = 12 < len(data) <= MAX_ANSWER and data[2] & 0x80 and addr[1] == PORT
        if not is_answer or self.answer.done() or self._label not in data.lower() or self._parsed >= MAX_PARSED:
            return
        self._parsed += 1
        # dnspython raises many kinds of exceptions.
        with suppress(Exception):
            self._read(data)

    def _read(self, data: bytes) -> None:
        import dns.message

        # dnspython does not take the NSEC record, with a compressed name, that Chromium adds to its answers.
        message = dns.message.from_wire(data, ignore_trailing=True, continue_on_error=True)
        for rrset in message.answer:
            family, length = _FAMILIES.get(rrset.rdtype, (None, 0))
            if family is None or rrset.name != self._name or rrset.rdclass & _CLASS != _CLASS_IN:
                continue
            for rdata in rrset:
                packed = rdata.to_wire() or b""
                if len(packed) == length:
                    self.end(socket.inet_ntop(family, packed))
                    return
