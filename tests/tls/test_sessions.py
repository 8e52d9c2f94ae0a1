"""TLS sessions, which nobody resumes, and changes of the files in the middle of a handshake: engines back to back."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from tests.tls.parts import Authority, client_of
from tests.tls.test_engine import exchange, pair

#: A ticket with a session in it would hold the client's certificate, 5.5 kB.
SMALL = 1000


def session_of(server: Credentials, client: Credentials) -> SSL.Session:
    """A client's session, after the server's ticket."""
    first, second = pair(server, client)
    for end in (first, second):
        # OpenSSL forgets the session of a connection that has no proper end.
        end.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
    session = second.connection.get_session()
    assert session is not None
    return session


def offering(client: Credentials, session: SSL.Session) -> TlsEngine:
    """A client that wants to resume a session, as ours never does."""
    engine = TlsEngine(client)
    engine.connection.set_session(session)
    return engine


def test_there_is_nothing_in_a_ticket(server: Credentials, client: Credentials) -> None:
    first, second = TlsEngine(server), TlsEngine(client)
    second.start()
    first.receive(second.output())
    second.receive(first.output())
    first.receive(second.output())
    assert first.peer is not None
    assert len(first.output()) < SMALL


def test_a_client_that_would_resume(server: Credentials, client: Credentials) -> None:
    """It gets a whole handshake, in which the server sees its certificate."""
    first, second = TlsEngine(server), offering(client, session_of(server, client))
    second.start()
    exchange(first, second)
    assert first.peer is not None
    assert first.peer.issuers
    assert not Binding().lib.SSL_session_reused(first.connection._ssl)


def test_a_revoked_client_that_would_resume(authority: Authority, server: Credentials) -> None:
    holder = authority.client()
    client = client_of(authority, holder)
    session = session_of(server, client)
    authority.revoke(holder)
    assert server.refresh()
    first, second = TlsEngine(server), offering(client, session)
    second.start()
    exchange(first, second)
    assert first.failure == "the client's certificate is refused: the certificate of 'laptop' is revoked"


def test_an_end_that_resumes_all_the_same(server: Credentials, client: Credentials) -> None:
    """With an OpenSSL that keeps sessions against our will, nobody is let in by one."""
    context: Any = server.now.context
    context._used = False
    context.set_session_id(b"x")
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    first, second = TlsEngine(server), offering(client, session_of(server, client))
    second.start()
    exchange(first, second)
    assert first.peer is None
    assert second.peer is None
    assert first.failure == "the client resumes a TLS session, which is not allowed"


def test_a_client_that_is_revoked_in_its_handshake(authority: Authority, server: Credentials) -> None:
    """The server has the old files when it begins, and the new ones when it ends."""
    holder = authority.client()
    first, second = TlsEngine(server), TlsEngine(client_of(authority, holder))
    second.start()
    first.receive(second.output())
    authority.revoke(holder)
    assert server.refresh()
    exchange(first, second)
    assert first.peer is None
    assert first.failure == "the client's certificate is refused: the certificate of 'laptop' is revoked"


def test_a_client_that_ends_its_handshake_after_it_was_revoked(authority: Authority, server: Credentials) -> None:
    """It has shown its certificate, and waits for the new list with the rest."""
    holder = authority.client()
    first, second = TlsEngine(server), TlsEngine(client_of(authority, holder))
    second.start()
    first.receive(second.output())
    second.receive(first.output())
    last = second.output()
    first.receive(last[:-1])
    authority.revoke(holder)
    assert server.refresh()
    first.receive(last[-1:])
    assert first.peer is None
    assert first.failure == "the client's certificate is refused: the certificate of 'laptop' is revoked"
