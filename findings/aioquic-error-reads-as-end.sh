#!/usr/bin/env bash
# aioquic 1.7.2: where the peer closes the connection with an error, read() of its asyncio streams returns a plain end.
#
# In QUIC a stream ends with a bit of its last frame; where the connection is closed instead, streams without that bit
# are cut (RFC 9000, sections 3.2 and 10.2). aioquic has readers and writers for asyncio like those of asyncio's own
# streams, whose read() raises if the peer has reset the connection. aioquic's returns what has come, as if it were
# complete, and at_eof() is true, whatever code the peer has closed with. To tell half an answer from a whole one, a
# program has to override quic_event_received().
#
# Expected: an exception, as from asyncio's streams over TCP. Seen: the same as for a stream that is complete.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install aioquic==1.7.2 trustme==1.2.1
"$folder/venv/bin/python" -m trustme --quiet --dir "$folder"
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import importlib.metadata
import pathlib
import socket
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated

folder = pathlib.Path(sys.argv[1])
HOST, HALF, CODE = "127.0.0.1", b"half an answer", 42


class Server(QuicConnectionProtocol):
    """Answers by a half, and then as it is asked: ends the stream, or closes the connection with an error."""

    def __init__(self, quic, stream_handler=None):
        super().__init__(quic, self.streamed)

    def streamed(self, reader, writer):
        self.answering = asyncio.ensure_future(self.answer(reader, writer))

    async def answer(self, reader, writer):
        wish = await reader.read(100)
        writer.write(HALF)
        await asyncio.sleep(0.2)
        if wish == b"end":
            writer.write_eof()
        else:
            self.close(error_code=CODE, reason_phrase="the other half is lost")


class Client(QuicConnectionProtocol):
    code = None

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.code = event.error_code
        super().quic_event_received(event)


async def answer(reader, writer, wish):
    """What a reader has read, or the name of what it has raised, and whether it says that this was the end."""
    writer.write(wish)
    try:
        return await asyncio.wait_for(reader.read(), 5), reader.at_eof(), reader.exception()
    except ConnectionError as error:
        return type(error).__name__, reader.at_eof(), None


async def by_quic(wish):
    certain = QuicConfiguration(is_client=False, alpn_protocols=["x"])
    certain.load_cert_chain(folder / "server.pem", folder / "server.key")
    server = await serve(HOST, 0, configuration=certain, create_protocol=Server)
    trusting = QuicConfiguration(is_client=True, alpn_protocols=["x"], server_name="localhost")
    trusting.load_verify_locations(str(folder / "client.pem"))
    port = server._transport.get_extra_info("sockname")[1]
    async with connect(HOST, port, configuration=trusting, create_protocol=Client) as client:
        seen = await answer(*await client.create_stream(), wish)
    server.close()
    return seen, client.code


async def by_tcp(wish):
    async def serve_one(reader, writer):
        await reader.read(100)
        writer.write(HALF)
        await asyncio.sleep(0.2)
        if wish != b"end":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(serve_one, HOST, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    seen = await answer(reader, writer, wish)
    writer.close()
    server.close()
    return seen


print("aioquic", importlib.metadata.version("aioquic"))
tcp = {wish: asyncio.run(by_tcp(wish)) for wish in (b"end", b"error")}
quic = {wish: asyncio.run(by_quic(wish)) for wish in (b"end", b"error")}
print("read(), at_eof(), exception()")
for wish in tcp:
    print(f"{wish.decode()}, TCP:", *tcp[wish])
    print(f"{wish.decode()}, QUIC:", *quic[wish][0], "- the connection ended with code", quic[wish][1])
whole = (HALF, True, None)
as_seen = tcp == {b"end": whole, b"error": ("ConnectionResetError", False, None)} and quic == {
    b"end": (whole, 0),
    b"error": (whole, CODE),
}
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
