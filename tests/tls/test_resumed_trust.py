"""What has changed since a session was made, and is looked at when it is resumed: engines back to back."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role
from rtunnel.tls.resumption import TlsSession
from rtunnel.tls.server_names import judge_of
from tests.tls.parts import DAY, Authority, client_of, server_of, wait_for_second
from tests.tls.test_engine import exchange
from tests.tls.test_resumption import is_resumed, meet, session_of


def look(credentials: Credentials) -> None:
    """Look at the files."""
    credentials.refresh()


# The files of one end change, between the link and its data connections


def test_a_server_that_was_started_again(authority: Authority, client: Credentials) -> None:
    holder = authority.server()
    session = session_of(server_of(authority, holder), client)
    assert not is_resumed(*meet(server_of(authority, holder), client, session))


def test_a_client_that_was_started_again(authority: Authority, server: Credentials) -> None:
    holder = authority.client()
    session = session_of(server, client_of(authority, holder))
    assert not is_resumed(*meet(server, client_of(authority, holder), session))


def test_a_client_that_was_revoked(authority: Authority, server: Credentials) -> None:
    holder = authority.client()
    client = client_of(authority, holder)
    session = session_of(server, client)
    authority.revoke(holder)
    look(server)
    first, second = meet(server, client, session)
    assert first.failure == "the client's certificate is refused: the certificate of 'laptop' is revoked"
    assert second.failure == "the server refuses our certificate: it is revoked, or a CA that vouches for it is"


@pytest.mark.parametrize("resumed", [True, False])
def test_a_client_that_is_revoked_in_its_handshake(resumed: bool, authority: Authority, server: Credentials) -> None:
    """The server has the old files when it begins, and the new ones when it ends."""
    holder = authority.client()
    client = client_of(authority, holder)
    session = session_of(server, client) if resumed else None
    first, second = TlsEngine(server), TlsEngine(client, session=session)
    second.start()
    first.receive(second.output())
    authority.revoke(holder)
    look(server)
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
    look(server)
    first.receive(last[-1:])
    assert first.peer is None
    assert first.failure == "the client's certificate is refused: the certificate of 'laptop' is revoked"


def test_a_server_that_was_revoked(authority: Authority, client: Credentials) -> None:
    holder = authority.server()
    server = server_of(authority, holder)
    session = session_of(server, client)
    authority.revoke(holder)
    look(client)
    first, second = meet(server, client, session)
    assert second.failure == "the server's certificate is refused: the certificate of 'server' is revoked"
    assert first.failure == "the client refuses our certificate: it is revoked, or a CA that vouches for it is"


@pytest.mark.parametrize("role", Role)
def test_somebody_else_was_revoked(role: Role, authority: Authority, server: Credentials, client: Credentials) -> None:
    """No harm but one whole handshake, whose session is as good."""
    session = session_of(server, client)
    authority.revoke(authority.client("other"))
    look(server if role is Role.SERVER else client)
    assert not is_resumed(*meet(server, client, session))
    assert is_resumed(*meet(server, client, session_of(server, client)))


@pytest.mark.parametrize("role", Role)
def test_the_trusted_ca_is_another(role: Role, authority: Authority, tmp_path: Path) -> None:
    server, client = server_of(authority), client_of(authority)
    session = session_of(server, client)
    changed = server if role is Role.SERVER else client
    changed.settings.ca.write_bytes(Authority(tmp_path / "other", "another CA").cert.read_bytes())
    look(changed)
    first, second = meet(server, client, session)
    refused, told = (first, second) if role is Role.SERVER else (second, first)
    assert refused.failure.endswith("is not from a CA of --tls-ca; it is its own issuer")
    assert told.failure.endswith("refuses our certificate: it is not from a CA of its --tls-ca")


def test_another_certificate_for_the_client(authority: Authority, server: Credentials) -> None:
    """The session of one is nothing to the files of the other, and the server sees who comes."""
    holder = authority.client("laptop")
    client = client_of(authority, holder)
    session = session_of(server, client)
    thief = client_of(authority, authority.client("thief"))
    first, second = meet(server, thief, session)
    assert not is_resumed(first, second)
    assert first.peer is not None
    assert first.peer.name == "thief"


def test_a_session_that_was_stolen(authority: Authority, server: Credentials, client: Credentials) -> None:
    """With its secret one is whom it is of, and nobody else, whatever one's own certificate."""
    session = session_of(server, client)
    thief = client_of(authority, authority.client("thief"))
    first, second = meet(server, thief, TlsSession(thief.now.context, session.content))
    assert is_resumed(first, second)
    assert first.peer is not None
    assert first.peer.name == "laptop"


