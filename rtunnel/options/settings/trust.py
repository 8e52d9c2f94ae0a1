"""From the settings of TLS, tokens and rights to what the services want; everything is tried before anything starts."""

from __future__ import annotations

import os
from ipaddress import ip_address

from rtunnel.access.admission import Admission, AdmissionSettings
from rtunnel.errors import ConfigError
from rtunnel.options.settings.sources import Resolved
from rtunnel.pki import locations
from rtunnel.tls.credentials import load
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.server_names import check_server_name, is_ip_address

_FILES = {
    Role.SERVER: (locations.SERVER_CERTIFICATE, locations.SERVER_KEY),
    Role.CLIENT: (locations.CLIENT_CERTIFICATE, locations.CLIENT_KEY),
}


def decide_tls(resolved: Resolved, role: Role) -> TlsSettings | None:
    """How links are protected; None: they are not.

    :raises ConfigError: the files cannot be used, or there is much about TLS but not that it is wanted.
    """
    values = resolved.values
    if not values["tls"]:
        _check_not_meant(resolved)
        return None
    directory = locations.default_pki_dir(os.environ)
    certificate, key = _FILES[role]
    name, pins = "", frozenset[str]()
    if role is Role.CLIENT:
        pins = values["tls-pin"]
        name = values["tls-server-name"] or values["server"].host or ""
        if name and not values["tls-server-name"] and not pins:
            # Such names exist in container networks, but no certificate can be for them.
            check_server_name(name)
        if not name and not pins:
            raise ConfigError(
                f"--server {values['server']} has no host name to look for in the server's certificate; say which it "
                "is with --tls-server-name, or give --tls-pin"
            )
    settings = TlsSettings(
        cert=values["tls-cert"] or directory / certificate,
        key=values["tls-key"] or directory / key,
        ca=values["tls-ca"] or directory / locations.CA_CERTIFICATE,
        groups=values["tls-groups"],
        allow_classical_certs=values["tls-allow-classical-certs"],
        server_name=name,
        pins=pins,
    )
    load(settings, role)
    return settings


def _check_not_meant(resolved: Resolved) -> None:
    """Refuse settings of TLS without TLS: who gives a certificate does not want a link in the clear."""
    off = resolved.sources["tls"]
    for name, source in resolved.sources.items():
        if name.startswith("tls-") and source.rank > off.rank:
            raise resolved.error(name, "says nothing without TLS; add --tls (in the file: tls: {enabled: true})")


def decide_admission(resolved: Resolved) -> AdmissionSettings:
    """Who may use the server.

    :raises ConfigError: the clients file cannot be used.
    """
    values = resolved.values
    settings = AdmissionSettings(values["clients"], values["valid-tokens"], values["token-over-plain-tcp"])
    Admission(settings)
    return settings


def check_token_use(resolved: Resolved, tls: TlsSettings | None) -> None:
    """Refuse to send a token where others can read it.

    :raises ConfigError: it would be sent over a network without TLS.
    """
    values = resolved.values
    if values["token"] is None or tls is not None or values["token-over-plain-tcp"]:
        return
    server = values["server"]
    host = server.host
    if host is None and server.description.startswith("unix:"):
        return
    if host == "localhost" or (host is not None and is_ip_address(host) and ip_address(host).is_loopback):
        return
    raise resolved.error(
        "token",
        f"would travel to {server} in the clear; use --tls, or allow it with --token-over-plain-tcp",
    )
