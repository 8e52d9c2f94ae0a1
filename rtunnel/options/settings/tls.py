"""The settings that say who is trusted: TLS, tokens, the clients file."""

from __future__ import annotations

from collections.abc import Callable

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.tokens import check_token, parse_tokens
from rtunnel.coercions import joined, optional, text
from rtunnel.options.settings.declaration import AT_ONCE, NEW, PATH, SWITCH, Kind, Setting
from rtunnel.options.shared_settings import HEDGES
from rtunnel.reverse.settings import ClientSettings, EndSettings
from rtunnel.tls.policy import CLASSICAL_OPTION, GROUPS, TlsSettings, parse_groups, parse_pins
from rtunnel.tls.server_names import check_server_name
from rtunnel.wire.data.hedges import KEMS


def _of_text(parse: Callable[[str], object]) -> Callable[[object], object]:
    return lambda value: parse(text(value))


def _of_list(parse: Callable[[str], object]) -> Callable[[object], object]:
    return lambda value: parse(joined(value))


def _file(name: str, what: str, default: str) -> Setting:
    return Setting(
        f"tls-{name}",
        PATH,
        f"{what}; {default} of `rtunnel pki` if not given.",
        TlsSettings,
        name,
        no_default="see below",
        key=f"tls.{name}",
        reload=NEW,
    )


#: Settings of both ends.
TLS = (
    Setting(
        "tls",
        SWITCH,
        "Protect the link with post-quantum TLS 1.3 and certificates at both ends.",
        default=False,
        key="tls.enabled",
    ),
    _file("cert", "PEM file with the certificate of this end", "server.crt or client.crt"),
    _file("key", "PEM file with the private key of that certificate", "server.key or client.key"),
    _file(
        "ca",
        "PEM file with the CA that must have issued the certificate of the other end; a revocation list ca.crl beside "
        "it counts too",
        "ca.crt",
    ),
    Setting(
        "tls-groups",
        # The help already names them all, so do not show them again as the default.
        Kind(_of_list(parse_groups), "names of groups", lambda _: ""),
        f"Allowed post-quantum key exchanges, the best first, separated by commas: {', '.join(GROUPS)} by default.",
        TlsSettings,
        "groups",
        no_default="all six",
        key="tls.groups",
        reload=NEW,
    ),
    Setting(
        CLASSICAL_OPTION.removeprefix("--"),
        SWITCH,
        "Accept ECDSA, Ed25519 and RSA certificates too; the key exchange stays post-quantum.",
        TlsSettings,
        "allow_classical_certs",
        key="tls.allow_classical_certs",
        reload=NEW,
    ),
    Setting(
        "hedge",
        HEDGES,
        "Key exchanges of other families, whose secrets are mixed into the keys of data connections and UDP, "
        f"separated by commas: {', '.join(KEMS)}. Both ends must have the same, and no visitor goes by the link then. "
        "Needs --tls and a native liboqs.",
        EndSettings,
    ),
    Setting(
        "token-over-plain-tcp",
        SWITCH,
        "Let tokens travel over a network without TLS, where anybody on the way can read them.",
        AdmissionSettings,
        reload=AT_ONCE,
    ),
)

TLS_CLIENT = (
    Setting(
        "tls-server-name",
        Kind(optional(_of_text(check_server_name), ""), "DNS name or IP address"),
        "DNS name or IP address that the server's certificate must be for; the host of --server if not given. With "
        "several servers it holds for each of them.",
        TlsSettings,
        "server_name",
        no_default="the host",
        key="tls.server_name",
        reload=AT_ONCE,
    ),
    Setting(
        "tls-pin",
        Kind(optional(_of_list(parse_pins), frozenset()), "fingerprints"),
        "SHA-256 fingerprint that the server's certificate must have, instead of its name; commas separate several. "
        "With several servers, the certificate of each must have one of them.",
        TlsSettings,
        "pins",
        key="tls.pin",
        reload=AT_ONCE,
    ),
    Setting(
        "token",
        Kind(optional(check_token, None), "token"),
        "Token to send to a server that has --valid-tokens. Other users of the machine can see a flag, so better use "
        "the environment or the file.",
        ClientSettings,
        reload=NEW,
        is_secret=True,
    ),
)

TLS_SERVER = (
    Setting(
        "clients",
        PATH,
        "YAML file that says which client may have which ports, how many tunnels and how many visitors, by the name in "
        "its certificate or of its token. All other clients are refused. Changes are noticed while the server runs.",
        AdmissionSettings,
        reload=AT_ONCE,
    ),
    Setting(
        "valid-tokens",
        Kind(parse_tokens, "tokens"),
        "Tokens, one of which each link must present, as NAME:TOKEN or TOKEN, separated by commas. Other users of the "
        "machine can see a flag, so better use the environment or the file.",
        AdmissionSettings,
        "tokens",
        reload=AT_ONCE,
        is_secret=True,
    ),
)
