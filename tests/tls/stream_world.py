"""Ends of TLS on a stream: a host, and visitors that are Python's ssl; the carrier is in memory."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from twisted.internet.task import Clock

from rtunnel.relay.interfaces import IStream
from rtunnel.relay.memory_stream import memory_streams
from rtunnel.tls.hosts import Host, load_host_files
from rtunnel.tls.stream_end import TlsEnd
from rtunnel.tls.turns import Turns
from tests.relay.fakes import Recorder
from tests.tls.parts import Holder

NAME = "app.example.org"


class Visitor(Recorder):
    """The other end: TLS as a browser makes it."""

    def __init__(self, stream: Any, name: str | None = NAME, *alpn: str) -> None:
        super().__init__()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.stream = stream
        self.plain = b""
        self.is_up = self.has_end = False
        self.error = ""
        self.piece = 1 << 30

    def start(self) -> None:
        self._turn()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.incoming.write(data)
        self._turn()

    def _turn(self) -> None:
        try:
            if not self.is_up:
                self.tls.do_handshake()
                self.is_up = True
            while data := self.tls.read(1 << 20):
                self.plain += data
            self.has_end = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_end = True
        except ssl.SSLError as error:
            self.error = str(error)
        self.flush()

    def flush(self) -> None:
        data = self.outgoing.read()
        for start in range(0, len(data), self.piece):
            self.stream.write(data[start : start + self.piece])

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def say_goodbye(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()


class World:
    """A host, and what visits it."""

    def __init__(self, holder: Holder) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.host = Host(NAME)
        self.host.context = load_host_files(holder.cert, holder.key).context
        self.user = Recorder()
        self.served: list[tuple[str, str]] = []
        self.over: list[TlsEnd] = []
        self.plain: Any = None
        self.delivers = True

    def serve(self, stream: IStream, name: str, visitor: str) -> Recorder:
        self.plain = stream
        self.served.append((name, visitor))
        if self.delivers:
            self.user.delivers = stream
        return self.user

    def visit(self, name: str | None = NAME, *alpn: str, start: bool = True, window: int = 65536) -> Visitor:
        near, far = memory_streams(window)
        self.end = TlsEnd(self.host, self.serve, "192.0.2.1:4711", self.turns, self.clock, self.over.append)
        self.end.attach(near)
        near.user = self.end
        self.carrier = near
        visitor = Visitor(far, name, *alpn)
        visitor.delivers = far
        far.user = visitor
        if start:
            visitor.start()
        return visitor