def test_another_certificate_for_the_server(authority: Authority, client: Credentials) -> None:
    server = server_of(authority, authority.server())
    session = session_of(server, client)
    authority.server("new", file="server")
    look(server)
    first, second = meet(server, client, session)
    assert not is_resumed(first, second)
    assert second.peer is not None
    assert second.peer.name == "new"


# Nobody changes a file, and yet it is another day


@pytest.mark.parametrize("role", Role)
def test_it_has_expired_since(role: Role, authority: Authority) -> None:
    """Of either end's certificate: what the other end says of it is what it says in a whole handshake."""
    end = timedelta(seconds=6)
    server = server_of(authority, authority.server(end=end) if role is Role.SERVER else None)
    client = client_of(authority, authority.client(end=end) if role is Role.CLIENT else None)
    session = session_of(server, client)
    assert is_resumed(*meet(server, client, session))
    own = server if role is Role.SERVER else client
    wait_for_second(own.now.certificates[0].not_valid_after_utc.timestamp() + 1)
    first, second = meet(server, client, session)
    refused, told = (second, first) if role is Role.SERVER else (first, second)
    assert not first.is_resumed
    assert not second.is_resumed
    assert re.match(rf"the {role.value}'s certificate is refused: the certificate of '\w+' expired on", refused.failure)
    assert told.failure == f"the {role.other.value} refuses our certificate: it has expired"
    # And where the end that it belongs to has forgotten, the other has not.
    own.now.sessions._end += DAY
    first, second = meet(server, client, session)
    refused = second if role is Role.SERVER else first
    assert refused.peer is None
    assert re.match(rf"the {role.value}'s certificate is refused: the certificate of '\w+' expired on", refused.failure)


def test_a_ca_has_expired_since(tmp_path: Path) -> None:
    """It is not seen again when a session is resumed: each end by itself sees to it that there are none any more."""
    authority = Authority(tmp_path / "pki", end=timedelta(seconds=6))
    server, client = server_of(authority), client_of(authority)
    session = session_of(server, client)
    assert is_resumed(*meet(server, client, session))
    wait_for_second(authority.certificate.not_valid_after_utc.timestamp() + 1)
    for forgetful in (server, client):
        forgetful.now.sessions._end += 100 * DAY
        first, second = meet(server, client, session)
        assert first.peer is None
        assert not second.is_resumed
        assert "is refused: the certificate of 'test CA' expired on" in second.failure
        forgetful.now.sessions._end -= 100 * DAY


# What an end asks for beyond a valid certificate


def test_the_server_is_judged_again(server: Credentials, client: Credentials) -> None:
    session = session_of(server, client)
    assert is_resumed(*meet(server, client, session, judge_of("localhost", frozenset())))
    for judge in (judge_of("other.example", frozenset()), judge_of("", frozenset(["00" * 32]))):
        whole, resumed = meet(server, client, None, judge)[1], meet(server, client, session, judge)[1]
        assert resumed.peer is None
        assert resumed.failure == whole.failure
        assert "is refused: the certificate of 'server'" in resumed.failure


def test_the_client_is_judged_again(server: Credentials, client: Credentials) -> None:
    session = session_of(server, client)
    first, second = TlsEngine(server, lambda _: "it rains"), TlsEngine(client, session=session)
    second.start()
    exchange(first, second)
    assert first.peer is None
    assert first.failure == "the client's certificate is refused: it rains"


@pytest.mark.parametrize("role", Role)
def test_classical_certificates(role: Role, tmp_path: Path) -> None:
    """Resumed where they are allowed; who no longer allows them takes no session of one either."""
    authority = Authority(tmp_path / "pki", kind="ECDSA")
    server = server_of(authority, authority.server(kind="ECDSA"), allow_classical_certs=True)
    client = client_of(authority, authority.client(kind="ECDSA"), allow_classical_certs=True)
    session = session_of(server, client)
    assert is_resumed(*meet(server, client, session))
    strict = server if role is Role.SERVER else client
    strict.settings = replace(strict.settings, allow_classical_certs=False)
    first, second = meet(server, client, session)
    refused = first if role is Role.SERVER else second
    assert refused.peer is None
    assert "has a key of ECDSA, which a quantum computer can forge" in refused.failure
