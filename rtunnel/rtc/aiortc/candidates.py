"""Candidates of a peer, and how candidates are shown in logs."""

from __future__ import annotations

from collections.abc import Mapping

from aioice import Candidate
from aioice.ice import validate_remote_candidate

from rtunnel.relay.sockets import format_host_port
from rtunnel.rtc.aiortc.mdns import is_local_name

#: Beyond so many pairs (RFC 8445, section 6.1.2.5) a failure is put down to their number.
MANY_PAIRS = 100


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


def explain_no_path(pairs: int, accepted: int, unusable: Mapping[str, int]) -> str:
    """Return a hint to follow "no path to the peer was found"; empty if there is none.

    :param pairs: how many pairs of addresses there were to try.
    :param accepted: how many candidates of the peer were accepted.
    :param unusable: how many were not, by reason.
    """
    if pairs > MANY_PAIRS:
        return f", with {pairs:,} pairs of addresses; choose which are offered with --ice-interface, at both ends"
    if pairs:
        return ""
    reasons = [f"{count} {why}" for why, count in unusable.items()]
    if accepted:
        reasons.append(f"{accepted} of an IP version of which this end has no address")
    return f": none of its candidates can be used ({', '.join(reasons)})" if reasons else ": it offers no address"
