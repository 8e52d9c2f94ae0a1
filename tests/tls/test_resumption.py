"""Sessions that are resumed, or rightly not: engines back to back, without a network."""

from __future__ import annotations

import gc
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto

from rtunnel.tls import openssl
from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import GROUPS, Role
from rtunnel.tls.resumption import SESSION_LIFETIME, TlsSession
from tests.tls.parts import Authority, client_of, wait_for_second
from tests.tls.test_engine import exchange

#: What OpenSSL calls the options for a key exchange by the session's secret alone.
ALLOW_NO_DHE, PREFER_NO_DHE = 1 << 10, 1 << 35
#: Bytes that a server adds to each key exchange: its part of X25519MLKEM768.
KEY_SHARE = 1088 + 32


def meet(
    server: Credentials, client: Credentials, session: TlsSession | None = None, judge: Any = None
) -> tuple[TlsEngine, TlsEngine]:
    """A server's and a client's engine after whatever came of their handshake."""
    first, second = TlsEngine(server), TlsEngine(client, judge, session=session)
    second.start()
    exchange(first, second)
    return first, second


def session_of(server: Credentials, client: Credentials) -> TlsSession:
    first, second = meet(server, client)
    assert not first.is_resumed
    assert not second.is_resumed
    session = second.session
    assert session is not None
    return session


def loosen(credentials: Credentials) -> SSL.Context:
    """The context, which pyOpenSSL lets nobody change once it is used."""
    context: Any = credentials.now.context
    context._used = False
    return credentials.now.context


def is_resumed(*engines: TlsEngine) -> bool:
    """Whether the handshake is well over, by the session of another."""
    assert [engine.failure for engine in engines] == ["", ""]
    assert engines[0].peer is not None
    assert engines[1].peer is not None
    assert engines[0].is_resumed == engines[1].is_resumed
    return engines[0].is_resumed


def test_both_ends_know_each_other(server: Credentials, client: Credentials) -> None:
    first, second = meet(server, client)
    session = second.session
    assert session is not None
    assert first.session is None
    again, back = meet(server, client, session)
    assert is_resumed(again, back)
    # All of it: name, fingerprint, certificate, and the group, which is agreed on anew.
    assert (again.peer, back.peer) == (first.peer, second.peer)
    again.send(b"one way")
    back.send(b"and the other")
    assert exchange(again, back) == (b"and the other", b"one way")


def test_there_is_no_session_before_its_ticket(server: Credentials, client: Credentials) -> None:
    first, second = TlsEngine(server), TlsEngine(client)
    assert second.session is None
    second.start()
    first.receive(second.output())
    second.receive(first.output())
    assert second.peer is not None
    assert second.session is None
    exchange(first, second)
    assert second.session is not None


def test_one_session_for_many_connections(server: Credentials, client: Credentials) -> None:
    """At once, too; and what a resumed connection brings is none, so that none becomes younger than it is."""
    session = session_of(server, client)
    pairs = [(TlsEngine(server), TlsEngine(client, session=session)) for _ in range(20)]
    for _, second in pairs:
        second.start()
    for pair in pairs:
        exchange(*pair)
        assert is_resumed(*pair)
        assert pair[1].session is None


def cut_before_its_ticket(server: Credentials, client: Credentials, session: TlsSession, *, close: bool) -> None:
    """A resumed connection that the client leaves before it has all that OpenSSL waits for."""
    first, second = TlsEngine(server), TlsEngine(client, session=session)
    second.start()
    first.receive(second.output())
    second.receive(first.output())
    assert second.is_resumed
    if close:
        second.close()


def test_connection_that_is_cut_does_not_spoil_its_session(server: Credentials, client: Credentials) -> None:
    session = session_of(server, client)
    cut_before_its_ticket(server, client, session, close=True)
    assert is_resumed(*meet(server, client, session))


def test_session_that_openssl_takes_for_spoilt(server: Credentials, client: Credentials) -> None:
    """It costs one whole handshake, and is then read anew."""
    session = session_of(server, client)
    cut_before_its_ticket(server, client, session, close=False)
    assert not is_resumed(*meet(server, client, session))
    assert is_resumed(*meet(server, client, session))


def test_a_resumed_handshake_gives_no_other_session(server: Credentials, client: Credentials) -> None:
    """Nor to a client that is not ours: the ticket that OpenSSL sends all the same is empty."""
    _, second = meet(server, client, session_of(server, client))
    theirs = second.connection.get_session()
    assert theirs is not None
    again, back = meet(server, client, TlsSession(client.now.context, openssl.write_session(theirs)))
    assert not is_resumed(again, back)


@pytest.mark.parametrize("group", GROUPS)
def test_the_keys_are_exchanged_anew(group: str, authority: Authority, server: Credentials) -> None:
    client = client_of(authority, groups=(group,))
    first, second = meet(server, client, session_of(server, client))
    assert is_resumed(first, second)
    assert first.peer is not None
    assert second.peer is not None
    assert first.peer.group == second.peer.group == group


