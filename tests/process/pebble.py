"""Pebble, the ACME test server of Let's Encrypt, with a name server that says one address to every name."""

from __future__ import annotations

import json
import ssl
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, wait_until_open

LOOPBACK = "127.0.0.1"


class Pebble:
    """A CA, which does not run before :meth:`start`.

    :param validation: the port at which it looks for the answers to its challenges.
    :param by_http: that for HTTP-01, if it is another one.
    :param valid: seconds for which its certificates are good.
    :param address: the address of every name.
    :ivar ca: the file with which its own HTTPS is verified.
    """

    def __init__(
        self,
        twistd: Twistds,
        directory: Path,
        validation: int,
        valid: int = 90 * 86400,
        address: str = LOOPBACK,
        by_http: int | None = None,
    ) -> None:
        self._twistd = twistd
        self._address = address
        self._program, self._names = need("pebble"), need("pebble-challtestsrv")
        directory.mkdir()
        self.ca, key = directory / "ca.pem", directory / "key.pem"
        self_signed(self.ca, key)
        self._port, self._management, self._dns = free_port(), free_port(), free_port()
        self.directory = f"https://{LOOPBACK}:{self._port}/dir"
        self._config = directory / "pebble.json"
        settings = {
            "listenAddress": f"{LOOPBACK}:{self._port}",
            "managementListenAddress": f"{LOOPBACK}:{self._management}",
            "certificate": str(self.ca),
            "privateKey": str(key),
            "httpPort": by_http or validation,
            "tlsPort": validation,
            "certificateValidityPeriod": valid,
        }
        self._config.write_text(json.dumps({"pebble": settings}))

    @property
    def options(self) -> list[str]:
        """The client's options."""
        return ["--acme-email=admin@example.org", f"--acme-server={self.directory}", f"--acme-ca={self.ca}"]

    def start(self) -> Process:
        """Start it. It forgets everything when it ends."""
        off = [f"-{name}=" for name in ("http01", "https01", "tlsalpn01", "defaultIPv6")]
        addresses = [f"-dns01={LOOPBACK}:{self._dns}", f"-management={LOOPBACK}:{free_port()}"]
        self._twistd.program(self._names, *addresses, f"-defaultIPv4={self._address}", *off)
        environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"}
        name_server = f"{LOOPBACK}:{self._dns}"
        pebble = self._twistd.program(
            self._program, "-config", str(self._config), "-dnsserver", name_server, env=environment
        )
        wait_until_open(self._port)
        wait_until_open(self._management)
        return pebble

    def root(self) -> str:
        """The root of the certificates that it issues, in PEM."""
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(f"https://{LOOPBACK}:{self._management}/roots/0", context=context) as answer:
            content: bytes = answer.read()
        return content.decode("ascii")


def self_signed(cert: Path, key: Path) -> None:
    """Write a certificate for 127.0.0.1, which is its own CA, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pebble")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
