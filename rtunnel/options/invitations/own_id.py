"""The ID of a host to which nobody has given one."""

from __future__ import annotations

from pathlib import Path

from rtunnel.access.identities import FOLDER, identity_from_files, load_identity
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.errors import ConfigError
from rtunnel.rtc.settings import IdentitySettings


def own_id(identity: IdentitySettings) -> str:
    """Return an ID that is made from the host's fingerprint, so that it is the same at each start.

    :raises ConfigError: the host has no identity that stays.
    """
    try:
        cert, key = identity.cert, identity.key
        found = identity_from_files(cert, key, "host") if cert and key else None
        found = found or load_identity(Path(identity.state_dir or "", FOLDER, "host.pem"), "rtunnel host")
    except ConfigError as error:
        raise ConfigError(f"--id is missing, and this host has no identity to make one of: {error}") from error
    return "host-" + "-".join(show_fingerprint(found.fingerprint).split("-")[:2])
