"""The directory of certificates, as the operator sees it.

    ca.crt ca.key ca.crl          the CA and its revocation list
    server.crt server.key         the server's certificate
    clients/NAME.crt NAME.key     the clients' certificates, to be carried to their machines
    hosts/ID.crt ID.key           those of hosts of the WebRTC tunnel
    client.crt client.key         on a client's machine: its own
    host.crt host.key             on a host's machine: its own
    old/NAME-TIME.crt NAME-TIME.key   replaced certificates

On a machine without the CA, ``ca.key``, ``clients`` and ``hosts`` are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import PkiError
from rtunnel.pki import locations, names, pem
from rtunnel.pki.certificates import Identity, Kind, common_name, fits, is_from, kind_of
from rtunnel.pki.files import PRIVATE, Draft, read
from rtunnel.pki.ml_dsa import SeedMissing

CLIENTS = "clients"
HOSTS = "hosts"
OLD = "old"


@dataclass(frozen=True, slots=True)
class Pair:
    """The paths of a certificate and its key."""

    certificate: Path
    key: Path

    def load(self) -> Identity:
        """Return the certificate and its key.

        :raises PkiError: one is missing or damaged, or they do not belong together.
        """
        certificate, key = parse_certificate(read(self.certificate), self.certificate), self.load_key()
        if not fits(key, certificate):
            raise PkiError(f"{self.key} is not the key of {self.certificate}")
        return Identity(certificate, key)

    def load_key(self) -> PrivateKeyTypes:
        """Return the key.

        :raises PkiError: it is missing or damaged.
        """
        return parse_key(read(self.key), self.key)


class Store:
    """A directory of certificates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._pair(locations.CA_CERTIFICATE, locations.CA_KEY)
        self.server = self._pair(locations.SERVER_CERTIFICATE, locations.SERVER_KEY)
        self.own_client = self._pair(locations.CLIENT_CERTIFICATE, locations.CLIENT_KEY)
        self.own_host = self._pair(locations.HOST_CERTIFICATE, locations.HOST_KEY)
        self.crl = directory / locations.CRL
        self.clients = directory / CLIENTS
        self.hosts = directory / HOSTS
        self.old = directory / OLD

    def _pair(self, certificate: str, key: str) -> Pair:
        return Pair(self.directory / certificate, self.directory / key)

    def pair(self, name: str) -> Pair:
        """Return the paths for a name: ``ca``, ``server``, the ID of a host that there is, or a client's name.

        :raises PkiError: it cannot be a client's name.
        """
        if name == names.CA:
            return self.ca
        if name == names.SERVER:
            return self.server
        name = names.client_name(name)
        return self.new_pair(name, Kind.HOST if name in self.host_names() else Kind.CLIENT)

    def new_pair(self, name: str, kind: Kind) -> Pair:
        """Return the paths for a client or a host, which need not exist.

        :param name: a valid one.
        """
        folder = self.hosts if kind is Kind.HOST else self.clients
        return Pair(folder / f"{name}.crt", folder / f"{name}.key")

    def client_names(self) -> list[str]:
        """Return the names of the clients, sorted."""
        return _names_in(self.clients)

    def host_names(self) -> list[str]:
        """Return the IDs of the hosts, sorted."""
        return _names_in(self.hosts)

    def require_ca(self) -> None:
        """Check that there is a CA to sign with.

        :raises PkiError: there is none.
        """
        if not self.ca.certificate.exists():
            raise PkiError(f"there is no CA in {self.directory}; make one with 'rtunnel pki init', or name its --dir")
        if not self.ca.key.exists():
            raise PkiError(f"{self.directory} has no {locations.CA_KEY}; run this on the machine where the CA is")

    def load_ca(self) -> Identity:
        """Return the CA, to sign with.

        :raises PkiError: it cannot be used.
        """
        ca = self.ca.load()
        if kind_of(ca.certificate) is not Kind.CA:
            raise PkiError(f"{self.ca.certificate} is not the certificate of a CA")
        return ca

    def load_certificate(self, name: str) -> x509.Certificate:
        """Return the certificate of a name.

        :raises PkiError: there is none, or it is damaged.
        """
        path = self.pair(name).certificate
        if not path.exists():
            if name in (names.CA, names.SERVER):
                raise PkiError(f"{self.directory} has no certificate of the {name}")
            known = [*self.client_names(), *self.host_names()]
            raise PkiError(f"{self.directory} has no client or host '{name}'{suggestion(name, known)}")
        return parse_certificate(read(path), path)

    def load_crl(self, ca: x509.Certificate) -> x509.CertificateRevocationList | None:
        """Return the revocation list, or None if there is none.

        :raises PkiError: it is damaged, or from another CA.
        """
        if not self.crl.exists():
            return None
        crl = parse_crl(read(self.crl), self.crl)
        if not is_from(crl, ca):
            raise PkiError(f"{self.crl} is not from the CA {self.ca.certificate}; put the right one back")
        return crl

    def replaced(self) -> Iterator[tuple[Path, x509.Certificate]]:
        """Yield the replaced certificates, oldest first, except for files that cannot be read."""
        found = []
        for path in self.old.glob("[!.]*.crt"):
            try:
                found.append((path, parse_certificate(read(path), path)))
            except PkiError:
                continue
        yield from sorted(found, key=lambda item: (item[1].not_valid_before_utc, item[0]))

    def replaced_of(self, name: str, like: x509.Certificate) -> list[x509.Certificate]:
        """Return the former certificates of a name.

        :param like: the current one.
        """
        return [
            old
            for _, old in self.replaced()
            if kind_of(old) is kind_of(like) and (name == names.SERVER or common_name(old) == common_name(like))
        ]

    def put_aside(self, paths: Sequence[Path], now: datetime) -> list[Draft]:
        """Return copies in ``old/`` of files that will be replaced. Missing files are left out."""
        paths = [path for path in paths if path.exists()]
        time = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        number = 1
        while any(path.exists() for path in self._aside(paths, time)):
            number += 1
            time = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{number}"
        return [Draft(aside, read(path), PRIVATE) for path, aside in zip(paths, self._aside(paths, time), strict=True)]

    def _aside(self, paths: Sequence[Path], time: str) -> list[Path]:
        return [self.old / f"{path.stem}-{time}{path.suffix}" for path in paths]


