"""Session descriptions: what real peers write is read, everything else is refused, and ours are small."""

from __future__ import annotations

import pytest
from aioice import Candidate
from aiortc.rtcdtlstransport import RTCDtlsFingerprint
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.sdp import SessionDescription
from hypothesis import given, strategies as st

from rtunnel.errors import BadDescription
from rtunnel.rtc.aiortc.sdp import (
    MAX_CANDIDATES,
    Origin,
    UnusableCandidate,
    parse_candidate,
    read_description,
    write_description,
)
from rtunnel.wire.webrtc.signaling import (
    OFFER,
    REFERENCE_MAX_MESSAGE,
    Description,
    Extension,
    Signal,
    description_payload,
    encode_signal,
)

PRINT = ":".join(["AB"] * 32)
CHROME = f"""\
v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=extmap-allow-mixed
a=msid-semantic: WMS
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=candidate:2999745851 1 udp 2113937151 4a1b7c1e-66a3-4d8b-b1ae-7b2f0e35b1a1.local 51556 typ host generation 0 \
network-cost 999
a=ice-ufrag:EsAw
a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y
a=ice-options:trickle
a=fingerprint:sha-256 {PRINT}
a=setup:actpass
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
"""
FIREFOX = f"""\
v=0
o=mozilla...THIS_IS_SDPARTA-99.0 1234567890123456789 0 IN IP4 0.0.0.0
s=-
t=0 0
a=sendrecv
a=fingerprint:sha-256 {PRINT}
a=group:BUNDLE 0
a=ice-options:trickle
a=msid-semantic:WMS *
m=application 54609 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 192.0.2.1
a=candidate:0 1 UDP 2122187007 192.0.2.1 54609 typ host
a=candidate:1 1 TCP 2105524479 192.0.2.1 9 typ host tcptype active
a=end-of-candidates
a=sendrecv
a=ice-pwd:1f4ee4b8c8a7c2d5e6f7a8b9c0d1e2f3
a=ice-ufrag:96e1b5ff
a=mid:0
a=setup:actpass
a=sctp-port:5000
a=max-message-size:1073741823
"""
#: pion/webrtc 4.2.26, which names a second component that it does not have.
PION = f"""\
v=0
o=- 735344681283865029 1796006090 IN IP4 0.0.0.0
s=-
t=0 0
a=msid-semantic:WMS *
a=fingerprint:sha-256 {PRINT}
a=extmap-allow-mixed
a=group:BUNDLE 0
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=setup:active
a=mid:0
a=sendrecv
a=sctp-port:5000
a=max-message-size:1073741823
a=ice-ufrag:yRpBBbrWrQxyHvZh
a=ice-pwd:ciSdGAozqYtmNbeSaHtsegqOzTVQCfyY
a=sctp-init:AQAAHBWOzcQAEAAA/////753AnGACAAIgsBAwg==
a=candidate:2070692838 1 udp 2130706431 192.0.2.2 54235 typ host ufrag yRpBBbrWrQxyHvZh generation 0
a=candidate:2070692838 2 udp 2130706431 192.0.2.2 54235 typ host ufrag yRpBBbrWrQxyHvZh generation 0
a=end-of-candidates
"""
#: A release of 2021, before it gathered all candidates.
OLD_PION = f"""\
v=0
o=- 5228595038118931041 1614687413 IN IP4 0.0.0.0
s=-
t=0 0
a=fingerprint:sha-256 {PRINT}
a=extmap-allow-mixed
a=group:BUNDLE 0
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=setup:active
a=mid:0
a=sendrecv
a=sctp-port:5000
a=ice-ufrag:PvxjGgHfVnVkPmaC
a=ice-pwd:KvCOuFGQIlYhkbvtVALlQfkxqCjSjYrE
"""
OLD = f"""\
v=0
o=- 1 2 IN IP4 127.0.0.1
s=-
t=0 0
m=application 9 DTLS/SCTP 5001
c=IN IP4 0.0.0.0
a=ice-ufrag:EsAw
a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y
a=fingerprint:sha-256 {PRINT}
a=setup:passive
a=mid:data
a=sctpmap:5001 webrtc-datachannel 1024
"""
ICE = RTCIceParameters(usernameFragment="abcd", password="p" * 22)


def test_chromes_offer() -> None:
    found = read_description(CHROME)
    assert (found.mid, found.sctp_port, found.max_message, found.complete) == ("0", 5000, 262144, False)
    assert (found.ice.usernameFragment, found.ice.password) == ("EsAw", "bP+XJMM09aR8AiX1jdukzR6Y")
    assert (found.dtls.role, found.dtls.fingerprints) == ("auto", [RTCDtlsFingerprint("sha-256", PRINT)])
    assert len(found.candidates) == 1
    assert found.candidates[0].startswith("2999745851 1 udp ")


def test_firefoxs_offer() -> None:
    found = read_description(FIREFOX)
    assert (found.max_message, found.complete, len(found.candidates)) == (1073741823, True, 2)
    assert found.dtls.fingerprints == [RTCDtlsFingerprint("sha-256", PRINT)]


