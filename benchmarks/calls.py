"""Count the calls of this package's functions that one new visitor costs, at both ends of the reverse tunnel together.

    python -m benchmarks.calls

Server, client, service and visitors share this process. A visitor connects, sends a byte, gets it back and leaves; the
next one comes when all of its work is done, refilling the pool included. ``sys.setprofile`` counts the calls of
functions inside ``rtunnel/``, which are then divided by the number of visitors. Unlike a time, such a count is the same
on every machine and in every run, so it shows the effect of a change.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react

import rtunnel
from benchmarks.parts import free_ports
from benchmarks.ways import make_certificates
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings, ServerSettings, TunnelSettings
from rtunnel.tls.policy import TlsSettings
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.wire.limits import LinkLimits

HOST = "127.0.0.1"
#: How many visitors come before the count begins, and how many are counted.
WARM_UP, COUNTED = 20, 200
#: So long that no PING or time-out falls into the count.
LIMITS = LinkLimits(keepalive_interval=600.0, dead_after=1800.0)
CARRIERS = {"data connection": "direct", "link": "mux"}
_OURS = str(Path(rtunnel.__file__).parent) + os.sep


@contextmanager
def counted(calls: Counter[str]) -> Iterator[None]:
    """Count calls of functions of the package while the block runs."""

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            calls[f"{frame.f_code.co_filename.removeprefix(_OURS)}:{frame.f_code.co_qualname}"] += 1

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


class _Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class _Visitor(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.answer: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(b"?")

    def dataReceived(self, data: bytes) -> None:
        self.answer.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.gone.callback(None)


async def _settle(reactor: Any) -> None:
    for _ in range(10):
        await deferLater(reactor, 0.0005)


async def _visit(reactor: Any, port: int, calls: Counter[str]) -> None:
    with counted(calls):
        visitor: Any = await TCP4ClientEndpoint(reactor, HOST, port).connect(Factory.forProtocol(_Visitor))
        await visitor.answer
        # The pool is full again.
        await _settle(reactor)
    visitor.transport.loseConnection()
    await visitor.gone
    await _settle(reactor)


async def calls_of_a_visitor(reactor: Any, plane: str, tls: tuple[TlsSettings, TlsSettings] | None) -> Counter[str]:
    """Return how often each function is called for :data:`COUNTED` visitors.

    :param plane: ``direct`` or ``mux``; see :data:`~rtunnel.reverse.settings.DATA_PLANES`.
    :param tls: the TLS settings of the server and of the client; None: no TLS.
    """
    control, public = free_ports(2)
    at_server, at_client = tls or (None, None)
    echo = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(Factory.forProtocol(_Echo))
    tunnel = TunnelSettings(public, DialAddress.parse(f"{HOST}:{echo.getHost().port}"))
    where = f"{HOST}:{control}"
    common: dict[str, Any] = {"data_plane": plane, "limits": LIMITS, "drain": 0.0}
    server = TunnelServer(
        reactor, ServerSettings(ListenAddress.parse(where), public_interface=HOST, tls=at_server, **common)
    )
    client = TunnelClient(reactor, ClientSettings(DialAddress.parse(where), (tunnel,), tls=at_client, **common))
    server.startService()
    client.startService()
    while not len(server.ports):
        await deferLater(reactor, 0.01)
    await deferLater(reactor, 0.2)
    calls: Counter[str] = Counter()
    for number in range(WARM_UP + COUNTED):
        if number == WARM_UP:
            calls.clear()
        await _visit(reactor, public, calls)
    await client.stopService()
    await server.stopService()
    await echo.stopListening()
    return calls


async def _main(reactor: Any) -> None:
    DebugLog.is_wanted = False
    Factory.noisy = False
    is_detailed = "--functions" in sys.argv
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        make_certificates(folder)
        ends = [
            TlsSettings(folder / f"{end}.crt", folder / f"{end}.key", folder / "ca.crt", server_name=HOST)
            for end in ("server", "client")
        ]
        for what, plane in CARRIERS.items():
            for suffix, tls in (("", None), (" under TLS", (ends[0], ends[1]))):
                calls = await calls_of_a_visitor(reactor, plane, tls)
                print(f"{what + suffix:28} {calls.total() / COUNTED:6.1f} calls")
                for function, count in calls.most_common() if is_detailed else ():
                    if count >= COUNTED / 10:
                        print(f"    {count / COUNTED:6.1f}  {function}")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor)))
