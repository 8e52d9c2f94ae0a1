"""The two signaling messages of an invitation."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from rtunnel.errors import BadSignal
from rtunnel.wire.invitations.code import InvitationCode
from rtunnel.wire.invitations.exchange import CLIENT, HOST, Half
from rtunnel.wire.invitations.messages import Answer, answer_payload, offer_payload, read_answer, read_offer
from rtunnel.wire.webrtc.signaling import ANSWER, OFFER, read_description

CODE = InvitationCode(7, ("guitarist", "orca"))
OF_CLIENT, OF_HOST = Half(CODE, CLIENT).message, Half(CODE, HOST).message
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["pake", "host"]) | st.text(), inner),
)


def test_what_is_made_is_read() -> None:
    assert read_offer(json.loads(json.dumps(offer_payload(OF_CLIENT)))) == OF_CLIENT
    answer = Answer(OF_HOST, "cottage")
    assert read_answer(json.loads(json.dumps(answer_payload(answer)))) == answer
    assert offer_payload(OF_CLIENT)["pake"] == OF_CLIENT.hex()


def test_unknown_keys_are_ignored() -> None:
    assert read_offer({"pake": OF_CLIENT.hex(), "more": 1}) == OF_CLIENT
    assert read_answer({"pake": OF_HOST.hex(), "host": "x", "more": 1}).host == "x"


@pytest.mark.parametrize(
    ("pake", "why"),
    [
        (None, "malformed"),
        (7, "malformed"),
        ("", "malformed"),
        (OF_CLIENT.hex()[:-2], "malformed"),
        (OF_CLIENT.hex() + "00", "malformed"),
        (OF_CLIENT.hex()[:-1] + " ", "malformed"),
        (OF_CLIENT.hex()[:-1] + "\N{FULLWIDTH DIGIT ONE}", "malformed"),
        ("41" + "00" * 32, "no client has made"),
        (OF_HOST.hex(), "no client has made"),
    ],
    ids=["none", "number", "empty", "cut", "long", "space", "digit", "order", "reflected"],
)
def test_bad_offers(pake: object, why: str) -> None:
    with pytest.raises(BadSignal, match=why):
        read_offer({"pake": pake})


@pytest.mark.parametrize("payload", [None, [], "pake", {}, {"sdp": {"type": "offer", "sdp": "v=0"}}])
def test_other_payloads(payload: Any) -> None:
    with pytest.raises(BadSignal):
        read_offer(payload)
    with pytest.raises(BadSignal):
        read_answer(payload)


@pytest.mark.parametrize("host", [None, 7, "", "x" * 129, "two\nlines", ["cottage"]])
def test_bad_hosts(host: object) -> None:
    with pytest.raises(BadSignal, match="without the ID of the host"):
        read_answer({"pake": OF_HOST.hex(), "host": host})


def test_a_reflected_offer_is_no_answer() -> None:
    with pytest.raises(BadSignal, match="no host has made"):
        read_answer({"pake": OF_CLIENT.hex(), "host": "cottage"})


def test_they_are_no_descriptions() -> None:
    for kind, payload in ((OFFER, offer_payload(OF_CLIENT)), (ANSWER, answer_payload(Answer(OF_HOST, "x")))):
        with pytest.raises(BadSignal):
            read_description(kind, payload)


@given(JSON)
def test_whatever_comes(payload: object) -> None:
    with suppress(BadSignal):
        read_offer(payload)
    with suppress(BadSignal):
        read_answer(payload)
