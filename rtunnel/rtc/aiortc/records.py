"""Packets in DTLS records, over the path that ICE has found.

aiortc makes the DTLS handshake. Then :meth:`rtunnel.rtc.aiortc.dtls.DtlsTransport.hand_over` gives OpenSSL's connection
to a :class:`Path`, and nothing of aiortc is between it and the socket: many records are written and read in one go,
without a task, a future or a callback for each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

from OpenSSL import SSL

from rtunnel.relay.udp.segments import MAX_BYTES, MAX_SEGMENTS
from rtunnel.rtc.aiortc.dtls import MAX_RECORD, DtlsTransport
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.port import MAX_RECORDS, Port

#: What a datagram holds that goes through every network and a TURN server, in bytes: IPv6's least packet, without the
#: headers of IP, of UDP and of TURN (RFC 8656, section 12.4).
SAFE_DATAGRAM = 1280 - 40 - 8 - 4

#: The type of records that hold data.
_APPLICATION_DATA = 23
_HEADER = 13
#: How many times records are read before OpenSSL's own answers to them are looked for.
_LOOK_EVERY = 32


class Records:
    """DTLS records of a connection whose handshake is over.

    :ivar overhead: how many bytes larger than its packet a record may be.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self.overhead = _overhead(connection.get_cipher_name() or "")
        self._reads = 0

    def encrypt(self, packets: list[bytes]) -> list[tuple[bytes, int]]:
        """Return a record for each packet, in batches with the size of their records. The last of each may be shorter.

        A batch is not more than what a socket takes in one call.

        :raises ConnectionError: DTLS is closed.
        """
        batches: list[tuple[bytes, int]] = []
        send, at, end = self._connection.send, 0, len(packets)
        try:
            while at < end:
                size, first = len(packets[at]), at
                last = min(end, at + MAX_SEGMENTS, at + max(1, MAX_BYTES // (size + self.overhead)))
                while True:
                    packet = packets[at]
                    send(packet)
                    at += 1
                    if at == last or len(packet) < size or len(packets[at]) > size:
                        break
                most = (at - first) * (size + self.overhead)
                data = self._connection.bio_read(most + 1)
                record = _HEADER + (data[11] << 8 | data[12])
                if (at - first - 1) * record < len(data) <= (at - first) * record:
                    batches.append((data, record))
                else:
                    # Before them there is an answer of OpenSSL's own to the peer.
                    batches += _split(data + self.answers())
        except SSL.Error as error:
            raise ConnectionError("DTLS is closed") from error
        self._reads = 0
        return batches

    def decrypt(self, data: memoryview, segment: int, packets: list[bytes]) -> None:
        """Append what is in datagrams to *packets*. Invalid records are skipped.

        :param segment: the size of each datagram in bytes, at most :data:`MAX_RECORDS`; the last may be shorter.
        :raises ConnectionError: the peer has closed the connection, or has broken it. What came before is in *packets*.
        """
        connection = self._connection
        recv, append = connection.recv, packets.append
        # OpenSSL reads so much at once, and forgets a record of which it has read a part.
        step = MAX_RECORDS // segment * segment
        for start in range(0, len(data), step):
            connection.bio_write(data[start : start + step])
            try:
                while True:
                    append(recv(segment))
            except SSL.WantReadError:
                continue
            except SSL.Error as error:
                raise ConnectionError("DTLS is closed") from error
        self._reads += 1 if data[0] == _APPLICATION_DATA else _LOOK_EVERY

    @property
    def may_answer(self) -> bool:
        """Whether there may be records of OpenSSL's own to send: answers to a peer's alert, or to its handshake."""
        return self._reads >= _LOOK_EVERY

    def answers(self) -> bytes:
        """Return all records that are to be sent, with nothing between them."""
        self._reads, data = 0, b""
        try:
            while True:
                data += self._connection.bio_read(MAX_RECORD)
        except SSL.WantReadError:
            return data

    def close(self) -> bytes:
        """Return the record that ends the connection."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # The peer's has come before.
            pass
        return self.answers()


class Path:
    """The way of packets to the peer: DTLS over the pair of addresses that ICE has selected last.

    :param received: called with the packets that have come, once for all that were there to be read.
    :param too_big: called with the size of a packet, in bytes, that the first link does not take. It was dropped.
    """

    def __init__(
        self,
        dtls: DtlsTransport,
        agent: IceAgent,
        received: Callable[[list[bytes]], None],
        too_big: Callable[[int], None],
    ) -> None:
        self._dtls = dtls
        self._records = Records(dtls.hand_over())
        self._received = received
        self._too_big = too_big
        self._packets: list[bytes] = []
        self._is_open = True
        self._agent = agent
        self.use(agent)

    def use(self, agent: IceAgent) -> None:
        """Send by another agent from now on. What comes through earlier ones is taken until they are closed."""
        self._agent, agent.reader = agent, self
        for data in agent.take_waiting():
            self.take(memoryview(data), len(data))
        asyncio.get_running_loop().call_soon(self.deliver)

    @property
    def overhead(self) -> int:
        """How many bytes larger than its packet a datagram may be."""
        return self._records.overhead

    @property
    def largest(self) -> int:
        """The size of the largest packet that can be sent now, in bytes, whatever the way to the peer takes."""
        pair = self._agent.selected
        if pair is None or cast(Port, pair.protocol).is_relayed or sys.platform != "linux":
            return SAFE_DATAGRAM - self._records.overhead
        return MAX_RECORD

    def send(self, packets: list[bytes], *, fragments: bool = False) -> None:
        """Send packets, or drop them if there is no way to the peer. Those of one size in a row cost the least.

        :param fragments: whether routers may cut them up, as they are larger than the path takes. Those that every path
            should take may always be cut: they get no smaller.
        """
        pair = self._agent.selected
        if not packets or pair is None or not self._is_open:
            return
        try:
            batches = self._records.encrypt(packets)
        except ConnectionError:
            self._end()
            return
        if fragments:
            batches = [each for data, _ in batches for each in _split(data)]
        send, addr, fit = cast(Port, pair.protocol).send_records, pair.remote_addr, True
        for data, segment in batches:
            fit = send(data, segment, addr, fragments=fragments or segment <= SAFE_DATAGRAM) and fit
        if not fit:
            self._too_big(max(map(len, packets)))

    def take(self, data: memoryview, segment: int) -> None:
        """See :class:`rtunnel.rtc.aiortc.udp_socket.ITakesRecords`."""
        if not self._is_open:
            return
        try:
            self._records.decrypt(data, segment, self._packets)
        except ConnectionError:
            self._end()

    def deliver(self) -> None:
        """See :class:`rtunnel.rtc.aiortc.udp_socket.ITakesRecords`."""
        if self._packets:
            packets, self._packets = self._packets, []
            self._received(packets)
        if self._records.may_answer:
            self._send_records(self._records.answers())

    def close(self) -> None:
        """Tell the peer that the connection is over, and take no more."""
        if self._is_open:
            self._is_open = False
            self._send_records(self._records.close())
        self._packets.clear()
        self._received = self._too_big = _ignore

    def _end(self) -> None:
        """Take note that the peer has closed the connection. What came before is still delivered."""
        self._is_open = False
        self._send_records(self._records.close())
        self._dtls.ended()

    def _send_records(self, data: bytes) -> None:
        pair = self._agent.selected
        if pair is not None:
            for record, size in _split(data):
                cast(Port, pair.protocol).send_records(record, size, pair.remote_addr)


def _ignore(_: object) -> None:
    """Take what comes too late."""


def _split(data: bytes) -> list[tuple[bytes, int]]:
    """Return each record by itself, with its size."""
    records, at = [], 0
    while at < len(data):
        size = _HEADER + (data[at + 11] << 8 | data[at + 12])
        records.append((data[at : at + size], size))
        at += size
    return records


def _overhead(suite: str) -> int:
    """Return how many bytes a cipher suite (by OpenSSL's name) adds to a packet at most."""
    if "CHACHA20" in suite:
        # The header and a tag (RFC 7905).
        return _HEADER + 16
    if "GCM" in suite or "CCM" in suite:
        # The header, a part of the nonce and a tag (RFC 5288, RFC 6655).
        return _HEADER + 8 + 16
    # The header, the initial vector, a MAC by SHA-1, and padding to a whole block (RFC 5246, section 6.2.3.2).
    return _HEADER + 16 + 20 + 16
