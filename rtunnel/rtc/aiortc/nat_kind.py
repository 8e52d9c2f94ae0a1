"""What STUN and TURN servers tell about the network: the public address, the kind of NAT (RFC 5780), a relay.

A NAT *maps* an address of this side to a public one. If the mapping is the same whoever is asked, a peer can be told
the public address, and reach it. If it depends on who is asked, the address that a STUN server sees is of no use to
anybody else. What may come back in is the *filter*, which a peer opens by sending first.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from aioice.stun import Class, Message, Method, TransactionError, parse_message
from aioice.turn import create_turn_endpoint

from rtunnel.rtc.aiortc.turn import explain, tls_context, turn_credentials
from rtunnel.rtc.settings import IceSettings, TurnServer

Address = tuple[str, int]

#: Seconds that a TURN server has to give a relayed address.
PATIENCE = 4.0
#: Seconds between two requests, and how many are sent.
RETRANSMIT, ATTEMPTS = 0.4, 4
#: How many are sent where no answer is an answer.
FEWER_ATTEMPTS = 2
#: CHANGE-REQUEST: answer from the other address and the other port; from the other port (RFC 5780, section 7.2).
_BOTH, _PORT = 6, 2


class NoStun(Exception):
    """A STUN or TURN server does not do what it should; says why."""


@dataclass(frozen=True, slots=True)
class Nat:
    """What was found.

    :ivar local: the address of this side.
    :ivar public: the same as the server sees it.
    :ivar is_same: whether other servers see the same one; None: nobody could tell.
    :ivar answers_from: from where answers come in that were not asked for there: ``anywhere``, ``its address`` (of who
        was asked, from any port), ``its port``; empty: the server could not tell.
    """

    local: Address
    public: Address
    is_same: bool | None
    answers_from: str

    @property
    def is_none(self) -> bool:
        """Whether there is no NAT in between."""
        return self.local == self.public


class _Asker(asyncio.DatagramProtocol):
    """A socket that asks."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[Message]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Take an answer. Anybody may send anything."""
        waiting = self._waiting.get(data[8:20])
        if waiting is None or waiting.done():
            return
        with suppress(Exception):
            # aioice's parser raises many kinds of exceptions.
            message = parse_message(data)
            if message.message_method is Method.BINDING and message.message_class is Class.RESPONSE:
                waiting.set_result(message)

    async def ask(self, server: Address, change: int = 0, attempts: int = ATTEMPTS) -> Message | None:
        """Ask a server; None: it does not answer.

        :param change: from where it shall answer, see ``CHANGE-REQUEST``; 0: from where it was asked.
        """
        request = Message(Method.BINDING, Class.REQUEST)
        if change:
            request.attributes["CHANGE-REQUEST"] = change
        waiting = self._waiting[request.transaction_id] = asyncio.get_running_loop().create_future()
        for _ in range(attempts):
            self.transport.sendto(bytes(request), server)
            with suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(waiting), RETRANSMIT)
        return None


def _mapped(message: Message) -> Address:
    found = message.attributes.get("XOR-MAPPED-ADDRESS") or message.attributes.get("MAPPED-ADDRESS")
    if found is None:
        raise NoStun("its answer has no address in it")
    return cast(Address, found)


async def _resolve(server: Address) -> Address:
    found = await asyncio.get_running_loop().getaddrinfo(*server, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    host, port, *_ = found[0][4]
    return str(host), int(port)


async def look(server: Address, second: Address | None = None) -> Nat:
    """Ask a STUN server about the network.

    :param server: its host and port.
    :param second: another one, which is asked if the first cannot tell the kind of NAT; None: there is none.
    :raises NoStun: it does not answer.
    :raises OSError: its name has no IPv4 address, or nothing can be sent there.
    """
    there = await _resolve(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(there)
        here = way.getsockname()[0]
    transport, asker = await asyncio.get_running_loop().create_datagram_endpoint(_Asker, local_addr=(here, 0))
    try:
        first = await asker.ask(there)
        if first is None:
            raise NoStun("no answer")
        public, local = _mapped(first), transport.get_extra_info("sockname")[:2]
        other: Address | None = first.attributes.get("OTHER-ADDRESS")
        is_same, answers_from = None, ""
        if other is not None and other[0] != there[0]:
            # To another address; this also opens no filter for the answers that are wanted from there.
            others = await asyncio.gather(
                asker.ask(there, _BOTH, FEWER_ATTEMPTS), asker.ask(there, _PORT, FEWER_ATTEMPTS)
            )
            answers_from = "anywhere" if others[0] else "its address" if others[1] else "its port"
            again = await asker.ask((other[0], there[1]), attempts=FEWER_ATTEMPTS)
            is_same = None if again is None else _mapped(again) == public
        if is_same is None and second is not None:
            elsewhere = await _resolve(second)
            again = await asker.ask(elsewhere, attempts=FEWER_ATTEMPTS) if elsewhere != there else None
            is_same = None if again is None else _mapped(again) == public
        return Nat(local, public, is_same, answers_from)
    finally:
        transport.close()


async def allocate(ice: IceSettings, server: TurnServer) -> Address:
    """Get a relayed address of a TURN server, and give it back.

    :raises NoStun: it does not give one; says why.
    """
    user, password = turn_credentials(ice, time.time())
    try:
        async with asyncio.timeout(PATIENCE):
            transport, _ = await create_turn_endpoint(
                asyncio.DatagramProtocol,
                server_addr=(server.host, server.port),
                username=user,
                password=password,
                ssl=tls_context(ice) if server.tls else None,
                transport=server.transport,
            )
    except (OSError, TransactionError, LookupError, ValueError) as error:
        raise NoStun(explain(error)) from error
    relayed = cast(Address, transport.get_extra_info("sockname"))
    transport.close()
    # So that the server hears of it.
    await asyncio.sleep(0.1)
    return relayed
