"""Host names whose TLS ends here, each with the certificate that is good at the time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.logger import Logger

from rtunnel.errors import ConfigError
from rtunnel.host_names import canonical, covers
from rtunnel.pki.certificates import hosts_of
from rtunnel.tls.credentials import read_certificates, read_private_key, use_certificate
from rtunnel.tls.identity import expiry_warning
from rtunnel.tls.openssl import hold_no_buffers, write_whole
from rtunnel.tls.policy import ACME, CertificateFiles
from rtunnel.tls.web_server import WebFiles, web_context
from rtunnel.upkeep.watched_files import WatchedFiles
from rtunnel.wire.web.client_hello import INTERNAL_ERROR, UNRECOGNIZED_NAME, ClientHello

#: The alert for a visitor with whom there is no common application protocol (RFC 7301).
NO_APPLICATION_PROTOCOL = 120
HTTP = b"http/1.1"


class Host:
    """A name whose TLS ends here; see :class:`~rtunnel.tls.stream_end.IHost`.

    :param pattern: the name; may begin with ``*.``.
    :ivar context: for new connections; None: there is no certificate yet.
    :ivar challenge: for a CA that checks whether the name is ours (RFC 8737); None: none is asked for.
    :ivar key_authorization: what it gets if it asks by HTTP instead (RFC 8555, section 8.3); empty: nothing.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.context: SSL.Context | None = None
        self.challenge: SSL.Context | None = None
        self.key_authorization = ""

    def context_for(self, hello: ClientHello) -> SSL.Context | int:
        """See :class:`~rtunnel.tls.stream_end.IHost`."""
        if hello.name is not None and not self._is_for(hello.name):
            return UNRECOGNIZED_NAME
        if ACME in hello.alpn:
            return self.challenge or NO_APPLICATION_PROTOCOL
        return self.context or INTERNAL_ERROR

    def _is_for(self, name: str) -> bool:
        try:
            return covers(self.pattern, canonical(name))
        except ValueError:
            return False


def load_host_files(cert: Path, key: Path) -> WebFiles:
    """Read the certificate of a host, and its key.

    :raises ConfigError: they cannot be used; the message names the file and the fix.
    """
    chain = read_certificates(cert, "name the file with the certificate")
    private_key = read_private_key(key, "name the file with the certificate's key")
    return host_files(chain, private_key, cert, key)


def host_files(chain: Sequence[x509.Certificate], private_key: crypto.PKey, cert: Path, key: Path) -> WebFiles:
    """Return what connections to a host need.

    :param cert: the file of *chain*, for the error; *key*: that of *private_key*.
    :raises ConfigError: they cannot be used.
    """
    context = web_context()
    write_whole(context)
    hold_no_buffers(context)
    context.set_alpn_select_callback(_choose_http)
    use_certificate(context, chain, private_key, cert, key)
    return WebFiles(context, chain[0])


def _choose_http(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return HTTP if HTTP in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class FilesOfHost:
    """Keeps a host's certificate that of the operator's files.

    :raises ConfigError: see :func:`load_host_files`.
    """

    log = Logger()

    def __init__(self, host: Host, files: CertificateFiles) -> None:
        self._host = host
        self._files = files
        paths = (files.certificate, files.private_key)
        self._watched = WatchedFiles(paths, lambda: load_host_files(*paths))
        self._use()

    def _use(self) -> None:
        certificate = self._watched.now.certificate
        self._host.context = self._watched.now.context
        if why := expiry_warning(certificate):
            self.log.warn("{warning}", warning=why)
        if not is_for(certificate, self._host.pattern):
            self.log.warn(
                "{file} is not for {host}, so browsers will refuse it; it is for {names}",
                file=self._files.certificate,
                host=self._host.pattern,
                names=", ".join(hosts_of(certificate)[:10]) or "no name",
            )

    def refresh(self) -> None:
        """Read the files again if they have changed. If they cannot be used, the former certificate stays in use."""
        try:
            if self._watched.refresh():
                self._use()
                self.log.info("{host}: new connections use another certificate", host=self._host.pattern)
        except ConfigError as error:
            self.log.warn(
                "{host}: the former certificate stays in use: {error}", host=self._host.pattern, error=str(error)
            )


def is_for(certificate: x509.Certificate, pattern: str) -> bool:
    """Return whether a browser would accept *certificate* for the name *pattern*, or for all that it stands for."""
    names: Sequence[str] = [name.lower() for name in hosts_of(certificate)]
    return pattern in names or (pattern.count(".") > 0 and f"*.{pattern.partition('.')[2]}" in names)