@pytest.mark.parametrize("text", [CHROME, FIREFOX, CHROME + "a=x-max-packet-size:many EsAw\n"])
def test_other_stacks_do_not_say_how_large_a_packet_may_be(text: str) -> None:
    assert read_description(text).max_packet is None


def test_an_attribute_of_ours_that_a_peer_repeats_says_nothing_of_the_peer() -> None:
    assert read_description(CHROME + "a=x-max-packet-size:16384 EsAw\n").max_packet == 16_384
    assert read_description(CHROME + "a=x-max-packet-size:16384 abcd\n").max_packet is None


def test_pions_answer() -> None:
    found = read_description(PION)
    assert (found.dtls.role, found.max_message, found.max_packet) == ("client", 1073741823, None)
    assert (found.ice.usernameFragment, found.ice.password) == ("yRpBBbrWrQxyHvZh", "ciSdGAozqYtmNbeSaHtsegqOzTVQCfyY")
    assert (found.complete, len(found.candidates)) == (True, 2)
    first, second = found.candidates
    assert (parse_candidate(first).host, parse_candidate(first).port) == ("192.0.2.2", 54235)
    with pytest.raises(UnusableCandidate):
        parse_candidate(second)


def test_an_old_pions_answer() -> None:
    found = read_description(OLD_PION)
    assert (found.dtls.role, found.max_message, found.candidates) == ("client", None, ())
    assert found.ice.usernameFragment == "PvxjGgHfVnVkPmaC"


def test_the_old_way_to_write_an_association() -> None:
    found = read_description(OLD)
    assert (found.sctp_port, found.mid, found.dtls.role) == (5001, "data", "server")


def test_line_ends_of_both_kinds() -> None:
    assert read_description(CHROME.replace("\n", "\r\n")) == read_description(CHROME)


def test_an_ice_lite_peer() -> None:
    assert read_description(CHROME.replace("t=0 0", "t=0 0\na=ice-lite")).ice.iceLite
    assert not read_description(CHROME).ice.iceLite


def test_our_own_is_read_as_it_was_meant() -> None:
    candidate = Candidate("f", 1, "udp", 5, "192.0.2.1", 5000, "host")
    prints = [RTCDtlsFingerprint("sha-256", PRINT)]
    found = read_description(write_description(Origin(), ICE, prints, "active", "data", [candidate]))
    assert found.max_packet == 16_384
    assert (found.ice, found.dtls.fingerprints, found.dtls.role) == (ICE, prints, "client")
    assert (found.mid, found.sctp_port, found.max_message, found.complete) == ("data", 5000, 262144, False)
    assert found.candidates == (candidate.to_sdp(),)


def test_an_offer_fits_into_a_message_of_a_reference_server_whatever_addresses_there_are() -> None:
    host, relay = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8:eeee:eeee:eeee:eeee:eeee:eeee"
    long = Candidate("f" * 32, 1, "udp", 2**31, relay, 65535, "relay", related_address=host, related_port=65535)
    text = write_description(Origin(), ICE, [RTCDtlsFingerprint("sha-256", PRINT)], "actpass", "0", [long] * 100)
    assert text.count("a=candidate:") == MAX_CANDIDATES
    payload = description_payload(OFFER, Description(text, Extension(2**60)))
    assert len(encode_signal(Signal(OFFER, payload, "x" * 128, "y" * 128))) < REFERENCE_MAX_MESSAGE


def without(key: str) -> str:
    return "".join(line + "\n" for line in CHROME.splitlines() if not line.startswith(key))


def changed(old: str, new: str) -> str:
    assert old in CHROME
    return CHROME.replace(old, new)


