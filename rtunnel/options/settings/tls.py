"""The settings that say who is trusted: TLS, tokens, the clients file."""

from __future__ import annotations

from rtunnel.access.tokens import check_token, parse_tokens
from rtunnel.coercions import boolean, optional, path, text
from rtunnel.options.settings.sources import Setting
from rtunnel.tls.policy import CLASSICAL_OPTION, GROUPS, parse_groups, parse_pins
from rtunnel.tls.server_names import check_server_name


def _groups(value: object) -> tuple[str, ...]:
    return parse_groups(",".join(map(text, value)) if isinstance(value, list) else text(value))


def _pins(value: object) -> frozenset[str]:
    return parse_pins(",".join(map(text, value)) if isinstance(value, list) else text(value))


def _server_name(value: object) -> str:
    return check_server_name(text(value))


def _file(name: str, what: str, default: str) -> Setting:
    return Setting(
        f"tls-{name}",
        optional(path, None),
        None,
        f"{what}; {default} of `rtunnel pki` if not given.",
        file_key=f"tls.{name}",
    )


TLS = (
    Setting(
        "tls",
        boolean,
        False,
        "Protect the link by post-quantum TLS 1.3, with certificates at both ends.",
        file_key="tls.enabled",
        switch=True,
    ),
    _file("cert", "File with this end's certificate, in PEM", "server.crt or client.crt"),
    _file("key", "File with its private key, in PEM", "server.key or client.key"),
    _file(
        "ca", "File with the certificate of the CA that the other end's must be from; its list ca.crl beside", "ca.crt"
    ),
    Setting(
        "tls-groups",
        _groups,
        GROUPS,
        f"Post-quantum key exchanges that are allowed, the best first, between commas: {', '.join(GROUPS)} by default.",
        file_key="tls.groups",
    ),
    Setting(
        CLASSICAL_OPTION.removeprefix("--"),
        boolean,
        False,
        "Take certificates of ECDSA, Ed25519 and RSA too; the key exchange stays post-quantum.",
        file_key="tls.allow_classical_certs",
        switch=True,
    ),
)

TLS_CLIENT = (
    Setting(
        "tls-server-name",
        optional(_server_name, ""),
        "",
        "DNS name or IP address that the server's certificate must be for; the host of --server if not given.",
        file_key="tls.server_name",
    ),
    Setting(
        "tls-pin",
        optional(_pins, frozenset()),
        frozenset(),
        "SHA-256 fingerprint of the server's certificate, in place of a check of its name; several between commas.",
        file_key="tls.pin",
    ),
)

TOKEN = Setting(
    "token",
    optional(check_token, None),
    None,
    "What the server asks for where it has --valid-tokens. Other users of the machine can see a flag: better use the "
    "environment or the file.",
)

TOKEN_OVER_PLAIN_TCP = Setting(
    "token-over-plain-tcp",
    boolean,
    False,
    "Let tokens travel without TLS over a network, where everybody on the way can read them.",
    switch=True,
)

ADMISSION = (
    Setting(
        "clients",
        optional(path, None),
        None,
        "YAML file that says which client may have which ports, how many tunnels and how many visitors, by the name in "
        "its certificate or of its token; nobody else is let in then. Read again when it changes.",
    ),
    Setting(
        "valid-tokens",
        parse_tokens,
        (),
        "Tokens between commas, as NAME:TOKEN or TOKEN; each link must bring one of them. Other users of the machine "
        "can see a flag: better use the environment or the file.",
    ),
    TOKEN_OVER_PLAIN_TCP,
)
