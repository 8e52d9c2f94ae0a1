#!/usr/bin/env bash
# Twisted 26.10.0: HostnameEndpoint waits 0.3 s after an address has refused, before the next one and before its error.
#
# A name may have several addresses. HostnameEndpoint tries another each 0.3 s, so that one that is silent costs little
# ("Happy Eyeballs"). One that refuses says so at once, and there is nothing to wait for; but only the clock starts the
# next attempt. Nor is the failure of the last one told before the clock has looked for another: a name with a single
# address needs 0.3 s for its "connection refused". So "localhost" costs 0.3 s if it is ::1 and 127.0.0.1, and the
# service listens on the second.
#
# Expected: no delay, as with asyncio's create_connection(happy_eyeballs_delay=0.3). Seen: 0.3 s for each that refuses.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install twisted==26.10.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import socket
import sys
import time

import twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

HERE, REFUSING = "127.0.0.1", ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
NAMES = {
    "here.test": [HERE],
    "one.test": [*REFUSING[:1], HERE],
    "three.test": [*REFUSING, HERE],
    "no.test": REFUSING[:1],
}


@implementer(IHostnameResolver)
class Names:
    """A resolver that knows NAMES."""

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        receiver.resolutionBegan(None)
        for address in NAMES[name]:
            receiver.addressResolved(IPv4Address("TCP", address, portNumber))
        receiver.resolutionComplete()


class Loop(asyncio.SelectorEventLoop):
    """A loop of asyncio that knows NAMES."""

    async def getaddrinfo(self, host, port, **_hints):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in NAMES[host]]


async def by_twisted(name, port):
    protocol = await HostnameEndpoint(reactor, name, port).connect(Factory.forProtocol(Protocol))
    protocol.transport.abortConnection()


async def by_asyncio(name, port):
    transport, _protocol = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, name, port, happy_eyeballs_delay=0.3
    )
    transport.abort()


async def attempt(connect, name, port):
    """After how many seconds it is known whether the name is connected, and whether it is."""
    begun = time.monotonic()
    try:
        await connect(name, port)
        result = "connected"
    except Exception as error:
        result = type(error).__name__
    return time.monotonic() - begun, result


async def outcomes(connect, port):
    """The quickest of three attempts for each name, as a busy machine delays some."""
    return {name: min([await attempt(connect, name, port) for _ in range(3)]) for name in NAMES}


def ended(result):
    seen["twisted"] = result
    reactor.stop()


print("twisted", twisted.__version__)
seen = {}
reactor.installNameResolver(Names())
with socket.create_server((HERE, 0)) as service:
    port = service.getsockname()[1]
    loop = Loop()
    seen["asyncio"] = loop.run_until_complete(outcomes(by_asyncio, port))
    loop.close()
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(outcomes(by_twisted, port)).addBoth(ended))
    reactor.callLater(20, reactor.stop)
    reactor.run()
for library, results in seen.items():
    print(library, {name: f"{result} after {seconds:.2f} s" for name, (seconds, result) in results.items()})
DELAYS = {"here.test": 0, "one.test": 1, "three.test": 3, "no.test": 1}
as_seen = all(
    seen["asyncio"][name][0] < 0.2
    and round(seen["twisted"][name][0] / 0.3) == delays
    and seen["twisted"][name][1] == seen["asyncio"][name][1]
    for name, delays in DELAYS.items()
)
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
