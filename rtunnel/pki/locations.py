"""Where certificates and keys are by default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: The environment variable that names the directory.
PKI_DIR_VARIABLE = "RTUNNEL_PKI_DIR"
SYSTEM_PKI_DIR = Path("/etc/rtunnel/pki")

CA_CERTIFICATE = "ca.crt"
CA_KEY = "ca.key"
CRL = "ca.crl"
SERVER_CERTIFICATE = "server.crt"
SERVER_KEY = "server.key"
HOST_CERTIFICATE = "host.crt"
HOST_KEY = "host.key"
CLIENT_CERTIFICATE = "client.crt"
CLIENT_KEY = "client.key"


def default_pki_dir(environ: Mapping[str, str], *, root: bool | None = None) -> Path:
    """Return the directory of certificates: $RTUNNEL_PKI_DIR, else the system's for root, else the user's.

    :param root: whether it is for root; None: whether this process is root's.
    :returns: an absolute path, which need not exist.
    """
    named = environ.get(PKI_DIR_VARIABLE, "")
    if named:
        return Path(named).absolute()
    if root is None:
        # Windows has no such call, and no such directory.
        root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        return SYSTEM_PKI_DIR
    config = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not config.is_absolute():
        home = environ.get("HOME", "")
        config = (Path(home) if home else Path("~").expanduser()).absolute() / ".config"
    return config / "rtunnel" / "pki"
