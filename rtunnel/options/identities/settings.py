"""The settings of ``rtc-host`` and ``rtc-client`` that say who they are, whom they trust, and with what keys."""

from __future__ import annotations

from functools import partial

from rtunnel.access.peers.fingerprints import parse_fingerprint
from rtunnel.coercions import optional, text
from rtunnel.errors import ConfigError
from rtunnel.options.settings.declaration import AT_ONCE, NEW, PATH, SWITCH, Kind, Setting
from rtunnel.options.settings.rtc_coercions import list_of
from rtunnel.options.shared_settings import HEDGES
from rtunnel.rtc.settings import EndSettings, IdentitySettings
from rtunnel.wire.data.hedges import KEMS

#: The longest name that a certificate may have to have, in characters.
MOST_NAME = 253

_identity = partial(Setting, owner=IdentitySettings)


def _name(value: object) -> str:
    found = text(value)
    if not found.isprintable() or len(found) > MOST_NAME:
        raise ConfigError(f"is not a name: up to {MOST_NAME} printable characters")
    return found


ENDS = (
    _identity(
        "state-dir",
        PATH,
        "Directory with the identity of this end, which is made at the first start, and with known_hosts or "
        "authorized_clients. If not given, $STATE_DIRECTORY, which systemd sets, or else ~/.local/state/rtunnel.",
        no_default="``$STATE_DIRECTORY``",
    ),
    _identity(
        "identity-cert",
        PATH,
        "PEM file with the certificate of this end from an organisation's CA, followed by any intermediate "
        "certificates; by default the identity of 'rtunnel id'.",
        field="cert",
        no_default="see below",
        key="identity.cert",
        reload=NEW,
    ),
    _identity(
        "identity-key",
        PATH,
        "PEM file with the private key of that certificate.",
        field="key",
        no_default="see below",
        key="identity.key",
        reload=NEW,
    ),
    _identity(
        "peer-ca",
        PATH,
        "PEM file with the CA that must have issued the certificate of the other end; a revocation list ca.crl beside "
        "it counts too. Without it the fingerprint of the other end is what counts.",
        field="ca",
        key="identity.peer_ca",
        reload=AT_ONCE,
    ),
    Setting(
        "hedge",
        HEDGES,
        "Key exchanges of other families, whose secrets are mixed into the keys of sealed channels, separated by "
        f"commas: {', '.join(KEMS)}. Both ends must have the same, and all others are refused then. Needs a native "
        "liboqs.",
        EndSettings,
    ),
)

HOST = (
    _identity(
        "authorized-clients",
        PATH,
        "YAML file that lists the clients that may use this host: for each its fingerprint, and if need be services "
        "and limits. All others are refused. Changes are noticed while the host runs. If not given, authorized_clients "
        "in the state directory, if it exists; without either, and without --peer-ca, everybody may use it.",
        no_default="see below",
        key="host.",
        reload=AT_ONCE,
    ),
)

CLIENT = (
    _identity(
        "host-key",
        Kind(list_of(parse_fingerprint), "fingerprints"),
        "Fingerprint that the host must have, which 'rtunnel id' prints there. Separated by commas, or repeated, if "
        "one of several will do.",
        field="host_keys",
        key="client.",
        repeatable=True,
        reload=AT_ONCE,
    ),
    _identity(
        "known-hosts",
        PATH,
        "YAML file with the fingerprint of each host that this client knows, by its ID. Others are refused. If not "
        "given, known_hosts in the state directory; hosts that are not in it are then not checked.",
        no_default="see below",
        key="client.",
        reload=AT_ONCE,
    ),
    _identity(
        "trust-on-first-use",
        SWITCH,
        "Add a host that is not in the file of known hosts when it is first connected, and refuse it if it has another "
        "fingerprint later.",
        key="client.",
        reload=AT_ONCE,
    ),
    _identity(
        "host-name",
        Kind(optional(_name, ""), "name"),
        "With --peer-ca, the name that the host's certificate must have; the host's ID if not given.",
        no_default="the ID",
        key="client.",
        reload=AT_ONCE,
    ),
)
