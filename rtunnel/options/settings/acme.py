"""Who ends the TLS of ``https:`` tunnels: the key ``tls`` of an entry, and the options of ACME."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from rtunnel.access.rules import rules_as_json, without_requests
from rtunnel.acme.settings import CHALLENGES, KNOWN, AcmeSettings, default_state_dir, email, server
from rtunnel.coercions import optional, path, shown, text
from rtunnel.errors import ConfigError
from rtunnel.host_names import WILDCARD
from rtunnel.options.settings.declaration import AT_ONCE, PATH, Kind, Setting, words
from rtunnel.options.settings.entries import Entry, written_at
from rtunnel.options.settings.proxy_protocol import KEY, OF_REQUESTS
from rtunnel.options.settings.sources import Resolved
from rtunnel.reverse.settings import TunnelSettings, challenge_tunnels
from rtunnel.tls.policy import CertificateFiles

ACME = (
    Setting(
        "acme-email",
        Kind(optional(lambda written: email(text(written)), None), "e-mail address"),
        "Obtain a certificate for each https:NAME that is published, keep it up to date, and end TLS here, so that the "
        "service speaks plain HTTP. The CA may write to this address; by giving it you accept the CA's terms.",
        AcmeSettings,
        field="email",
        reload=AT_ONCE,
    ),
    Setting(
        "acme-server",
        Kind(lambda written: server(text(written)), "``letsencrypt``, ``letsencrypt-staging`` or a URL"),
        "The CA: letsencrypt, letsencrypt-staging (for trying out; browsers do not trust its certificates), or the URL "
        "of the directory of another CA that speaks ACME.",
        AcmeSettings,
        field="server",
        default=KNOWN["letsencrypt"],
        reload=AT_ONCE,
    ),
    Setting(
        "acme-ca",
        PATH,
        "File with the CA certificates that vouch for the ACME server itself, for a private one; those that come with "
        "Python's certifi if not given.",
        AcmeSettings,
        field="ca",
        reload=AT_ONCE,
    ),
    Setting(
        "acme-challenge",
        words(*CHALLENGES),
        "How the CA checks that a name is yours: tls-alpn-01 (it connects to port 443, the server's --https-listen) or "
        "http-01 (it asks for a file at port 80, the server's --http-listen).",
        AcmeSettings,
        field="challenge",
        reload=AT_ONCE,
    ),
    Setting(
        "state-dir",
        PATH,
        "Directory for the ACME account, certificates and their keys, and for tunnels of 'rtunnel publish --keep'; if "
        "not given, $STATE_DIRECTORY, which systemd sets, or else ~/.local/state/rtunnel.",
        AcmeSettings,
        no_default="``$STATE_DIRECTORY``",
    ),
)


def end_of_tls(entry: Entry, tunnel: TunnelSettings) -> str | CertificateFiles:
    """Read the key ``tls`` of an entry.

    :raises ConfigError: it is wrong, or *tunnel* has no TLS.
    """
    if "tls" not in entry:
        return ""
    if tunnel.protocol != "https":
        raise entry.error("tls", "is for an entry with 'publish: https:NAME=LOCAL'; leave it out")
    return entry.read("tls", _end_of_tls)


def _end_of_tls(written: object) -> str | CertificateFiles:
    forms = "write auto, passthrough, or {certificate: FILE, private-key: FILE}"
    if isinstance(written, dict):
        files = Entry(written, ("certificate", "private_key"))
        if not all(key in files for key in ("certificate", "private_key")):
            raise ConfigError(f"{shown(written)} is not a certificate and its key; {forms}")
        return CertificateFiles(files.read("certificate", path), files.read("private_key", path))
    if written not in ("auto", "passthrough"):
        raise ConfigError(f"{shown(written)} is not who ends TLS; {forms}")
    return str(written)


def decide_acme(
    resolved: Resolved, tunnels: Sequence[TunnelSettings]
) -> tuple[tuple[TunnelSettings, ...], AcmeSettings | None]:
    """Return the tunnels, each with who ends its TLS, and where certificates come from, if any are to be obtained.

    :raises ConfigError: files cannot be used, or a certificate cannot be obtained.
    """
    found = resolved.fields_of(AcmeSettings)
    has_email = found["email"] is not None
    decided = []
    for tunnel in tunnels:
        with written_at(*tunnel.origin):
            decided.append(_decide(tunnel, has_email))
    if not any(tunnel.tls == "auto" for tunnel in decided):
        return tuple(decided), None
    if found["ca"] is not None:
        with resolved.reads_files("acme-ca"):
            from rtunnel.tls.credentials import read_certificates

            read_certificates(found["ca"], "name a file with the CA's certificate in PEM")
    found["state_dir"] = found["state_dir"] or default_state_dir(os.environ)
    acme = AcmeSettings(**found)
    challenge_tunnels(decided, acme)
    return tuple(decided), acme


def _decide(tunnel: TunnelSettings, has_email: bool) -> TunnelSettings:
    is_wildcard = tunnel.host.startswith(WILDCARD)
    where = f"https:{tunnel.host}"
    if tunnel.protocol != "https":
        return tunnel
    ends_here = tunnel.tls not in ("", "passthrough") or (not tunnel.tls and has_email and not is_wildcard)
    of_requests = rules_as_json(tunnel.rules).keys() - rules_as_json(without_requests(tunnel.rules))
    if ends_here and tunnel.proxy_protocol:
        raise ConfigError(f"{where}: key '{KEY}': {OF_REQUESTS}; or let the service end TLS, with tls: passthrough")
    if tunnel.health is not None and tunnel.health.path and not ends_here:
        raise ConfigError(
            f"{where}: key 'health_check': the service speaks TLS, and the check HTTP without; write health-check: "
            "tcp, or let the client end TLS, with --acme-email or tls: {certificate: FILE, private-key: FILE}"
        )
    for key in [] if ends_here else sorted(of_requests):
        raise ConfigError(
            f"{where}: key '{key}' is about requests, which nobody sees before the service that ends TLS; leave it "
            "out, or let the client end TLS, with --acme-email or tls: {certificate: FILE, private-key: FILE}"
        )
    if isinstance(tunnel.tls, CertificateFiles):
        from rtunnel.tls.hosts import load_host_files

        load_host_files(tunnel.tls.certificate, tunnel.tls.private_key)
        return tunnel
    if tunnel.tls == "auto" and is_wildcard:
        raise ConfigError(
            f"{where} with 'tls: auto': a CA gives certificates for *. names only to whoever changes the DNS; publish "
            "each name by itself, or write tls: {certificate: FILE, private-key: FILE}"
        )
    if tunnel.tls == "auto" and not has_email:
        raise ConfigError(f"{where} with 'tls: auto' needs --acme-email; write for example --acme-email me@example.org")
    return replace(tunnel, tls="auto") if not tunnel.tls and has_email and not is_wildcard else tunnel
