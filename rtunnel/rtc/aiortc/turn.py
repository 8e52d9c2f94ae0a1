"""Credentials for TURN servers, and why such a server cannot be used."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl

from aioice.stun import TransactionFailed

from rtunnel.reasons import reason_of
from rtunnel.rtc.settings import IceSettings

#: Seconds for which a time-limited credential is valid.
CREDENTIAL_LIFETIME = 24 * 3600


def turn_credentials(ice: IceSettings, now: float) -> tuple[str, str]:
    """Return user name and password for TURN servers.

    With a shared secret they are derived from it (coturn's ``use-auth-secret``, draft-uberti-behave-turn-rest-00).

    :param now: seconds since 1970.
    """
    if not ice.turn_secret:
        return ice.turn_user, ice.turn_credential
    expiry = int(now) + CREDENTIAL_LIFETIME
    user = f"{expiry}:{ice.turn_user}" if ice.turn_user else str(expiry)
    digest = hmac.new(ice.turn_secret.encode(), user.encode(), hashlib.sha1).digest()
    return user, base64.b64encode(digest).decode()


def explain(error: Exception) -> str:
    """Return why a STUN or TURN server cannot be used; if it rejects our credentials, also what to check."""
    if isinstance(error, TransactionFailed) and error.response.attributes.get("ERROR-CODE", (0,))[0] == 401:
        return f"{error}; check --turn-user and --turn-credential, or --turn-secret, and both clocks"
    if isinstance(error, OSError) and error.errno is not None:
        return reason_of(error)
    return str(error) or "no answer"


def tls_context(ice: IceSettings) -> ssl.SSLContext:
    """Return the context for ``turns:``."""
    return ssl.create_default_context(cafile=str(ice.ca_file) if ice.ca_file is not None else None)