def _names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.crt") if not path.name.startswith("."))


def parse_certificate(content: bytes, source: Path | str) -> x509.Certificate:
    """Return the first certificate of a PEM file.

    :param source: what to call the file in errors.
    :raises PkiError: there is none.
    """
    try:
        return pem.load_certificate(content)
    except ValueError:
        raise PkiError(f"{source} is damaged: it is not a certificate in PEM form") from None


def parse_key(content: bytes, source: Path | str) -> PrivateKeyTypes:
    """Return the private key of a PEM file.

    :param source: what to call the file in errors.
    :raises PkiError: there is none, or it has a passphrase, or is an ML-DSA key without its seed.
    """
    if pem.is_encrypted(content):
        raise PkiError(f"{source} has a passphrase; remove that, as in: openssl pkey -in WITH -out WITHOUT")
    try:
        return pem.load_key(content)
    except SeedMissing:
        raise PkiError(
            f"{source} has an ML-DSA key without its seed, and only --tls-key can use that; export it with the seed "
            "where it was made (openssl pkey -provparam ml-dsa.output_formats=seed-only), or make a new one"
        ) from None
    except ValueError:
        raise PkiError(f"{source} is damaged: it is not a private key in PEM form") from None


def parse_crl(content: bytes, source: Path | str) -> x509.CertificateRevocationList:
    """Return the revocation list of a PEM file.

    :param source: what to call the file in errors.
    :raises PkiError: there is none.
    """
    try:
        return pem.load_crl(content)
    except ValueError:
        raise PkiError(f"{source} is damaged: it is not a revocation list in PEM form") from None
