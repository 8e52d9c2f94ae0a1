"""When to ask for a certificate. Times are seconds since the epoch."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from cryptography import x509

DAY = 86400.0
#: How long before its end a certificate is renewed; one that is good for less than three times this, a third before.
AHEAD = 30 * DAY
#: Seconds after an attempt that the CA has refused, the first time and at most; it counts attempts.
REFUSED = (300.0, DAY)
#: The same after an attempt in which the CA did not answer.
UNREACHED = (5.0, 3600.0)
#: The longest wait that a CA is believed to mean, in seconds. Let's Encrypt's limits are for a week at most.
LONGEST_ASKED = 7 * DAY


def renewal_time(certificate: x509.Certificate) -> float:
    """Return when to renew *certificate* if the CA does not say.

    Many certificates of one day are not all renewed at the same time.
    """
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    ahead = min(AHEAD, (end - begin) / 3)
    # Always the same for one certificate.
    share = (certificate.serial_number % 1000) / 1000
    return end - ahead * (1 + share / 10)


def latest_renewal(certificate: x509.Certificate) -> float:
    """Return when to renew *certificate* at the latest, even if the CA says later: its answer may make no sense."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return end - min(7 * DAY, (end - begin) / 10)


@dataclass(frozen=True, slots=True)
class Attempts:
    """What has become of the attempts to get a certificate since the last one that succeeded.

    :ivar failures: how many have failed.
    :ivar not_before: when the next one may be made.
    """

    failures: int = 0
    not_before: float = 0.0

    def failed(self, now: float, asked: float = 0.0, *, is_reached: bool = True) -> Attempts:
        """Return what it is after one more failure.

        :param asked: seconds that the CA wants us to wait.
        :param is_reached: whether the CA has answered.
        """
        shortest, longest = REFUSED if is_reached else UNREACHED
        wait = min(longest, shortest * 2 ** min(self.failures, 30)) * random.uniform(0.8, 1.2)
        return Attempts(self.failures + 1, now + max(wait, min(asked, LONGEST_ASKED)))

    def encode(self) -> bytes:
        """Return this as the content of a file."""
        return json.dumps({"failures": self.failures, "not_before": self.not_before}).encode("ascii") + b"\n"

    @classmethod
    def decode(cls, content: bytes, now: float) -> Attempts:
        """Return what a file says. What cannot be is as if there were no file.

        :param now: the clock may have been set back since.
        """
        try:
            found = json.loads(content)
            failures, not_before = int(found["failures"]), float(found["not_before"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            return cls()
        if failures < 0 or not 0 <= not_before <= now + 1.5 * LONGEST_ASKED:
            return cls()
        return cls(failures, not_before)
