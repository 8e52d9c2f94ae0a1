"""One function for each parser. It takes any bytes, and raises only what means a fault in the parser."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from rtunnel.access.rights import read_clients
from rtunnel.access.rules import read_rules, rules_as_json
from rtunnel.addresses import DialAddress, ListenAddress, PortRanges
from rtunnel.coercions import boolean, seconds, size
from rtunnel.config_file import read_config_file
from rtunnel.errors import BadDescription, BadSignal, ConfigError, PkiError, ProxyFailed
from rtunnel.host_names import canonical_path
from rtunnel.options.settings.tunnels import publish, tunnels
from rtunnel.pki import bundle
from rtunnel.relay.proxy_header import BadHeader, ProxyHeader
from rtunnel.rtc.aiortc import mdns, sdp
from rtunnel.wire import messages
from rtunnel.wire.data.keys import ClientAgreement, Root, answer, read_plain_keys
from rtunnel.wire.data.records import decode_opening, decode_reason
from rtunnel.wire.data.seal import Cipher, aead
from rtunnel.wire.datagrams.messages import decode_first, decode_number
from rtunnel.wire.opening import read_opening
from rtunnel.wire.proxy.connect import MOST as HEAD, Connect
from rtunnel.wire.proxy.socks5 import Socks5
from rtunnel.wire.tunnel_request import decode_init
from rtunnel.wire.web.client_hello import MOST, BadHello, HelloReader
from rtunnel.wire.web.heads import Problem, RequestHead, ResponseHead, write_response
from rtunnel.wire.webrtc import channel_messages, channel_open, seal_control, sealed_open, signaling
from rtunnel.wire.webrtc.sealed_keys import Side, channel_keys
from rtunnel.wire.webrtc.sealed_messages import channel_seals
from tests.fuzz.sctp import against_association, against_channels
from tests.wire.data.ends import End, sealed, seals, survives
from tests.wire.datagrams.ends import AWAY, HOME, ID, SERVER, STRANGER, Peer, open_server
from tests.wire.test_link_fuzz import MAKERS, live
from tests.wire.web.parts import merged, plain, requests, response_parser, sent_on

NAME = "01234567-89ab-cdef-0123-456789abcdef.local"
LINKS = list(MAKERS.values())


def pieces(data: bytes, length: int) -> list[bytes]:
    """Cut *data* into pieces of *length* bytes; 0: one piece."""
    step = length or len(data) or 1
    return [data[start : start + step] for start in range(0, len(data), step)]


def text_of(data: bytes) -> str:
    """Return text that the bytes decide."""
    return data.decode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")


def link(data: bytes) -> None:
    """A link in one of ten states. The first byte chooses the state and whether the peer reads, the second how the
    bytes are cut.
    """
    if len(data) >= 2:
        live(LINKS[data[0] % len(LINKS)](), pieces(data[2:], data[1]), reads=data[0] < 128)


def data_connection(data: bytes) -> None:
    """One end of a data connection. The first byte chooses which end it is, whether its records are sealed, and whether
    the peer has the keys; the second how the bytes are cut.
    """
    if len(data) < 2:
        return
    is_server, is_sealed, has_keys = bool(data[0] & 1), bool(data[0] & 2), bool(data[0] & 4)
    ours, theirs = seals()[:: 1 if is_server else -1]
    end = End(ours if is_sealed else None, is_server=is_server)
    what = data[2:]
    if is_sealed and has_keys:
        what = b"".join(sealed(theirs[0], *record) for record in whole_records(what))
    assert survives(end, pieces(what, data[1])).isprintable()


def whole_records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the plain records that *data* consists of, in which the length is one byte."""
    while len(data) >= 8:
        length = min(data[3], len(data) - 8)
        yield data[0], int.from_bytes(data[4:8], "big"), data[8 : 8 + length]
        data = data[8 + length :]


def opening(data: bytes) -> None:
    """The first bytes of a connection to the control port. Once they mean something, more bytes do not change that."""
    for is_on in (True, False):
        found = None
        for end in range(len(data[:600]) + 1):
            found = found or read_opening(data[:end], 65536, data_connections=is_on)
        assert found is not None or len(data) < 600


def frame_payloads(data: bytes) -> None:
    """The payloads of all frames of a link, and of the records that have any."""
    for decode in (
        decode_init,
        messages.decode_hello,
        messages.decode_visitor,
        messages.decode_ready,
        messages.decode_error,
        messages.decode_tickets,
        messages.decode_attach,
        messages.decode_path,
        messages.decode_state,
        messages.decode_notice,
        decode_opening,
        decode_reason,
    ):
        with suppress(ValueError):
            decode(data)
    with suppress(ValueError):
        request = decode_init(data)
        rules = read_rules(request.rules, request.protocol)
        assert read_rules(rules_as_json(rules), request.protocol) == rules


def link_keys(data: bytes) -> None:
    """KEYS, as each end of a link reads it, with and without TLS."""
    with suppress(ValueError):
        ClientAgreement(Cipher.AES_256_GCM).finish(data, bytes(32))
    with suppress(ValueError):
        payload, root = answer(data, bytes(32), Cipher.AES_256_GCM)
        assert len(payload) == 1121
        assert payload[0] == root.cipher
    with suppress(ValueError):
        read_plain_keys(data)


