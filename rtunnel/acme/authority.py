"""One order of a certificate, and one look at when to renew it: everything that waits for the CA.

Only this module imports ``acme``, ``josepy`` and ``requests``. They take their time to load, so nobody imports this
module before there is something to order, and then in a thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from josepy.b64 import b64encode
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from rtunnel.acme.renewal import LONGEST_ASKED
from rtunnel.acme.settings import CHALLENGES, AcmeSettings
from rtunnel.acme.state import State
from rtunnel.errors import RtunnelError, one_line
from rtunnel.pki import pem
from rtunnel.tls.hosts import is_for
from rtunnel.upkeep import AGENT

# A token is text (RFC 8555, section 8.1). The library takes it for base64 in challenges of the kinds that it knows: it
# refuses some, and writes others with another last letter. In challenges that it does not know, it changes nothing.
challenges.Challenge.TYPES.clear()

#: Seconds that the CA has to answer a request, and to check the name and to issue the certificate.
ANSWER, ISSUE = 30, 240
#: The largest answer, in bytes.
MOST = 1 << 20
#: How often a request is made again because the CA wants another nonce.
NONCES = 10


class OrderFailed(RtunnelError):
    """There is no certificate. The text says why.

    :ivar asked: seconds that the CA wants us to wait.
    :ivar is_reached: whether the CA has answered at all.
    """

    def __init__(self, message: str, asked: float = 0.0, *, is_reached: bool = True) -> None:
        super().__init__(message)
        self.asked = asked
        self.is_reached = is_reached


class IAnswers(Protocol):
    """Shows the CA what it wants to see."""

    def show(self, key_authorization: str) -> None:
        """Answer challenges with this key authorization (RFC 8555, section 8.1)."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """A new certificate.

    :ivar content: the key, the certificate and its chain, in PEM.
    :ivar account: the URL of the account.
    :ivar identities: the CA's domains in CAA records.
    :ivar note: what the operator should know about the account; may be empty.
    """

    content: bytes
    account: str
    identities: tuple[str, ...]
    note: str


class _Unusable(errors.ClientError):
    """An answer that says clearly what is wrong."""


class _Network(client.ClientNetwork):
    """Bounds answers, keeps what they say about waiting, and asks for another nonce as often as it takes."""

    def __init__(self, key: JWK | None, settings: AcmeSettings) -> None:
        super().__init__(key, alg=ES256, user_agent=AGENT, timeout=ANSWER)
        self.asked = 0.0
        self.is_reached = False
        if settings.ca is not None:
            self.verify_ssl = str(settings.ca)  # type: ignore[assignment]

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        if not url.startswith("https://"):
            raise _Unusable(f"it names {url!r}, which is not https")
        headers = {"User-Agent": self.user_agent, **kwargs.pop("headers", {})}
        kwargs |= {"verify": self.verify_ssl, "timeout": ANSWER, "headers": headers}
        kwargs |= {"stream": True, "allow_redirects": False}
        with self.session.request(method, url, *args, **kwargs) as response:
            self.is_reached = True
            body = b""
            for piece in response.iter_content(65536):
                body += piece
                if len(body) > MOST:
                    raise _Unusable("its answer is too long")
        if response.is_redirect:
            raise _Unusable(f"it redirects to {response.headers['Location']!r}; name that with --acme-server")
        response._content = body
        response.encoding = "utf-8"
        if response.status_code >= 400:
            self.asked = max(self.asked, _seconds(response.headers.get("Retry-After", "")))
        return response

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(NONCES):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
                self._nonces.clear()
        return self._post_once(*args, **kwargs)


def _seconds(retry_after: str) -> float:
    """Return how long a CA wants us to wait."""
    try:
        if retry_after.isascii() and retry_after.isdigit():
            return float(retry_after[:9])
        when = parsedate_to_datetime(retry_after)
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


class _Go(JSONDeSerializable):
    """The body of a request that a challenge be checked."""

    def to_partial_json(self) -> dict[str, object]:
        return {}

    @classmethod
    def from_json(cls, jobj: object) -> _Go:
        return cls()


def _is_private(key: JWKEC) -> bool:
    return hasattr(key.key, "private_numbers")


class _Account:
    """The account at the CA, which is made anew when it is lost."""

    def __init__(self, settings: AcmeSettings, state: State) -> None:
        self._settings = settings
        self._state = state
        self.note = ""
        self.key, self.uri = self._read()

    def _read(self) -> tuple[JWKEC, str]:
        content = self._state.read(self._state.account)
        if content is None:
            return self._new_key()
        try:
            found = json.loads(content)
            key = JWKEC.from_json(found["key"])
            if not isinstance(key, JWKEC) or not isinstance(found["uri"], str) or not _is_private(key):
                raise ValueError("no key")
            return key, found["uri"]
        except Exception:
            self._state.put_aside(self._state.account)
            self.note = f"{self._state.account} could not be read and has .bad behind its name now; "
            return self._new_key()

    @staticmethod
    def _new_key() -> tuple[JWKEC, str]:
        return JWKEC(key=ec.generate_private_key(ec.SECP256R1())), ""

    def log_in(self, acme: client.ClientV2) -> None:
        """Use the account; make it if there is none."""
        new = messages.NewRegistration.from_data(email=self._settings.email, terms_of_service_agreed=True)
        if self.uri:
            acme.net.account = messages.RegistrationResource(body=new, uri=self.uri)
            return
        # First the key: an account whose key is lost could not be used again.
        self._keep()
        acme.net.account = None
        try:
            account = acme.new_account(new)
        except errors.ConflictError as error:
            account = messages.RegistrationResource(body=new, uri=error.location)
            acme.net.account = account
        if not isinstance(account.uri, str) or not account.uri.startswith("https://"):
            raise _Unusable("it does not say where our account is")
        self.uri = account.uri
        self._keep()
        self.note += f"a new account was made: {self.uri}"

    def forget(self) -> None:
        """The CA does not know the account."""
        self.note, self.uri = "the CA does not know the former account; ", ""

    def _keep(self) -> None:
        content = json.dumps({"key": self.key.to_json(), "uri": self.uri}).encode("ascii") + b"\n"
        self._state.write(self._state.account, content)


@contextmanager
def _explained(network: _Network) -> Iterator[None]:
    """Turn whatever goes wrong into one line. A CA may answer with anything, and libraries raise what they like."""
    try:
        yield
    except RtunnelError as error:
        raise OrderFailed(str(error), network.asked, is_reached=network.is_reached) from error
    except Exception as error:
        text = one_line(_why(error))[:400]
        raise OrderFailed(text, min(network.asked, LONGEST_ASKED), is_reached=network.is_reached) from error


def _why(error: Exception) -> str:
    if isinstance(error, messages.Error):
        return f"{error.code or error.typ}: {error.detail or error.title or error.description or ''}"
    if isinstance(error, errors.ValidationError):
        found = [each.error for one in error.failed_authzrs for each in one.body.challenges if each.error is not None]
        return f"the name was not confirmed: {_why(found[0]) if found else 'the CA does not say why'}"
    if isinstance(error, errors.IssuanceError):
        return _why(error.error)
    if isinstance(error, errors.TimeoutError | requests.Timeout):
        return "it takes too long"
    if isinstance(error, requests.exceptions.SSLError):
        return f"its own certificate is not trusted ({_innermost(error)}); --acme-ca names the CA behind it"
    if isinstance(error, requests.ConnectionError):
        return f"it cannot be reached: {_innermost(error)}"
    if isinstance(error, errors.ClientError) and error.args and isinstance(error.args[0], requests.Response):
        return f"it answers {error.args[0].status_code} without a reason"
    if isinstance(error, _Unusable):
        return str(error)
    return f"it answers what cannot be understood: {error or type(error).__name__}"


def _innermost(error: BaseException) -> BaseException:
    """Return what the library has wrapped several times."""
    for _ in range(8):
        inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error.__cause__ or error


def obtain(settings: AcmeSettings, state: State, name: str, answers: IAnswers) -> Obtained:
    """Order a certificate for *name*. This may take minutes.

    :raises OrderFailed: there is none.
    """
    network = _Network(None, settings)
    with _explained(network):
        account = _Account(settings, state)
        network.key = account.key
        acme = client.ClientV2(client.ClientV2.get_directory(settings.server, network), network)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = _request(name, key)
        account.log_in(acme)
        try:
            order = acme.new_order(csr)
        except messages.Error as error:
            if error.code != "accountDoesNotExist":
                raise
            account.forget()
            account.log_in(acme)
            order = acme.new_order(csr)
        for authorization in order.authorizations:
            if authorization.body.status != messages.STATUS_VALID:
                _answer(acme, account.key, authorization.body, answers, settings.challenge)
        # The library's clock has no zone.
        until = datetime.now() + timedelta(seconds=ISSUE)  # noqa: DTZ005
        chain = _checked(acme.poll_and_finalize(order, until).fullchain_pem, name, key)
        identities = tuple(map(str, getattr(acme.directory.meta, "caa_identities", None) or ()))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Obtained(private + chain, account.uri, identities, account.note)


def _request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _answer(acme: client.ClientV2, key: JWKEC, body: messages.Authorization, answers: IAnswers, challenge: str) -> None:
    offered = {each.chall.to_partial_json().get("type"): each for each in body.challenges}
    chosen = offered.get(challenge)
    if chosen is None:
        others = [f"--acme-challenge {each}" for each in CHALLENGES if each in offered]
        raise _Unusable(f"it does not offer {challenge}" + (f"; give {others[0]}" if others else ""))
    token = chosen.chall.to_partial_json().get("token")
    if not isinstance(token, str) or not re.fullmatch("[A-Za-z0-9_-]{16,256}", token):
        raise _Unusable("its challenge has no token")
    thumbprint = b64encode(key.thumbprint()).decode("ascii")
    answers.show(f"{token}.{thumbprint}")
    response: Any = _Go()
    acme.answer_challenge(chosen, response)


def _checked(chain: object, name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a chain of certificates as it is kept.

    :raises ValueError: it is not what was ordered.
    """
    if not isinstance(chain, str):
        raise ValueError("no certificate")
    certificates = pem.load_certificates(chain.encode("ascii"))
    own = certificates[0]
    if own.public_key() != key.public_key() or not is_for(own, name):
        raise ValueError("a certificate that was not ordered")
    if own.not_valid_after_utc <= datetime.now(UTC):
        raise ValueError("a certificate that has expired")
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def suggested_renewal(settings: AcmeSettings, certificate: x509.Certificate) -> tuple[float | None, float]:
    """Return when the CA wants a certificate renewed (RFC 9773), or None, and when to ask again.

    :returns: seconds since the epoch.
    :raises OrderFailed: the CA does not say.
    """
    network = _Network(None, settings)
    with _explained(network):
        acme = client.ClientV2(client.ClientV2.get_directory(settings.server, network), network)
        when, again = acme.renewal_time(certificate.public_bytes(Encoding.PEM))
        return None if when is None else when.timestamp(), again.timestamp()
