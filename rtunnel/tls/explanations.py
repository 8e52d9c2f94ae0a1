"""Why TLS failed, in words that tell an operator what to do.

OpenSSL's errors say little and alerts say less. Which end must be changed depends on which one refused: an error means
that we did, an alert that the peer did.
"""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL, crypto

from rtunnel.tls.identity import show_end, show_subject
from rtunnel.tls.policy import CLASSICAL_OPTION, Role
from rtunnel.wire.messages import clean_text

EXPIRED, NOT_YET, REVOKED, _PURPOSE = 10, 9, 23, 26
_BAD_SIGNATURE = 7
_UNKNOWN_ISSUER = (2, 7, 18, 19, 20, 21, 30, 31)
_CRL_MISSING, _CRL_NOT_YET, _CRL_EXPIRED, _CRL_OTHER_SCOPE = 3, 11, 12, 44
#: A CA need not have a revocation list, or only one of the certificates of ends, or of CAs. A list that has expired or
#: is not valid yet still says who is revoked.
NOT_AN_ERROR = (_CRL_MISSING, _CRL_NOT_YET, _CRL_EXPIRED, _CRL_OTHER_SCOPE)

#: What else can be wrong with a certificate.
_WRONG = {
    22: "is the end of too long a chain",
    24: "has issued another, but is not a CA's",
    79: "has issued another, but is not a CA's",
    25: "has issued another, at a depth that it does not allow",
    32: "has issued another, which its key usage does not allow",
    66: "has a key that is too short",
    67: "has a key that is too short for a CA",
    68: "is signed with a hash that is too weak",
}

_TLS_HERE = "the other end speaks no TLS 1.3"
_NO_COMMON_GROUP = "it offers no post-quantum key exchange that is allowed here (see --tls-groups)"
_NO_COMMON_SIGNATURE = "it accepts no signature of our certificate's kind (see " + CLASSICAL_OPTION + ")"

#: Why we refused, by OpenSSL's reason.
_OURS = {
    "unsupported protocol": _TLS_HERE,
    "no protocols available": _TLS_HERE,
    "wrong ssl version": _TLS_HERE,
    "no suitable key share": _NO_COMMON_GROUP,
    "no suitable groups": _NO_COMMON_GROUP,
    "bad key share": _NO_COMMON_GROUP,
    "no suitable signature algorithm": _NO_COMMON_SIGNATURE,
    "no shared signature algorithms": _NO_COMMON_SIGNATURE,
    "wrong signature type": "it signs with an algorithm that is not allowed here (see " + CLASSICAL_OPTION + ")",
    "wrong version number": "it speaks no TLS; add --tls there, or remove it here",
    "packet length too long": "it speaks no TLS; add --tls there, or remove it here",
    "http request": "it speaks HTTP, and this is not a web server",
}
_CERTIFICATE = "refuses our certificate: "
#: Why the peer refused, by the name of its alert (RFC 8446, section 6.2).
_THEIRS = {
    "certificate required": "requires a certificate, and we have none that it accepts",
    "unknown ca": _CERTIFICATE + "it is not from a CA of its --tls-ca",
    "certificate expired": _CERTIFICATE + "it has expired",
    "certificate revoked": _CERTIFICATE + "it is revoked, or a CA that vouches for it is",
    "bad certificate": _CERTIFICATE + "it is broken, or not valid yet",
    "unsupported certificate": _CERTIFICATE + "it is not for a {role}",
    "certificate unknown": _CERTIFICATE + "it is not for this use",
    "access denied": _CERTIFICATE + "access denied",
    "internal error": _CERTIFICATE + "its name, its fingerprint or its kind of key is not accepted there",
    "decrypt error": _CERTIFICATE + "its signature is wrong, so it is not from the CA of that name there",
    "protocol version": "does not speak TLS 1.3 with us",
    "handshake failure": (
        "has nothing in common with us: no post-quantum key exchange (see --tls-groups), or no signature of a kind "
        "that both allow (see " + CLASSICAL_OPTION + ")"
    ),
    "unexpected message": "does not expect TLS from us",
}


def explain_failure(error: SSL.Error, role: Role, allow_classical: bool, *, in_handshake: bool) -> str:
    """Return why OpenSSL gave up.

    :param role: our end.
    :param in_handshake: whether our handshake was still in progress. In TLS 1.3 a client's handshake ends before the
        server has seen its certificate.
    """
    other = role.other.value
    reason = openssl_reason(error)
    if not reason:
        return f"the {other} closed the connection " + ("in the handshake" if in_handshake else "without a goodbye")
    _, is_alert, alert = reason.partition("alert ")
    if is_alert:
        text = _THEIRS.get(alert.strip(), f"refuses us: {alert}")
        return f"the {other} {text.format(role=role.value)}"
    if reason == "peer did not return a certificate":
        hint = "" if allow_classical else f", or one of a kind that takes {CLASSICAL_OPTION} here"
        return f"the {other} has no certificate{hint}"
    return f"the {other} is refused: {_OURS.get(reason, reason)}"


def openssl_reason(error: SSL.Error | crypto.Error) -> str:
    """Return OpenSSL's first reason in lower case; empty if the connection just ended."""
    if isinstance(error, SSL.SysCallError) or not error.args or not error.args[0]:
        return ""
    reason = str(error.args[0][0][2]).lower()
    return "" if reason.startswith("unexpected eof") else reason


def explain_certificate(certificate: x509.Certificate, error: int, trusted: str = "a CA of --tls-ca") -> str:
    """Return why OpenSSL does not accept a certificate.

    :param error: one of OpenSSL's ``X509_V_ERR_`` numbers.
    :param trusted: what to call the trusted CAs.
    """
    subject = show_subject(certificate)
    if error == EXPIRED:
        return f"{subject} expired on {show_end(certificate)}"
    if error == NOT_YET:
        begin = certificate.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC")
        return f"{subject} is not valid before {begin}; are both clocks right?"
    if error == REVOKED:
        return f"{subject} is revoked"
    if error == _PURPOSE:
        return f"{subject} is not for this use: its extended key usage does not allow it"
    if error in _UNKNOWN_ISSUER:
        issuer = clean_text(certificate.issuer.rfc4514_string())
        if certificate.issuer == certificate.subject:
            missing = "it is its own issuer"
        elif error == _BAD_SIGNATURE:
            missing = f"the one called {issuer} has another key"
        else:
            missing = f"its issuer, {issuer}, is missing there"
        return f"{subject} is not from {trusted}; {missing}"
    return f"{subject} {_WRONG.get(error) or f'is not valid (error {error} of OpenSSL)'}"
