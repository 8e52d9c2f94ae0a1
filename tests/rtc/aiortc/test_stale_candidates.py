"""Candidates of an attempt before this one, still under way when it ended, do no harm to the one after it."""

from __future__ import annotations

import pytest
import pytest_twisted

from rtunnel.errors import BadSignal
from rtunnel.rtc.aiortc.peer_connection import PeerConnection
from rtunnel.rtc.settings import IceSettings
from rtunnel.wire.webrtc.signaling import MAX_CANDIDATE, Candidate, candidate_payload, read_candidate
from tests.reverse.net import until
from tests.rtc.fakes import FakePeer, log_limiter

LOOPBACK = IceSettings(interfaces=("127.0.0.1",))


async def described(user: FakePeer) -> tuple[str, list[str], str]:
    """A description without its candidates, those, and the fragment that they belong to."""
    await until(lambda: user.told)
    lines = str(user.told[0][1]).split("\r\n")
    candidates = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    (fragment,) = [line.removeprefix("a=ice-ufrag:") for line in lines if line.startswith("a=ice-ufrag:")]
    return "\r\n".join(line for line in lines if not line.startswith("a=candidate:")), candidates, fragment


@pytest_twisted.ensureDeferred
async def test_the_end_of_other_candidates_is_not_the_end_of_these() -> None:
    users = FakePeer(), FakePeer()
    client, host = (PeerConnection(LOOPBACK, user, 10, log_limiter()) for user in users)
    for connection in client, host:
        connection.take_candidate(Candidate("", "0", 0, "aaaa"))
    client.offer()
    offer, clients, of_client = await described(users[0])
    host.take_offer(offer)
    answer, hosts, of_host = await described(users[1])
    client.take_answer(answer)
    # All of this comes later than what was there before.
    for connection, candidates, fragment in ((host, clients, of_client), (client, hosts, of_host)):
        connection.take_candidate(Candidate("", "0", 0, "aaaa"))
        for candidate in candidates:
            connection.take_candidate(Candidate(candidate, "0", 0, fragment))
    await until(lambda: all(("connected",) in user.told for user in users))
    for connection in client, host:
        await connection.close()


@pytest_twisted.ensureDeferred
async def test_candidates_say_what_they_belong_to() -> None:
    user = FakePeer()
    connection = PeerConnection(LOOPBACK, user, 10, log_limiter())
    connection.offer()
    _, _, fragment = await described(user)
    await until(lambda: len(user.told) == 2)
    assert user.told[1] == ("candidate", Candidate("", "0", 0, fragment))
    await connection.close()


def test_the_fragment_travels_with_the_candidate() -> None:
    for candidate in Candidate("candidate:1", "0", 0, "aaaa"), Candidate("", None, None, None):
        assert read_candidate(candidate_payload(candidate)) == candidate


@pytest.mark.parametrize("fragment", [1, [], "a" * (MAX_CANDIDATE + 1)])
def test_a_fragment_that_is_none_is_refused(fragment: object) -> None:
    with pytest.raises(BadSignal):
        read_candidate({"candidate": {"candidate": "", "sdpMid": "0", "usernameFragment": fragment}})
