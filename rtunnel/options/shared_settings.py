"""Settings of both tunnels. Those of one do not import the other."""

from __future__ import annotations

from rtunnel.access.tokens import token_word
from rtunnel.cluster.settings import cluster_url
from rtunnel.coercions import joined, listen_address, optional, show_size, size, text
from rtunnel.control.settings import StatusSettings
from rtunnel.errors import ConfigError
from rtunnel.options.settings.declaration import AT_ONCE, GIB, MIB, PATH, Kind, Setting, words
from rtunnel.options.settings.sources import Resolved
from rtunnel.wire.data.hedges import ordered

LOG = (
    Setting("log-format", words("text", "json"), "Format of the log: text or json.", default="text"),
    Setting(
        "log-level",
        words("debug", "info", "warn", "error"),
        "Lowest level that is logged: debug (one or more lines for each connection), info, warn or error.",
        default="info",
        reload=AT_ONCE,
    ),
)

ACCESS_LOG = Setting(
    "access-log",
    PATH,
    "File that gets a line of JSON about each visitor who is gone, and each HTTP request: who, where, how many bytes, "
    "how long, why it ended. It is rotated at 10 MB, and the 20 newest are kept.",
)

STATUS = (
    Setting(
        "status-listen",
        Kind(optional(listen_address, None), "address to listen on"),
        "Where the status can be read over HTTP, such as 127.0.0.1:7070: / in a browser, /metrics, /healthz, "
        "/readyz, /v1/status. None if not given; 'rtunnel status' does not need it.",
        StatusSettings,
        field="listen",
        reload=AT_ONCE,
    ),
    Setting(
        "status-token",
        Kind(optional(token_word, None), "text"),
        "Secret for the status port: a bearer token, or the password of any user. Other users of the machine can see a "
        "flag, so give it in the environment or the file.",
        StatusSettings,
        field="token",
        no_default="none",
        reload=AT_ONCE,
        is_secret=True,
    ),
    Setting(
        "status-tls-cert",
        PATH,
        "PEM file with the certificate for HTTPS at the status port, followed by any intermediate certificates; HTTP "
        "if not given.",
        StatusSettings,
        field="cert",
        reload=AT_ONCE,
    ),
    Setting(
        "status-tls-key",
        PATH,
        "PEM file with the private key of that certificate.",
        StatusSettings,
        field="key",
        reload=AT_ONCE,
    ),
    Setting(
        "status-tls-ca",
        PATH,
        "PEM file with CAs: whoever reads the status needs a client certificate from one of them.",
        StatusSettings,
        field="ca",
        reload=AT_ONCE,
    ),
)

MEMORY = Setting(
    "memory",
    Kind(optional(size(16 * MIB, 1024 * GIB), None), "16M to 1024G", show_size),
    "Most memory that visitors and peers can make this process use, beyond what it needs when it is idle; a quarter of "
    "the machine's if not given.",
    no_default="a quarter of the machine's",
    reload=AT_ONCE,
)

CLUSTER = Setting(
    "cluster",
    Kind(optional(lambda written: cluster_url(text(written)), None), "``memory``, URL of Redis"),
    "The directory that this server shares with others, as one cluster: redis://PASSWORD@HOST:6379/0, rediss:// for "
    "TLS (?ca=FILE for your own CA), several HOST:PORT with commas between them, or "
    "redis+sentinel://PASSWORD@HOST:26379/NAME. By default memory: it is alone. Other users of the machine can see a "
    "flag, so better give a password in the environment or the file.",
    no_default="``memory``",
    is_secret=True,
)


def _hedges(value: object) -> tuple[str, ...]:
    try:
        return ordered(name.strip() for name in joined(value).split(",") if name.strip())
    except ValueError as error:
        raise ConfigError(str(error)) from None


#: What mixes other key exchanges in.
HEDGES = Kind(_hedges, "names of key exchanges", ",".join)


def check_liboqs(resolved: Resolved) -> None:
    """Refuse hedges that this machine cannot compute.

    :raises ConfigError: liboqs is missing, or lacks one of them; the message says how to get it.
    """
    if not resolved.values["hedge"]:
        return
    from rtunnel.tls.hedge.liboqs import hedges

    try:
        hedges(resolved.values["hedge"])
    except ConfigError as error:
        raise resolved.error("hedge", str(error)) from error
