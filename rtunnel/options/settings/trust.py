"""Turn the settings of TLS, tokens and rights into what the services take, and try all files before the start."""

from __future__ import annotations

import os
from ipaddress import ip_address

from rtunnel.access.admission import Admission, AdmissionSettings
from rtunnel.addresses import DialAddress
from rtunnel.errors import ConfigError
from rtunnel.options.settings.sources import Resolved
from rtunnel.options.shared_settings import check_liboqs
from rtunnel.pki import locations
from rtunnel.proxies import Proxy
from rtunnel.tls.policy import Role, TlsSettings
from rtunnel.tls.server_names import check_server_name, is_ip_address

_FILES = {
    Role.SERVER: (locations.SERVER_CERTIFICATE, locations.SERVER_KEY),
    Role.CLIENT: (locations.CLIENT_CERTIFICATE, locations.CLIENT_KEY),
}


def decide_tls(resolved: Resolved, role: Role, *, reads_files: bool = True) -> TlsSettings | None:
    """Return how links are protected, or None if they are plain TCP.

    :param reads_files: whether to try the files.
    :raises ConfigError: a file cannot be used, or there are settings of TLS although TLS is off.
    """
    values = resolved.values
    _check_hedge(resolved)
    if not values["tls"]:
        _check_not_meant(resolved)
        return None
    directory = locations.default_pki_dir(os.environ)
    certificate, key = _FILES[role]
    name = ""
    if role is Role.CLIENT:
        pins = values["tls-pin"]
        servers = values["server"]
        if not values["tls-server-name"] and not pins:
            for server in servers:
                _check_host(server)
        # Each of several servers is known by its own name; see ClientSettings.of.
        name = values["tls-server-name"] or (servers[0].host if len(servers) == 1 else "") or ""
    found = resolved.fields_of(TlsSettings)
    for field, file in (("cert", certificate), ("key", key), ("ca", locations.CA_CERTIFICATE)):
        found[field] = found[field] or directory / file
    settings = TlsSettings(**found | {"server_name": name})
    if reads_files:
        with resolved.reads_files("tls-cert", "tls-key", "tls-ca"):
            from rtunnel.tls.credentials import load

            load(settings, role)
    return settings


def _check_host(server: DialAddress) -> None:
    if server.host:
        # Container networks have host names for which no certificate can be issued.
        check_server_name(server.host)
    else:
        raise ConfigError(
            f"--server {server} has no host name to look for in the server's certificate; give the name with "
            "--tls-server-name, or give --tls-pin"
        )


def _check_not_meant(resolved: Resolved) -> None:
    """Refuse settings of TLS without TLS: an operator who gives a certificate does not want a link in the clear."""
    off = resolved.sources["tls"]
    for name, source in resolved.sources.items():
        if name.startswith("tls-") and source.rank > off.rank:
            raise resolved.error(name, "has no effect without TLS; add --tls (in the file: tls: {enabled: true})")


def _check_hedge(resolved: Resolved) -> None:
    """Refuse hedges that this machine cannot compute, or that other settings would make useless."""
    values = resolved.values
    if not values["hedge"]:
        return
    if not values["tls"]:
        raise resolved.error("hedge", "needs TLS, into whose keys it mixes others; add --tls")
    if values["data-plane"] == "mux":
        raise resolved.error("data-plane", "mux leaves visitors no way, as none may go by the link with --hedge")
    check_liboqs(resolved)


def decide_admission(resolved: Resolved) -> AdmissionSettings:
    """Return who may use the server.

    :raises ConfigError: the clients file cannot be used.
    """
    settings = AdmissionSettings(**resolved.fields_of(AdmissionSettings))
    with resolved.reads_files("clients"):
        Admission(settings)
    return settings


def check_token_use(resolved: Resolved, tls: TlsSettings | None, via: Proxy | None) -> None:
    """Refuse to send a token over a network without TLS.

    :param via: the proxy on the way to the server; None: none.
    :raises ConfigError: the settings would do that.
    """
    values = resolved.values
    if values["token"] is None or tls is not None or values["token-over-plain-tcp"]:
        return
    for place in (*values["server"], *([] if via is None else [via.address])):
        if not _is_on_this_machine(place):
            raise resolved.error(
                "token", f"would travel to {place} in the clear; use --tls, or allow it with --token-over-plain-tcp"
            )


def _is_on_this_machine(place: DialAddress) -> bool:
    host = place.host
    if host is None:
        return place.description.startswith("unix:")
    return host == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)
