"""The files of TLS change while there are links."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.ports import free_port
from tests.tls.parts import Authority, EchoService, Ends, visit


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_replaced_under_traffic(authority: Authority, ends: Ends) -> None:
    server_holder, client_holder = authority.server(), authority.client()
    echo = EchoService(ends.reactor)
    ends.start(echo)
    ends.start_server(authority.trusts(server_holder))
    port, other = free_port(), free_port()
    ends.start_client(authority.trusts(client_holder), remote_port=port, local=echo.port)
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
    authority.server("fresh server", file="server")
    await ends.lines.wait_for("the TLS files have changed; new links use them")
    assert await visit(ends.reactor, port) == b"hello"
    ends.start_client(authority.trusts(client_holder), remote_port=other, local=echo.port)
    await ends.lines.wait_for("certificate of 'fresh server'")
    await ends.lines.wait_for(rf"127.0.0.1:{other} is published")
    assert await visit(ends.reactor, port, b"still there") == b"still there"
    assert "link to server" not in ends.lines.text


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_revoked_under_traffic(authority: Authority, ends: Ends) -> None:
    holder, other = authority.client(), authority.client("phone")
    echo = EchoService(ends.reactor)
    ends.start(echo)
    server = ends.start_server(authority.trusts(authority.server()))
    ports = free_port(), free_port()
    ends.start_client(authority.trusts(holder), remote_port=ports[0], local=echo.port, reconnect_min=0.1)
    ends.start_client(authority.trusts(other), remote_port=ports[1], local=echo.port)
    for port in ports:
        await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
        assert await visit(ends.reactor, port) == b"hello"
    authority.revoke(holder)
    why = "unauthorized: the certificate of 'laptop' is revoked"
    await ends.lines.wait_for(rf"link 127.0.0.1:\d+ \(laptop\): closed by us: {why}")
    await ends.lines.wait_for(f"link to server .* lost: {why}; next attempt")
    await ends.lines.until(lambda: len(server.ports) == 1, "its port is free")
    assert await visit(ends.reactor, ports[1]) == b"hello"
    await ends.lines.wait_for("connection from .* closed: the client's certificate is refused: .*'laptop' is revoked")


@pytest_twisted.ensureDeferred
async def test_a_client_takes_its_new_certificate(authority: Authority, ends: Ends) -> None:
    ends.start_server(authority.trusts(authority.server()))
    holder = authority.client()
    client: Any = ends.start_client(authority.trusts(holder), reconnect_min=0.1, reconnect_max=0.2)
    await ends.lines.wait_for(r"\(laptop\) connected")
    authority.issue("new laptop", None, file="laptop")
    client.link.session.drop()
    await ends.lines.wait_for(r"\(new laptop\) connected")
    await ends.lines.wait_for("the TLS files have changed, and are in use now")
    holder.cert.write_text("x")
    for _ in range(3):
        count = ends.lines.text.count("(new laptop) connected")
        client.link.session.drop()
        await ends.lines.wait_for(r"\(new laptop\) connected", count=count + 1)
    await ends.lines.wait_for("the TLS files cannot be used, and those from before stay in use: .*laptop.crt is not a")
    assert ends.lines.text.count("cannot be used") == 1
