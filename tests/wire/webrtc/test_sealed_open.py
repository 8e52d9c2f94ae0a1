"""What opens a sealed channel: taken once, from the other end, and as it was opened."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from rtunnel.wire.data.keys import Root
from rtunnel.wire.data.seal import Cipher
from rtunnel.wire.webrtc.channel_open import MAX_NAME
from rtunnel.wire.webrtc.sealed_keys import MAX_ORDINAL, Side
from rtunnel.wire.webrtc.sealed_open import MAX_LABEL, MAX_SERVICE, PADDED_TO, WINDOW, Arriving, Opening

ROOT = Root(bytes(range(32)), Cipher.AES_256_GCM)
AGAIN = r"^a sealed channel that has come before, or is too old$"
FORGED = r"^a sealed channel that is not authentic$"


def pair(root: Root = ROOT) -> tuple[Opening, Arriving]:
    """What the client opens, and the host's view of it."""
    return Opening(root, Side.CLIENT), Arriving(root, Side.HOST)


@given(st.text(max_size=32), st.text(max_size=64), st.booleans(), st.sampled_from([1, 2]))
def test_what_is_opened_arrives(label: str, service: str, reliable: bool, cipher: int) -> None:
    opening, arriving = pair(Root(bytes(32), Cipher(cipher)))
    protocol, ours = opening.open(label, service, reliable=reliable)
    found_label, found_service, theirs = arriving.take(protocol, reliable=reliable)
    assert (found_label, found_service) == (label, service)
    assert theirs.open(ours.seal(b"question", text=False), 0.0) == (b"question", False)
    assert ours.open(theirs.seal(b"answer", text=True), 0.0) == (b"answer", True)


def test_nothing_can_be_read_in_it() -> None:
    """Channels for the same service look different, and short names look alike in length."""
    opening, _ = pair()
    protocols = [opening.open("tcp-192.0.2.1:5", name, reliable=True)[0] for name in ("a", "a", "payroll")]
    assert len(set(protocols)) == 3
    assert len({len(each) for each in protocols}) == 1
    assert not any("payroll" in each for each in protocols)


def test_the_longest_names() -> None:
    opening, arriving = pair()
    protocol, _ = opening.open("é" * MAX_LABEL, "x" * MAX_SERVICE, reliable=True)
    assert len(protocol) <= MAX_NAME
    label, service, _ = arriving.take(protocol, reliable=True)
    # A label is for logs: what is too long of it is left out.
    assert (label, service) == ("é" * (MAX_LABEL // 2), "x" * MAX_SERVICE)
    with pytest.raises(ValueError, match=rf"^the name of a service has more than {MAX_SERVICE} bytes$"):
        opening.open("", "x" * (MAX_SERVICE + 1), reliable=True)
    assert opening.ordinal == 1


def test_a_channel_is_taken_once() -> None:
    opening, arriving = pair()
    protocol, _ = opening.open("label", "web", reliable=True)
    arriving.take(protocol, reliable=True)
    with pytest.raises(ValueError, match=AGAIN):
        arriving.take(protocol, reliable=True)


def test_channels_overtake_each_other() -> None:
    opening, arriving = pair()
    protocols = [opening.open("", str(number), reliable=True)[0] for number in range(300)]
    order = list(range(300))
    random.Random(1).shuffle(order)
    for number in order:
        assert arriving.take(protocols[number], reliable=True)[1] == str(number)
    for protocol in protocols:
        with pytest.raises(ValueError, match=AGAIN):
            arriving.take(protocol, reliable=True)


@pytest.mark.parametrize(("ahead", "is_taken"), [(1, True), (WINDOW - 1, True), (WINDOW, False), (2**40, False)])
def test_one_that_is_late(ahead: int, is_taken: bool) -> None:
    opening, arriving = pair()
    late, _ = opening.open("", "late", reliable=True)
    opening.ordinal = ahead
    arriving.take(opening.open("", "early", reliable=True)[0], reliable=True)
    if is_taken:
        assert arriving.take(late, reliable=True)[1] == "late"
    with pytest.raises(ValueError, match=AGAIN):
        arriving.take(late, reliable=True)


def test_the_last_ordinal() -> None:
    opening, arriving = pair()
    opening.ordinal = MAX_ORDINAL
    assert arriving.take(opening.open("", "last", reliable=True)[0], reliable=True)[1] == "last"
    with pytest.raises(ValueError, match=r"^no more channels can be opened on this connection$"):
        opening.open("", "", reliable=True)


@given(st.data())
def test_a_changed_one_changes_nothing(data: st.DataObject) -> None:
    opening, arriving = pair()
    protocol, _ = opening.open("label", "web", reliable=True)
    at = data.draw(st.integers(0, len(protocol) - 1))
    other = data.draw(st.sampled_from("AZaz09-_ é=").filter(lambda one: one != protocol[at]))
    changed = protocol[:at] + other + protocol[at + 1 :]
    with pytest.raises(ValueError, match=r"^a sealed channel "):
        arriving.take(changed, reliable=True)
    with pytest.raises(ValueError, match=FORGED):
        arriving.take(protocol, reliable=False)
    assert arriving.take(protocol, reliable=True)[1] == "web"


@given(st.integers(0, 200))
def test_a_cut_one(length: int) -> None:
    opening, arriving = pair()
    protocol, _ = opening.open("label", "web", reliable=True)
    with pytest.raises(ValueError, match=r"^a sealed channel "):
        arriving.take(protocol[:length] if length < len(protocol) else protocol + "A" * length, reliable=True)


def test_a_reflected_one() -> None:
    """What this end has opened is not what the other end has opened, whatever its ordinal."""
    opening, _ = pair()
    protocol, _ = opening.open("", "web", reliable=True)
    with pytest.raises(ValueError, match=FORGED):
        Arriving(ROOT, Side.CLIENT).take(protocol, reliable=True)


def test_one_of_another_connection() -> None:
    opening, _ = pair(Root(bytes(32), Cipher.AES_256_GCM))
    _, arriving = pair()
    with pytest.raises(ValueError, match=FORGED):
        arriving.take(opening.open("", "web", reliable=True)[0], reliable=True)


@pytest.mark.parametrize(
    ("purpose", "why"),
    [
        (b"", "is cut off"),
        (b"\0", "is cut off"),
        (b"\0\3ab", "is cut off"),
        (b"\0\0", "is cut off"),
        (b"\0\0\0\1", "is cut off"),
        (b"\0\1\xff\0\0", "is not UTF-8"),
        (b"\0\0\0\0\0\1", "has something behind it"),
    ],
)
def test_an_authentic_one_without_sense(purpose: bytes, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.wire.webrtc.sealed_open._purpose", lambda _label, _service: purpose)
    opening, arriving = pair()
    with pytest.raises(ValueError, match=rf"^a sealed channel whose purpose {why}$"):
        arriving.take(opening.open("", "", reliable=True)[0], reliable=True)


def test_padding() -> None:
    opening, _ = pair()
    lengths = {len(opening.open("", "x" * count, reliable=True)[0]) for count in range(PADDED_TO * 2)}
    assert len(lengths) == 3
