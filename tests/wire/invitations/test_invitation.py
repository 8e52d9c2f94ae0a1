"""The life of one invitation at the host."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from rtunnel.errors import BadSignal
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import CLIENT, HOST, Half
from rtunnel.wire.invitations.invitation import CONNECTS_WITHIN, LASTS, Invitation
from rtunnel.wire.invitations.messages import offer_payload, read_answer

CODE = InvitationCode(7, ("guitarist", "orca"))
WRONG = InvitationCode(7, ("guitarist", "orlando"))
CONTEXT = bytes(128)


def invitation() -> Invitation:
    return Invitation(CODE, "cottage", 1000.0)


def answered(code: InvitationCode = CODE, at: float = 1001.0) -> tuple[Invitation, bytes]:
    """An invitation that is answered, and what the client confirms by the code that it has."""
    ours, client = invitation(), Half(code, CLIENT)
    answer = read_answer(ours.take_offer(offer_payload(client.message), at))
    assert answer.host == "cottage"
    return ours, client.finish(answer.pake, answer.host).mine(CONTEXT)


def test_a_right_code() -> None:
    ours, confirm = answered()
    assert ours.stage.name == "ANSWERED"
    assert ours.confirmation is not None
    assert ours.confirmation.check(confirm, CONTEXT)
    ours.confirmed(True)
    assert ours.stage.name == "USED"
    assert ours.is_over
    with pytest.raises(BadSignal, match="an invitation that is used"):
        ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1002.0)
    ours.confirmed(False)
    ours.withdraw()
    ours.tick(1e9)
    assert ours.stage.name == "USED"


def test_a_wrong_code_is_the_last_one() -> None:
    ours, confirm = answered(WRONG)
    assert ours.confirmation is not None
    assert not ours.confirmation.check(confirm, CONTEXT)
    ours.confirmed(False)
    assert ours.stage.name == "FAILED"
    ours.confirmed(True)
    assert ours.stage.name == "FAILED"
    with pytest.raises(BadSignal, match="an invitation that is failed"):
        ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1002.0)


def test_one_guess_whoever_comes_first() -> None:
    ours, _ = answered(WRONG)
    with pytest.raises(BadSignal, match="an invitation that is answered"):
        ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1001.5)
    assert ours.stage.name == "ANSWERED"


def test_what_is_not_understood_costs_nothing() -> None:
    ours = invitation()
    for payload in (None, {}, {"pake": "00"}, offer_payload(Half(CODE, HOST).message), offer_payload(b"A" + bytes(32))):
        with pytest.raises(BadSignal):
            ours.take_offer(payload, 1001.0)
        assert ours.stage.name == "WAITING"
    ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1001.0)


def test_ten_minutes() -> None:
    assert LASTS == 600
    ours = invitation()
    ours.tick(1599.9)
    assert ours.stage.name == "WAITING"
    ours.tick(1600.0)
    assert ours.stage.name == "EXPIRED"


def test_too_late() -> None:
    ours = invitation()
    with pytest.raises(BadSignal, match="expired"):
        ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1600.0)


def test_answered_at_the_last_moment() -> None:
    ours, _ = answered(at=1599.0)
    ours.tick(1599.0 + CONNECTS_WITHIN - 0.1)
    assert ours.stage.name == "ANSWERED"
    ours.tick(1599.0 + CONNECTS_WITHIN)
    assert ours.stage.name == "FAILED"
    ours.confirmed(True)
    assert ours.stage.name == "FAILED"


@pytest.mark.parametrize("is_answered", [False, True])
def test_withdrawn(is_answered: bool) -> None:
    ours = answered()[0] if is_answered else invitation()
    ours.withdraw()
    assert ours.stage.name == "WITHDRAWN"
    ours.confirmed(True)
    assert ours.stage.name == "WITHDRAWN"
    with pytest.raises(BadSignal, match="withdrawn"):
        ours.take_offer(offer_payload(Half(CODE, CLIENT).message), 1002.0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["right", "wrong", "bad", "yes", "no", "withdraw", "later", "end"]), max_size=12))
def test_whatever_comes_there_is_one_guess(events: list[str]) -> None:
    ours, now, answers = invitation(), 1000.0, 0
    for event in events:
        before = ours.stage.name
        if event in ("right", "wrong", "bad"):
            message = b"A" + bytes(32) if event == "bad" else Half(CODE if event == "right" else WRONG, CLIENT).message
            try:
                ours.take_offer(offer_payload(message), now)
                answers += 1
            except BadSignal:
                assert event == "bad" or before != "WAITING" or now >= 1600.0
        elif event in ("yes", "no"):
            ours.confirmed(event == "yes")
            assert ours.stage.name == (("USED" if event == "yes" else "FAILED") if before == "ANSWERED" else before)
        elif event == "withdraw":
            ours.withdraw()
        else:
            now += 30.0 if event == "later" else 600.0
            ours.tick(now)
        assert answers <= 1
        assert (ours.confirmation is not None) == (ours.stage.name == "ANSWERED")
        assert ours.is_over == (ours.stage.name not in ("WAITING", "ANSWERED"))
        if before not in ("WAITING", "ANSWERED"):
            assert ours.stage.name == before
