"""Session descriptions of connections with data channels only, and candidates (RFC 8866, RFC 8841, RFC 8839).

aiortc parses them. A description that lacks something, or has too much, is refused here, before anything is opened.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from aioice import Candidate
from aioice.ice import validate_remote_candidate
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS, RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters
from aiortc.rtcsctptransport import LOCAL_MAX_MESSAGE_SIZE
from aiortc.sdp import SessionDescription

from rtunnel.errors import BadDescription
from rtunnel.relay.sockets import format_host_port
from rtunnel.rtc.aiortc.mdns import is_local_name

#: The SCTP port in our descriptions; each DTLS connection carries only one association.
SCTP_PORT = 5000
#: How many candidates our descriptions have. The others follow in their own messages, so that a description stays below
#: the limit of a reference server.
MAX_CANDIDATES = 32
#: How many candidates are read from a description.
_MAX_READ = 64

#: The other lines that are read; the rest could only cost time or be malformed.
_READ = ("m=", "a=ice-", "a=fingerprint:", "a=setup:", "a=mid:", "a=sctp-port:", "a=max-message-size:", "a=end-of-")

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

    :ivar mid: the name of its media section; empty if it has none.
    :ivar max_message: the largest message that the peer accepts, in bytes; None if it does not say.
    :ivar candidates: ``candidate:`` lines without that word.
    :ivar complete: whether these are all candidates.
    """

    mid: str
    ice: RTCIceParameters
    dtls: RTCDtlsParameters
    sctp_port: int
    max_message: int | None
    candidates: tuple[str, ...]
    complete: bool


def write_description(
    ice: RTCIceParameters, fingerprints: Sequence[RTCDtlsFingerprint], setup: str, mid: str, candidates: list[Candidate]
) -> str:
    """Return our description.

    :param setup: ``actpass`` in an offer, ``active`` or ``passive`` in an answer (RFC 8842).
    :param candidates: those found so far; at most :data:`MAX_CANDIDATES` are written.
    """
    lines = [
        "v=0",
        f"o=- {secrets.randbits(62)} 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        f"a=group:BUNDLE {mid}",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        *(f"a=candidate:{candidate.to_sdp()}" for candidate in candidates[:MAX_CANDIDATES]),
        f"a=ice-ufrag:{ice.usernameFragment}",
        f"a=ice-pwd:{ice.password}",
        "a=ice-options:trickle",
        *(f"a=fingerprint:{print_.algorithm} {print_.value}" for print_ in fingerprints),
        f"a=setup:{setup}",
        f"a=mid:{mid}",
        f"a=sctp-port:{SCTP_PORT}",
        f"a=max-message-size:{LOCAL_MAX_MESSAGE_SIZE}",
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
    return PeerDescription(mid, ice, dtls, port, largest, tuple(candidates[:_MAX_READ]), media.ice_candidates_complete)


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