@pytest.mark.parametrize("group", ["X25519", "P-256"])
def test_no_other_group(group: str, server: Credentials, client: Credentials) -> None:
    """A session is no way round the groups, whichever end forgets them."""
    session = session_of(server, client)
    for forgetful in (server, client):
        openssl.set_groups(forgetful.now.context, (group,))
        first, second = meet(server, client, session)
        assert first.peer is None
        assert second.peer is None
        openssl.set_groups(forgetful.now.context, GROUPS)
    for forgetful in (server, client):
        openssl.set_groups(forgetful.now.context, (group,))
    first, second = meet(server, client, session)
    assert first.peer is None
    assert second.peer is None
    assert second.failure.endswith("which is not post-quantum TLS 1.3")


@pytest.mark.parametrize("role", Role)
def test_never_without_an_exchange_of_keys(role: Role, server: Credentials, client: Credentials) -> None:
    """Where the other end would do with the session's secret alone, and so with no forward secrecy."""
    session = session_of(server, client)
    other = server if role is Role.CLIENT else client
    loosen(other).set_options(ALLOW_NO_DHE | PREFER_NO_DHE)
    first, second = TlsEngine(server), TlsEngine(client, session=session)
    second.start()
    first.receive(second.output())
    answer = first.output()
    assert len(answer) > KEY_SHARE
    second.receive(answer)
    exchange(first, second)
    assert is_resumed(first, second)


def test_both_without_an_exchange_of_keys(server: Credentials, client: Credentials) -> None:
    """That the test above can fail."""
    session = session_of(server, client)
    for each in (server, client):
        loosen(each).set_options(ALLOW_NO_DHE | PREFER_NO_DHE)
    first, second = TlsEngine(server), TlsEngine(client, session=session)
    second.start()
    first.receive(second.output())
    assert len(first.output()) < KEY_SHARE


def test_no_early_data(server: Credentials, client: Credentials) -> None:
    """The server allows for none in its tickets."""
    first, second = meet(server, client)
    assert second.session is not None
    session: Any = second.connection.get_session()
    assert Binding().lib.SSL_SESSION_get_max_early_data(session._session) == 0
    assert first.peer is not None


def test_a_server_without_session_id_context(server: Credentials, client: Credentials) -> None:
    """What it is there for: who asks to resume would be refused."""
    loosen(server).set_session_id(b"")
    session = session_of(server, client)
    first, second = meet(server, client, session)
    assert first.peer is None
    assert "session id context uninitialized" in first.failure
    assert second.failure


def test_another_session_id_context(server: Credentials, client: Credentials) -> None:
    session = session_of(server, client)
    loosen(server).set_session_id(b"another")
    assert not is_resumed(*meet(server, client, session))


def test_a_session_is_not_resumed_for_ever(server: Credentials, client: Credentials) -> None:
    assert client.now.context.get_timeout() == server.now.context.get_timeout() == SESSION_LIFETIME
    loosen(server).set_timeout(1)
    session = session_of(server, client)
    assert is_resumed(*meet(server, client, session))
    wait_for_second(time.time() + 2)
    assert not is_resumed(*meet(server, client, session))


# Foreign ends


def test_a_client_of_tls_1_2(authority: Authority, server: Credentials, client: Credentials) -> None:
    """Its session is taken no more than itself; nor does ours offer it."""
    foreign = SSL.Context(SSL.TLS_METHOD)
    foreign.set_max_proto_version(SSL.TLS1_2_VERSION)
    connection = SSL.Connection(foreign, None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    first = TlsEngine(server)
    first.receive(connection.bio_read(65536))
    assert first.peer is None
    assert first.failure == "the client is refused: the other end speaks no TLS 1.3"


def test_a_session_of_tls_1_2(authority: Authority, client: Credentials) -> None:
    """If one ever came into our hands, it would not be offered: the hello is as without."""
    holder = authority.server(kind="ECDSA")
    contexts = [SSL.Context(SSL.TLS_METHOD) for _ in range(2)]
    for context in contexts:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    contexts[0].use_certificate(holder.certificate)
    openssl.use_private_key(contexts[0], crypto.load_privatekey(crypto.FILETYPE_PEM, holder.key.read_bytes()))
    ends = [SSL.Connection(context, None) for context in contexts]
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    for _ in range(4):
        for end, other in (ends, ends[::-1]):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(65536))
    assert ends[1].get_protocol_version_name() == "TLSv1.2"
    old = ends[1].get_session()
    assert old is not None
    hellos = []
    for session in (None, TlsSession(client.now.context, openssl.write_session(old))):
        engine = TlsEngine(client, session=session)
        engine.start()
        hellos.append(len(engine.output()))
    assert hellos[0] == hellos[1]


@pytest.mark.parametrize("seed", range(20))
def test_forged_tickets(seed: int, server: Credentials, client: Credentials) -> None:
    """Whatever comes, nothing is raised, and nobody is let in by it."""
    chance = random.Random(seed)
    content = bytearray(session_of(server, client).content)
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    first, second = meet(server, client, TlsSession(client.now.context, bytes(content)))
    if first.peer is not None:
        assert first.peer.name == "laptop"
    assert second.failure or second.peer is not None


def test_memory_is_bounded(server: Credentials, client: Credentials) -> None:
    """The server keeps nothing of a session, nor the client of one that it has resumed."""
    session = session_of(server, client)

    def resume(times: int) -> int:
        for _ in range(times):
            assert is_resumed(*meet(server, client, session))
        gc.collect()
        return resident()

    before = resume(300)
    # A session of a client with our certificates is more than 10 kB.
    assert resume(2000) - before < 2000 * 1000


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
