"""Looks up the names in ``.local`` behind which browsers hide their addresses.

They are looked up by multicast DNS (RFC 6762, draft-ietf-mmusic-mdns-ice-candidates), over IPv4, and only in the
networks of those addresses that ICE may use. aioice's own lookup asks in the network of the default route, whichever
that is, only once, and it does not understand Chromium's answers.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
from twisted.logger import Logger

GROUP = "224.0.0.251"
PORT = 5353
#: How many seconds to wait for an answer each time after asking.
WAITS = (1.0, 2.0)
#: How many names of one peer are looked up, and how many of all peers at once.
MAX_NAMES = 8
MAX_AT_ONCE = 16

_NAME = re.compile(r"[A-Za-z0-9-]{1,63}\.local")
_FAMILIES = {dns.rdatatype.A: (socket.AF_INET, 4), dns.rdatatype.AAAA: (socket.AF_INET6, 16)}
#: In multicast DNS the highest bit of a class has a meaning of its own (RFC 6762, section 10.2).
_CLASS = 0x7FFF
#: Linux: take only what comes to the networks that this socket has joined. Python has no name for it.
_IP_MULTICAST_ALL = 49

_log = Logger()
_at_once = asyncio.Semaphore(MAX_AT_ONCE)


def is_local_name(name: str) -> bool:
    """Return whether *name* is one that browsers use."""
    return _NAME.fullmatch(name) is not None


class LocalNames:
    """The names of one peer.

    :param addresses: addresses of this machine. A name is looked up in the networks of the IPv4 addresses among them.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [address for address in addresses if ":" not in address]
        self._lookups: dict[str, asyncio.Task[str | None]] = {}

    @property
    def unfinished(self) -> list[asyncio.Task[str | None]]:
        """The lookups that are still running."""
        return [task for task in self._lookups.values() if not task.done()]

    async def look_up(self, name: str) -> str | None:
        """Return the address of *name*; None if nobody tells, or if it is one name too many."""
        name = name.lower()
        if name not in self._lookups:
            if len(self._lookups) >= MAX_NAMES:
                return None
            self._lookups[name] = asyncio.create_task(_look_up(name, self._addresses))
        return await asyncio.shield(self._lookups[name])


async def _look_up(name: str, addresses: Sequence[str]) -> str | None:
    if _at_once.locked():
        return None
    async with _at_once:
        try:
            sock, joined = _open(addresses)
        except OSError as error:
            _log.debug("no multicast DNS here: {error}", error=str(error))
            return None
        question = _Question(name)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: question, sock=sock)
        try:
            for wait in WAITS:
                for address in joined:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
                    # A network that is down now may be up for the next one.
                    with suppress(OSError):
                        for packet in question.packets:
                            sock.sendto(packet, (GROUP, PORT))
                await asyncio.wait({question.answer}, timeout=wait)
                if question.answer.done():
                    return question.answer.result()
            return None
        finally:
            transport.close()


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
        joined = []
        for address in addresses:
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
        self._name = dns.name.from_text(name)
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # One message for each kind of address: Chromium does not answer a message with two questions.
        queries = [dns.message.make_query(self._name, kind, flags=0, id=0) for kind in _FAMILIES]
        self.packets = [query.to_wire() for query in queries]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take an answer, which may be one to somebody else's question."""
        if self.answer.done() or addr[1] != PORT:
            return
        try:
            # dnspython does not take the NSEC record, with a compressed name, that Chromium adds to its answers.
            message = dns.message.from_wire(data, ignore_trailing=True, continue_on_error=True)
        except Exception:
            # Its parser raises many kinds of exceptions.
            return
        if not message.flags & dns.flags.QR:
            return
        for rrset in message.answer:
            family, length = _FAMILIES.get(rrset.rdtype, (None, 0))
            if family is None or rrset.name != self._name or rrset.rdclass & _CLASS != dns.rdataclass.IN:
                continue
            for rdata in rrset:
                packed = rdata.to_wire() or b""
                if len(packed) == length:
                    self.answer.set_result(socket.inet_ntop(family, packed))
                    return
