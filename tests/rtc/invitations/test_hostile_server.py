"""A signaling server that answers itself, swaps, reflects, repeats or strips the messages of an invitation.

Whatever it does, it has one guess: no two ends confirm each other that do not both know the code.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from rtunnel.errors import BadSignal
from rtunnel.rtc.invitations.redeeming import SETTLES_AFTER, Redeeming
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import CLIENT, HOST, Confirmation, Half
from rtunnel.wire.invitations.invitation import Invitation
from rtunnel.wire.invitations.messages import Answer, answer_payload, offer_payload, read_offer
from rtunnel.wire.webrtc.signaling import ANSWER, ERROR, Signal

CODE = InvitationCode(7, ("guitarist", "orca"))
GUESS = InvitationCode(7, ("guitarist", "zulu"))
CONTEXT = bytes(128)
SENDER = CODE.signaling_id
NOBODY = "is no host of rtunnel"


class Client:
    """A client with the code, and a server that says what the test wants.

    :ivar sent: what it has sent.
    :ivar told: the host's ID, or why it failed.
    """

    def __init__(self, code: InvitationCode = CODE) -> None:
        self.clock = Clock()
        self.sent: list[Signal] = []
        self.told: list[str] = []
        self.confirmation: Confirmation | None = None
        self.redeeming = Redeeming(self.clock, code, self._send, self._known, self.told.append)
        self.redeeming.signaling_up()

    def _send(self, signal: Signal) -> bool:
        self.sent.append(signal)
        return True

    def _known(self, host: str, confirmation: Confirmation) -> None:
        self.told.append(host)
        self.confirmation = confirmation

    @property
    def message(self) -> bytes:
        return read_offer(self.sent[-1].payload)

    def hears(self, payload: object, kind: str = ANSWER, sender: str = SENDER) -> None:
        self.redeeming.signal_received(Signal(kind, payload, "client", sender))
        self.clock.advance(SETTLES_AFTER)


def guessing_host(client: Client) -> tuple[object, Confirmation]:
    """The server plays the host, with a code that it guesses."""
    half = Half(GUESS, HOST)
    return answer_payload(Answer(half.message, "cottage")), half.finish(client.message, "cottage")


def test_it_answers_itself() -> None:
    client = Client()
    answer, server = guessing_host(client)
    client.hears(answer)
    assert client.told == ["cottage"]
    assert client.confirmation is not None
    assert not client.confirmation.check(server.mine(CONTEXT), CONTEXT)
    assert not server.check(client.confirmation.mine(CONTEXT), CONTEXT)


def test_it_sits_in_between() -> None:
    """It has a key with each end only if it has guessed; what one end confirms does not convince the other."""
    invitation, client = Invitation(CODE, "cottage", 0.0), Client()
    to_host = Half(GUESS, CLIENT)
    answer = invitation.take_offer(offer_payload(to_host.message), 1.0)
    forged, _ = guessing_host(client)
    client.hears(forged)
    assert client.confirmation is not None
    assert invitation.confirmation is not None
    assert not invitation.confirmation.check(client.confirmation.mine(CONTEXT), CONTEXT)
    assert not client.confirmation.check(invitation.confirmation.mine(CONTEXT), CONTEXT)
    # The host's answer comes too late for another try at the client.
    client.hears(answer)
    assert client.told == ["cottage"]


def test_it_names_another_host() -> None:
    """The client would come to a host of the server's choice: the two have different keys."""
    invitation, client = Invitation(CODE, "cottage", 0.0), Client()
    answer = invitation.take_offer(client.sent[0].payload, 1.0)
    client.hears({**answer, "host": "castle"})
    assert client.told == ["castle"]
    assert client.confirmation is not None
    assert invitation.confirmation is not None
    assert not client.confirmation.check(invitation.confirmation.mine(CONTEXT), CONTEXT)
    assert not invitation.confirmation.check(client.confirmation.mine(CONTEXT), CONTEXT)


def test_it_repeats_what_the_client_said() -> None:
    invitation, client = Invitation(CODE, "cottage", 0.0), Client()
    invitation.take_offer(client.sent[0].payload, 1.0)
    with pytest.raises(BadSignal, match="an invitation that is answered"):
        invitation.take_offer(client.sent[0].payload, 1.0)
    other = Invitation(CODE, "cottage", 0.0)
    other.take_offer(client.sent[0].payload, 1.0)
    assert other.confirmation is not None
    assert invitation.confirmation is not None
    assert other.confirmation.key != invitation.confirmation.key


@pytest.mark.parametrize(
    "forge",
    [
        lambda client: client.sent[0].payload,
        lambda client: {**client.sent[0].payload, "host": "cottage"},
        lambda client: {"pake": "42" + client.message.hex()[2:], "host": "cottage"},
        lambda client: {"pake": "42" + "00" * 32, "host": "cottage"},
        lambda client: {"pake": "4201" + "00" * 31, "host": "cottage"},
        lambda client: {"pake": Half(CODE, HOST).message.hex()},
        lambda client: {"pake": Half(CODE, HOST).message.hex(), "host": ""},
        lambda client: {"pake": Half(CODE, HOST).message.hex(), "host": "x" * 129},
        lambda client: None,
        lambda client: {"sdp": {"type": "answer", "sdp": "v=0"}},
    ],
    ids=["reflects", "with host", "other side", "order", "zero", "no host", "empty", "long", "nothing", "sdp"],
)
def test_it_makes_something_up(forge: Callable[[Client], object]) -> None:
    client = Client()
    client.hears(forge(client))
    [why] = client.told
    assert why.startswith(f"whoever answers to invitation 7 {NOBODY} (")
    assert why.endswith("somebody may sit between you and the host; ask for a new code")
    # The guess is spent at this end too.
    client.hears(guessing_host(client)[0])
    assert client.told == [why]


def test_others_are_not_heard() -> None:
    client = Client()
    answer, _ = guessing_host(client)
    client.hears(answer, sender="rtunnel-invite-8")
    client.hears("gone", kind=ERROR, sender="client")
    client.hears({}, kind="candidate")
    assert client.told == []
    client.hears(answer)
    assert client.told == ["cottage"]


def test_what_it_says_of_an_error() -> None:
    client = Client()
    client.hears("too many codes were tried", kind=ERROR)
    assert client.told == ["the signaling server does not pass the code on: too many codes were tried"]
    assert not client.clock.getDelayedCalls()


def test_the_next_step_comes_a_fixed_time_after_the_answer() -> None:
    """How long the key takes depends on the code."""
    client = Client()
    answer, _ = guessing_host(client)
    client.redeeming.signal_received(Signal(ANSWER, answer, "client", SENDER))
    [call] = client.clock.getDelayedCalls()
    assert call.getTime() == SETTLES_AFTER
    assert client.told == []


def test_the_same_message_when_signaling_is_back() -> None:
    """Another one would be another guess for whoever is in between."""
    client = Client()
    client.redeeming.signaling_down()
    assert not client.clock.getDelayedCalls()
    client.redeeming.signaling_up()
    assert client.sent[0] == client.sent[1]
    client.redeeming.stop()
    assert not client.clock.getDelayedCalls()
    client.redeeming.signaling_up()
    assert len(client.sent) == 2