def udp_packets(data: bytes) -> None:
    """What strangers send to a UDP path. The first byte chooses the end, and how much of a packet's header is right."""
    if data:
        peer = open_server() if data[0] & 1 else Peer(is_server=False)
        header = (b"", ID.to_bytes(4, "big"), ID.to_bytes(4, "big") + bytes(7))[data[0] // 2 % 3]
        peer.refuses(header + data[1:], STRANGER if data[0] & 128 else peer.source)


def udp_messages(data: bytes) -> None:
    """Authentic messages on a UDP path. The first byte chooses the end. Then each has three bytes in front: tenths of a
    second since the last one, where it is from, and its length.
    """
    found = []
    start = 1
    while start + 3 <= len(data):
        wait, place, length = data[start : start + 3]
        message = data[start + 3 : start + 3 + length]
        found.append((wait, message, (HOME, AWAY, SERVER)[place % 3]))
        with suppress(ValueError):
            assert decode_first(message)[2].isprintable()
        with suppress(ValueError):
            decode_number(message)
        start += 3 + length
    Peer(is_server=bool(data[:1] > b"\x7f")).survives(found)


def signal(data: bytes) -> None:
    """A message of signaling, with the description or candidate in it."""
    try:
        message = signaling.decode_signal(data)
    except BadSignal:
        return
    # A server passes it on.
    assert signaling.decode_signal(signaling.encode_signal(message)) == message
    for kind in (signaling.OFFER, signaling.ANSWER):
        with suppress(BadSignal):
            signaling.read_description(kind, message.payload)
    with suppress(BadSignal):
        signaling.read_candidate(message.payload)


def description(data: bytes) -> None:
    """A session description (SDP)."""
    with suppress(BadDescription):
        sdp.read_description(text_of(data))


def candidate(data: bytes) -> None:
    """An ICE candidate."""
    try:
        found = sdp.parse_candidate(text_of(data))
    except sdp.UnusableCandidate:
        return
    assert found.component == 1


def association(data: bytes) -> None:
    """Packets of a peer whose SCTP association is up, and what this end sends. The first byte says whether messages
    are interleaved; steps follow, each with its kind, its length, and what they say.
    """
    against_association(data)


def data_channels(data: bytes) -> None:
    """The same, with data channels on the association."""
    # In a thread of its own, as this one may have a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, against_channels(data)).result()


def channel(data: bytes) -> None:
    """What opens a data channel, and the control messages on it."""
    with suppress(ValueError):
        channel_open.decode_open(data)
    with suppress(ValueError):
        channel_messages.decode_control(data)


def sealed_channel(data: bytes) -> None:
    """What opens a sealed channel, and what comes on it. The first byte says whether it is authentic, and whether the
    channel is reliable: if it is, the rest is what is inside.
    """
    if not data:
        return
    is_authentic, reliable, content = bool(data[0] & 1), bool(data[0] & 2), data[1:]
    root, cipher = Root(bytes(32), Cipher.AES_256_GCM), Cipher.AES_256_GCM
    keys = channel_keys(root.root, Side.CLIENT, 0)
    client, host = (channel_seals(keys, cipher, side, 0, reliable=reliable) for side in Side)
    protocol, message = text_of(content), content
    if is_authentic:
        sealed = aead(cipher, keys.open).encrypt(bytes(12), content, b"\1" if reliable else b"\0")
        protocol = base64.urlsafe_b64encode(bytes(8) + sealed).decode().rstrip("=")
        message = client.seal(content, text=False)
        assert host.open(message, 0.0) == (content, False)
    with suppress(ValueError):
        label, service, _ = sealed_open.Arriving(root, Side.HOST).take(protocol, reliable=reliable)
        assert is_authentic
        assert len(label) + len(service) < len(content)
    with suppress(ValueError):
        host.open(message, 0.0)
        raise AssertionError("a message that is forged, or has come before, was taken")


def seal_control_messages(data: bytes) -> None:
    """What comes in TLS on the control channel. The first byte says how it is cut, which changes nothing."""
    if not data:
        return
    results: list[Any] = []
    for length in (data[0], 0):
        messages, found = seal_control.Messages(), []
        try:
            for piece in pieces(data[1:], length):
                found += messages.feed(piece)
        except ValueError as error:
            results.append(str(error))
        else:
            results.append(found)
    assert results[0] == results[1]
    assert not isinstance(results[0], str) or results[0].isprintable()


@cache
def _path(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-")) / name


def _file(data: bytes, name: str) -> Path:
    path = _path(name)
    path.write_bytes(data)
    return path


def config(data: bytes) -> None:
    """A configuration file, YAML or (from the second byte on, if the first is 0) JSON."""
    name, content = ("x.json", data[1:]) if data[:1] == b"\0" else ("x.yaml", data)
    for merge in (False, True):
        with suppress(ConfigError):
            read_config_file(str(_file(content, name)), merge=merge)


def clients(data: bytes) -> None:
    """A clients file."""
    with suppress(ConfigError):
        read_clients(_file(data, "clients.yaml"))


def pki_bundle(data: bytes) -> None:
    """A bundle with a client's certificate."""
    with suppress(PkiError):
        bundle.parse(data, "bundle", datetime(2026, 1, 1, tzinfo=UTC))


def proxy_header(data: bytes) -> None:
    """A PROXY header, in pieces and whole."""
    results = []
    for length in (1, 7, 0):
        header = ProxyHeader()
        taken = 0
        try:
            for part in pieces(data, length):
                taken += header.take(part)
                if header.is_complete:
                    break
            results.append((header.is_complete, taken, header.source))
        except BadHeader:
            results.append((False, -1, None))
    assert len(set(results)) == 1


def proxy_answers(data: bytes) -> None:
    """What a proxy answers: it does not depend on how its bytes are cut. The first byte chooses the kind, and whether
    there is a user.
    """
    results: list[Any] = []
    for most in (1, 7, 2**31):
        kind: Any = Connect if data[:1] < b"\x80" else Socks5
        handshake = kind("tunnel.example.org", 7000, *(("me", "secret") if data[:1] > b"\x40" else ()))
        sent, start = handshake.begin(), 1
        try:
            while start < len(data) and handshake.wants:
                part = data[start : start + min(handshake.wants, most)]
                sent += handshake.feed(part)
                start += len(part)
            assert start <= 1 + HEAD + 4
            results.append((sent, start, handshake.wants == 0))
        except ProxyFailed as error:
            results.append(str(error))
    assert results[1:] == results[:-1]
    assert isinstance(results[0], tuple) or (results[0].isprintable() and "secret" not in results[0])


def client_hello(data: bytes) -> None:
    """A ClientHello: what it is does not depend on how its bytes are cut. The first byte chooses what is right of it
    already: nothing, the records, or the message in one record.
    """
    content = data[1:]
    if data[:1] > b"\x55":
        content = (b"\1" + len(content).to_bytes(3) if data[:1] > b"\xaa" else b"") + content
        content = b"\x16\3\1" + len(content[:16384]).to_bytes(2) + content[:16384]
    results = []
    for length in (1, 7, 0):
        reader = HelloReader()
        found: object = None
        try:
            for part in pieces(content, length):
                if (found := reader.take(part)) is not None:
                    break
        except BadHello as error:
            found = str(error)
            assert found.isprintable()
        assert len(reader.raw) <= MOST + max(length, len(content))
        results.append(found)
    assert results[1:] == results[:-1]


def http_requests(data: bytes) -> None:
    """What visitors send to the HTTP port. The first byte says how it is cut, which changes nothing. What goes on to a
    service is understood the same.
    """
    if not data:
        return
    events = requests(data[1:])
    assert plain(requests(*pieces(data[1:], data[0]))) == plain(events)
    heads = [event for event in events if isinstance(event, RequestHead)]
    assert all(canonical_path(head.path)[:1] in ("/", "*") for head in heads)
    if all(head.authority and not head.upgrade for head in heads):
        clean = [event for event in events if not isinstance(event, Problem)]
        again = sent_on(clean)
        assert sent_on(requests(again)) == again


def http_responses(data: bytes) -> None:
    """What services answer. The first byte says how it is cut, and whether the request was HEAD."""
    if not data:
        return
    found = []
    for length in (0, data[0] // 2):
        parser = response_parser(is_head=bool(data[0] & 1))
        found.append(plain(merged(event for piece in pieces(data[1:], length) for event in parser.feed(piece))))
    assert found[0] == found[1]
    for event in response_parser().feed(data[1:]):
        if isinstance(event, ResponseHead) and event.is_final and event.status != 101:
            again = write_response(event, event.lines, is_old=False, keeps_alive=True)
            assert isinstance(response_parser().feed(again)[0], ResponseHead)


def setting(data: bytes) -> None:
    """Values that operators write: addresses, ports, sizes, times."""
    text = text_of(data)
    for coerce in (
        ListenAddress.parse,
        DialAddress.parse,
        DialAddress.parse_udp,
        PortRanges.parse,
        tunnels,
        publish,
        boolean,
        size(0, 1 << 40),
        seconds(zero=True),
    ):
        with suppress(ConfigError):
            coerce(text)


def mdns_answer(data: bytes) -> None:
    """A packet of multicast DNS."""

    async def ask() -> None:
        mdns._Question(NAME).datagram_received(data, ("192.0.2.1", mdns.PORT))

    # In a thread of its own, as this one may have a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, ask()).result()


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        link,
        data_connection,
        opening,
        frame_payloads,
        link_keys,
        udp_packets,
        udp_messages,
        signal,
        description,
        candidate,
        association,
        data_channels,
        channel,
        sealed_channel,
        seal_control_messages,
        config,
        clients,
        pki_bundle,
        proxy_header,
        proxy_answers,
        client_hello,
        http_requests,
        http_responses,
        setting,
        mdns_answer,
    )
}
