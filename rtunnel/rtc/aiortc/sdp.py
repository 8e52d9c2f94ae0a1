"""Session descriptions of connections with data channels only, and candidates (RFC 8866, RFC 8841, RFC 8839).

aiortc parses them. A description that lacks something, or has too much, is refused here, before anything is opened.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from aioice import Candidate
from aioice.ice import validate_remote_candidate
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS, RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.sdp import SessionDescription

from rtunnel.errors import BadDescription
from rtunnel.relay.sockets import format_host_port
from rtunnel.rtc.aiortc.dtls import MAX_RECORD
from rtunnel.rtc.aiortc.mdns import is_local_name
from rtunnel.rtc.channels.data_channels import MAX_MESSAGE, PORT

#: How many candidates our descriptions have. The others follow in their own messages, so that a description stays below
#: the limit of a reference server.
MAX_CANDIDATES = 32
#: How many candidates are read from a description.
_MAX_READ = 64

#: The other lines that are read; the rest could only cost time or be malformed.
_READ = ("m=", "a=ice-", "a=fingerprint:", "a=setup:", "a=mid:", "a=sctp-port:", "a=max-message-size:", "a=end-of-")
#: Our own attribute: the largest SCTP packet that an end takes, in bytes, and its ``ice-ufrag``. Others do not know it,
#: but libdatachannel answers with what it was offered.
_MAX_PACKET = "a=x-max-packet-size:"

_ICE_CHARACTERS = re.compile(r"[a-zA-Z0-9+/]{4,256}")
#: The longest description, in characters. One of a browser with 64 candidates has 10,000.
MAX_DESCRIPTION = 32_768
#: The longest username fragment. RFC 8839 allows 256 characters. But this is text of the peer's choice that our checks
#: take to any address that it names; browsers choose 4 or 8 characters, Pion 16.
MAX_FRAGMENT = 32
#: The digests by which aiortc checks a peer's certificate, and their sizes in bytes.
_DIGEST_SIZES = {name: digest.digest_size for name, digest in X509_DIGEST_ALGORITHMS.items()}


@dataclass(frozen=True, slots=True)
class PeerDescription:
    """A peer's description.

    :ivar origin: the user name and number of the session, which are the same in all of its descriptions (RFC 8866,
        section 5.2); empty if there are none.
    :ivar mid: the name of its media section; empty if it has none.
    :ivar max_message: the largest message that the peer accepts, in bytes; None if it does not say.
    :ivar max_packet: the largest SCTP packet that the peer takes, in bytes; None if it does not say.
    :ivar candidates: ``candidate:`` lines without that word.
    :ivar complete: whether these are all candidates.
    """

    origin: str
    mid: str
    ice: RTCIceParameters
    dtls: RTCDtlsParameters
    sctp_port: int
    max_message: int | None
    max_packet: int | None
    candidates: tuple[str, ...]
    complete: bool

    def continues(self, earlier: PeerDescription) -> bool:
        """Return whether this is a later description of the same session, so that its DTLS connection goes on.

        Its ICE session may be another one (RFC 8842, section 5.5; RFC 8839, section 4.4.1.1).
        """
        return self.origin != "" and self.origin == earlier.origin and _prints(self.dtls) == _prints(earlier.dtls)


def _prints(dtls: RTCDtlsParameters) -> set[tuple[str, str]]:
    return {(one.algorithm.lower(), one.value.upper()) for one in dtls.fingerprints}


@dataclass(slots=True)
class Origin:
    """What names our session, and counts its descriptions."""

    number: int = field(default_factory=lambda: secrets.randbits(62))
    version: int = 1

    def __str__(self) -> str:
        return f"- {self.number} {self.version} IN IP4 127.0.0.1"


def write_description(
    origin: Origin,
    ice: RTCIceParameters,
    fingerprints: Sequence[RTCDtlsFingerprint],
    setup: str,
    mid: str,
    candidates: list[Candidate],
) -> str:
    """Return our description.

    :param fingerprints: of our certificate; the one by SHA-256 is written.
    :param setup: ``actpass`` in an offer, ``active`` or ``passive`` in an answer (RFC 8842).
    :param candidates: those found so far; at most :data:`MAX_CANDIDATES` are written.
    """
    lines = [
        "v=0",
        f"o={origin}",
        "s=-",
        "t=0 0",
        f"a=group:BUNDLE {mid}",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        *(f"a=candidate:{candidate.to_sdp()}" for candidate in candidates[:MAX_CANDIDATES]),
        f"a=ice-ufrag:{ice.usernameFragment}",
        f"a=ice-pwd:{ice.password}",
        "a=ice-options:trickle",
        *(f"a=fingerprint:{one.algorithm} {one.value}" for one in fingerprints if one.algorithm == "sha-256"),
        f"a=setup:{setup}",
        f"a=mid:{mid}",
        f"a=sctp-port:{PORT}",
        f"a=max-message-size:{MAX_MESSAGE}",
        f"{_MAX_PACKET}{MAX_RECORD} {ice.usernameFragment}",
    ]
    return "\r\n".join(lines) + "\r\n"


def read_description(text: str) -> PeerDescription:
    """Read a peer's description.

    :raises BadDescription: it is not SDP, has media or no data channel, or lacks what ICE and DTLS need.
    """
    if len(text) > MAX_DESCRIPTION:
        raise BadDescription(f"a session description of more than {MAX_DESCRIPTION:,} characters")
    # Candidates are parsed one by one, so that one that cannot be parsed does not spoil the rest.
    lines = text.replace("\r\n", "\n").split("\n")
    candidates = [line.removeprefix("a=candidate:") for line in lines if line.startswith("a=candidate:")]
    rest = [line for line in lines if line.startswith(_READ)]
    if lines[0].strip() != "v=0":
        raise BadDescription("what should be a session description is not one")
    try:
        session = SessionDescription.parse("\r\n".join(rest))
    except Exception as error:
        # aiortc's parser raises many kinds of exceptions.
        raise BadDescription(f"a session description that is malformed ({type(error).__name__})") from error
    kinds = [media.kind for media in session.media]
    if "audio" in kinds or "video" in kinds:
        raise BadDescription("a session description with audio or video; there are data channels only")
    if kinds != ["application"]:
        raise BadDescription("a session description without a data channel")
    media = session.media[0]
    if not media.port:
        raise BadDescription("a session description that rejects the data channel")
    ice, dtls = media.ice, media.dtls
    if ice is None or not _is_ice_text(ice.usernameFragment, 4) or not _is_ice_text(ice.password, 22):
        raise BadDescription("a session description without ICE credentials")
    if len(ice.usernameFragment or "") > MAX_FRAGMENT:
        raise BadDescription(f"a session description whose ice-ufrag has more than {MAX_FRAGMENT} characters")
    if dtls is None or not any(_is_fingerprint(one) for one in dtls.fingerprints):
        raise BadDescription("a session description without a DTLS fingerprint that can be checked")
    if dtls.role not in ("auto", "client", "server"):
        raise BadDescription("a session description without a DTLS role")
    port = media.sctp_port
    if media.profile == "DTLS/SCTP" and media.fmt and re.fullmatch("[0-9]{1,5}", media.fmt[0]):
        # The syntax of older browsers (draft-ietf-mmusic-sctp-sdp-12).
        port = int(media.fmt[0])
    if port is None or not 0 < port < 65536:
        raise BadDescription("a session description without an SCTP port")
    largest = media.sctpCapabilities.maxMessageSize if media.sctpCapabilities is not None else None
    if largest is not None and largest < 0:
        raise BadDescription("a session description with a negative message size")
    mid = media.rtp.muxId
    if not re.fullmatch(r"[!-~]{0,64}", mid):
        raise BadDescription("a session description whose mid is not a token")
    own = re.escape(ice.usernameFragment or "")
    packet = re.search(rf"^{_MAX_PACKET}([0-9]{{1,5}}) {own}\r?$", text, re.MULTILINE)
    return PeerDescription(
        *(_origin(lines), mid, ice, dtls, port, largest, int(packet[1]) if packet is not None else None),
        *(tuple(candidates[:_MAX_READ]), media.ice_candidates_complete),
    )


def _origin(lines: list[str]) -> str:
    found = next((re.match(r"o=([!-~]{1,64} [0-9]{1,20}) ", line) for line in lines if line.startswith("o=")), None)
    return found[1] if found else ""


def _is_ice_text(text: str | None, shortest: int) -> bool:
    return text is not None and len(text) >= shortest and _ICE_CHARACTERS.fullmatch(text) is not None


def _is_fingerprint(print_: RTCDtlsFingerprint) -> bool:
    size = _DIGEST_SIZES.get(print_.algorithm.lower(), 0)
    parts = print_.value.split(":")
    return len(parts) == size > 0 and all(re.fullmatch("[0-9a-fA-F]{2}", part) for part in parts)


class UnusableCandidate(ValueError):
    """A candidate that cannot be used here. The message continues "it is"."""


def parse_candidate(text: str) -> Candidate:
    """Parse a candidate from signaling or from a description (RFC 8839, section 5.1).

    :raises UnusableCandidate: it is malformed, or cannot be used here.
    """
    try:
        candidate = Candidate.from_sdp(text.removeprefix("a=").removeprefix("candidate:"))
        if candidate.transport.lower() == "tcp":
            raise UnusableCandidate("over TCP")
        if candidate.component != 1 or candidate.transport.lower() != "udp" or not 0 < candidate.port < 65536:
            raise UnusableCandidate("not for data channels")
        if not is_local_name(candidate.host):
            validate_remote_candidate(candidate, candidate.host)
    except UnusableCandidate:
        raise
    except ValueError as error:
        raise UnusableCandidate("malformed") from error
    return candidate


def show_candidate(candidate: Candidate) -> str:
    """Return the candidate as ``192.0.2.1:5000 (host)``, with the address of one that hides it."""
    return f"{format_host_port(candidate._network_host, candidate.port)} ({candidate.type})"