SECTION = CHROME[CHROME.index("m=application") :]
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\nc=IN IP4 0.0.0.0\na=rtpmap:111 opus/48000/2\na=mid:1\n"
BAD = {
    "nothing": "",
    "text": "hello",
    "JSON": '{"type": "offer"}',
    "HTTP": "GET / HTTP/1.1\r\n\r\n",
    "only a version": "v=0\n",
    "another version": changed("v=0", "v=1"),
    "no section": CHROME[: CHROME.index("m=")],
    "audio before": changed("m=application", AUDIO + "m=application"),
    "audio only": CHROME[: CHROME.index("m=")] + AUDIO,
    "video": CHROME + AUDIO.replace("audio", "video").replace("opus/48000/2", "VP8/90000"),
    "another kind": changed("m=application", "m=text"),
    "two sections": CHROME + SECTION,
    "a section that is rejected": changed("m=application 9 ", "m=application 0 "),
    "a port that is none": changed("m=application 9 ", "m=application x "),
    "no user fragment": without("a=ice-ufrag"),
    "no password": without("a=ice-pwd"),
    "a user fragment that is too short": changed("EsAw", "EsA"),
    "a user fragment that is too long": changed("EsAw", "x" * 257),
    "a user fragment of other characters": changed("EsAw", "Es:Aw"),
    "a password that is too short": changed("bP+XJMM09aR8AiX1jdukzR6Y", "x" * 21),
    "a password that is too long": changed("bP+XJMM09aR8AiX1jdukzR6Y", "x" * 257),
    "no fingerprint": without("a=fingerprint"),
    "half a fingerprint": changed("sha-256 ", ""),
    "no role": without("a=setup"),
    "an unknown role": changed("actpass", "holdconn"),
    "no port": without("a=sctp-port"),
    "port 0": changed("sctp-port:5000", "sctp-port:0"),
    "a port too high": changed("sctp-port:5000", "sctp-port:65536"),
    "a port of many digits": changed("sctp-port:5000", "sctp-port:" + "9" * 5000),
    "a port below zero": changed("sctp-port:5000", "sctp-port:-5"),
    "an old port of many digits": OLD.replace("SCTP 5001", "SCTP " + "9" * 5000),
    "an old port that is none": OLD.replace("SCTP 5001", "SCTP ٥٠٠"),
    "a fingerprint of no known kind": changed("fingerprint:sha-256", "fingerprint:sha-1"),
    "a fingerprint that is too short": changed(f"sha-256 {PRINT}", f"sha-512 {PRINT}"),
    "a fingerprint of something else": changed(PRINT, PRINT[:-1] + "X"),
    "a size below zero": changed("size:262144", "size:-1"),
    "a size that is none": changed("size:262144", "size:big"),
    "a size of many digits": changed("size:262144", "size:" + "9" * 5000),
    "a name that is none": changed("mid:0", "mid:a b"),
    "a name that is too long": changed("mid:0", "mid:" + "x" * 65),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(BadDescription) as caught:
        read_description(text)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_what_is_not_needed_may_be_anything() -> None:
    odd = "a=extmap:x\na=rtcp:x\na=ssrc:\na=fmtp:9\na=rtpmap:\na=group:\nc=nothing\na=sctpmap:x\nb=AS:x\na=\nx\n"
    assert read_description(CHROME + odd) == read_description(CHROME)


def test_one_fingerprint_of_a_known_kind_is_enough() -> None:
    several = f"a=fingerprint:sha-1 AB:CD\na=fingerprint:SHA-512 {':'.join(['ab'] * 64)}\n"
    assert len(read_description(changed(f"a=fingerprint:sha-256 {PRINT}\n", several)).dtls.fingerprints) == 2


def test_sizes_that_are_large_are_not_ours_to_judge() -> None:
    assert read_description(changed("size:262144", "size:0")).max_message == 0
    assert read_description(changed("size:262144", f"size:{2**64}")).max_message == 2**64


def test_too_many_candidates() -> None:
    many = CHROME + "a=candidate:1 1 udp 1 192.0.2.1 1 typ host\n" * 700
    assert len(read_description(many).candidates) == 64
    with pytest.raises(BadDescription, match="more than 32,768 characters"):
        read_description(many + "x" * 3000)


@pytest.mark.parametrize(("length", "is_good"), [(3, False), (4, True), (32, True), (33, False), (256, False)])
def test_how_long_a_username_fragment_may_be(length: int, is_good: bool) -> None:
    """It is text of the peer's choice, which our checks repeat wherever the peer wants."""
    text = changed("ice-ufrag:EsAw", "ice-ufrag:" + "x" * length)
    if is_good:
        assert read_description(text).ice.usernameFragment == "x" * length
    else:
        with pytest.raises(BadDescription):
            read_description(text)


def test_candidates_that_nobody_understands_are_no_reason_to_refuse_the_rest() -> None:
    assert read_description(CHROME + "a=candidate:\na=candidate:x y z\n").candidates[1:] == ("", "x y z")


def test_lines_that_would_be_compared_with_each_other_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = SessionDescription.parse, []

    def noted(text: str) -> SessionDescription:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(SessionDescription, "parse", noted)
    odd = "".join(f"a=ssrc:{number} x:y\na=rtpmap:{number} x/1\na=fmtp:{number} x\n" for number in range(500))
    assert read_description(CHROME + odd) == read_description(CHROME)
    assert parsed[0] == parsed[1]
    assert len(parsed[0].splitlines()) < 12


@given(
    st.sampled_from([CHROME, FIREFOX, PION, OLD_PION, OLD]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30), st.text(max_size=12)), max_size=6),
)
def test_no_mutation_raises_anything_else(text: str, changes: list[tuple[int, int, str]]) -> None:
    for where, length, new in changes:
        text = text[:where] + new + text[where + length :]
    try:
        found = read_description(text)
    except BadDescription:
        return
    assert 0 < found.sctp_port < 65536


@given(
    st.lists(
        st.sampled_from([line for text in (CHROME, FIREFOX, PION, OLD_PION, OLD, AUDIO) for line in text.splitlines()])
    )
)
def test_no_order_of_lines_raises_anything_else(lines: list[str]) -> None:
    try:
        read_description("\r\n".join(["v=0", *lines]))
    except BadDescription:
        pass


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(BadDescription):
        read_description(text)
