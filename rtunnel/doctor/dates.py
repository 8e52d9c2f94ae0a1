"""Whether this end's own certificates are valid now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509

from rtunnel.doctor import advice
from rtunnel.doctor.steps import Trouble
from rtunnel.tls.identity import expiry_warning, show_subject


def check_begun(certificates: Iterable[x509.Certificate]) -> None:
    """Check that the time of each certificate has begun.

    :raises Trouble: it has not, by this machine's clock.
    """
    now = datetime.now(UTC)
    for each in certificates:
        if each.not_valid_before_utc > now:
            raise Trouble(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, and {show_subject(each)} is not valid before "
                f"{each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
                "Set the clock of this machine; 'timedatectl' shows whether it is synchronized.",
            )


def check_end(certificate: x509.Certificate) -> None:
    """Check that a certificate has not expired.

    :raises Trouble: it has.
    """
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise Trouble(expiry_warning(certificate), advice.RENEW)
