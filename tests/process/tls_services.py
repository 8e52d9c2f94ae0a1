"""Services that end TLS themselves, with certificates of their own, and visitors of them by name."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.process.harness import Twistd, Twistds
from tests.process.services import Service, Talent, Tunnel, Visitor, read_bytes, read_line, send_bytes
from tests.tls.parts import Authority, Holder


def page_or_bytes(connection: socket.socket, path: str, *_: str) -> None:
    """Answers ``GET /TEXT`` with the text, at once, and ``GET /bytes/TOTAL/SEED`` with so many bytes."""
    while read_line(connection):
        pass
    words = path.strip("/").split("/")
    size = int(words[1]) if words[0] == "bytes" else len(path) - 1
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size
    if words[0] == "bytes":
        connection.sendall(head)
        send_bytes(connection, size, int(words[2]))
    else:
        connection.sendall(head + path[1:].encode())


def take(connection: socket.socket, total: str) -> None:
    """Reads so many bytes, and answers with how many came, and their SHA-256."""
    count, digest = read_bytes(connection, int(total))
    connection.sendall(f"{count} {digest}\n".encode())


class TlsService(Service):
    """A private service under TLS.

    :param holder: has its certificate.
    """

    def __init__(self, holder: Holder, talents: dict[str, Talent]) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(holder.cert, holder.key)
        super().__init__(talents)

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection = self._context.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()  # The client has only looked whether somebody is there; a visitor would complain.
        else:
            super()._serve(connection)


def authority_at(directory: Path) -> Authority:
    """A CA whose certificates every TLS program takes."""
    return Authority(directory, kind="ECDSA")


def certificate(authority: Authority, *hosts: str) -> Holder:
    """A certificate for these names."""
    return authority.server(hosts[0].replace("*", "any"), hosts, kind="ECDSA")


def visit_by_name(port: int, name: str, authority: Authority, line: bytes = b"") -> ssl.SSLSocket:
    """Connect to a port as a visitor of a name, and say what is wanted."""
    context = ssl.create_default_context(cafile=authority.cert)
    visitor = context.wrap_socket(Visitor(port), server_hostname=name)
    if line:
        visitor.sendall(line + b"\n")
    return visitor


class UnderTls(Twistds):
    """Starts processes as *twistd* does, with the files of TLS where ``--tls`` alone looks for them.

    :param pki: the directory with these files.
    """

    def __init__(self, twistd: Twistds, pki: Path) -> None:
        super().__init__(twistd.directory)
        self._twistd = twistd
        self._pki = pki

    def __call__(self, *arguments: str, **more: Any) -> Twistd:
        """See :class:`Twistds`."""
        return self._twistd(*arguments, **{**more, "env": {"RTUNNEL_PKI_DIR": str(self._pki)}})

    def tunnel(self, local: str, server: Sequence[str] = (), client: Sequence[str] = (), **more: Any) -> Tunnel:
        """Start a server and a client under TLS that work."""
        return Tunnel(self, local, server=["--tls", *server], client=["--tls", *client], **more)
