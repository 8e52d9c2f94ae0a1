"""Whether the clock of this machine agrees with that of the server."""

from __future__ import annotations

from rtunnel.doctor import advice
from rtunnel.doctor.steps import Found, Status

#: Seconds by which clocks may differ before anything depends on it: certificates, TURN credentials.
MOST_APART = 60.0
#: Seconds up to which two clocks agree.
AGREE = 1.0


def compare(theirs: float, asked: float, answered: float) -> Found:
    """Compare the clocks.

    :param theirs: what the server's clock says, in seconds since 1970.
    :param asked: what the clock here said when the server was asked.
    :param answered: what it said when the answer was there. The server is taken to have answered halfway.
    """
    ahead = (asked + answered) / 2 - theirs
    doubt = max(0.0, answered - asked) / 2
    if abs(ahead) + doubt <= AGREE:
        # A tenth more is no error, and less than one is not worth a digit.
        return Found(f"the clocks agree within {max(0.1, abs(ahead) + doubt):.1f} s")
    if abs(ahead) <= doubt:
        return Found(f"the clocks agree as far as can be told: the answer took {2 * doubt:.1f} s")
    way = "ahead of" if ahead > 0 else "behind"
    text = f"this machine's clock is {abs(ahead):.{0 if abs(ahead) >= 10 else 1}f} s {way} the server's"
    if abs(ahead) > MOST_APART:
        return Found(text, advice.CLOCKS, Status.WARN)
    return Found(text)
