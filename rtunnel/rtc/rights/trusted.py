"""The identity of an end and whom it trusts, as its settings say."""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from rtunnel.access.identities import FOLDER, Identity, ephemeral_identity, identity_from_files, load_identity
from rtunnel.access.invited import InvitedTrust
from rtunnel.access.peers import authorized_clients, known_hosts
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.trust import ClientTrust, HostTrust, Trust
from rtunnel.errors import ConfigError
from rtunnel.rtc.settings import ClientSettings, EndSettings, HostSettings

_log = Logger()


def identity_of(settings: EndSettings) -> Identity:
    """Return who this end is. If it has no identity yet, one is made.

    Where none can be stored, an end that is open goes on with one for this run, and says so.

    :raises ConfigError: files cannot be used; or an end cannot store its identity, and is closed, so that others must
        know it.
    """
    chosen = settings.identity
    if chosen.cert is not None and chosen.key is not None:
        return identity_from_files(chosen.cert, chosen.key, _kind(settings))
    path = identity_file(settings)
    if path is None:
        return ephemeral_identity()
    is_new = not _is_there(path)
    try:
        identity = load_identity(path, f"rtunnel {_kind(settings)}")
    except ConfigError as error:
        if not is_new or trust_of(settings).is_closed:
            raise
        _log.warn("{error}; so this {kind} has another identity at each start", error=error, kind=_kind(settings))
        return ephemeral_identity()
    _log.info(
        "this {kind}'s fingerprint is {short}{second}{new}",
        kind=_kind(settings),
        short=show_fingerprint(identity.fingerprint),
        second=f", {identity.signature}" if identity.second is not None else "",
        new=f" (new; its key is in {path})" if is_new else "",
    )
    return identity


def known_identity(settings: EndSettings) -> Identity | None:
    """Return who this end is; None: its identity is made when it starts. Nothing is written.

    :raises ConfigError: files cannot be used.
    """
    path = identity_file(settings)
    if settings.identity.cert is None and (path is None or not _is_there(path)):
        return None
    return identity_of(settings)


def identity_file(settings: EndSettings) -> Path | None:
    """Return where the identity is that this program makes; None: it makes none."""
    state = settings.identity.state_dir
    return None if state is None else state / FOLDER / f"{_kind(settings)}.pem"


def trust_of(settings: EndSettings) -> HostTrust | ClientTrust | InvitedTrust:
    """Return whom this end accepts. One that was invited accepts nobody yet.

    :raises ConfigError: a file cannot be used; the message names it and the fix.
    """
    chosen = settings.identity
    if isinstance(settings, HostSettings):
        return HostTrust(chosen.authorized_clients, chosen.ca, clients_file(settings))
    if isinstance(settings, ClientSettings) and settings.invitation is not None:
        return InvitedTrust()
    return ClientTrust(
        chosen.host_keys,
        chosen.known_hosts,
        chosen.ca,
        hosts_file(settings),
        trusts_first_use=chosen.trust_on_first_use,
        host_name=chosen.host_name,
        host_id=settings.id,
    )


def say_if_open(settings: EndSettings, trust: Trust) -> None:
    """Log that an end is not told whom to trust, and what would tell it."""
    if trust.is_closed or (isinstance(settings, HostSettings) and settings.invite):
        return
    if isinstance(settings, HostSettings):
        _log.warn(
            "this host is open: it serves everybody whom the signaling server lets in; list its clients "
            "(--authorized-clients, --peer-ca), or invite them ('rtunnel host invite')"
        )
    else:
        _log.warn(
            "this client is open: it trusts whomever the signaling server shows as host '{id}'; name the host's "
            "fingerprint (--host-key), or see --trust-on-first-use, --peer-ca",
            id=settings.id,
        )


def describe(identity: Identity, trust: Trust) -> dict[str, object]:
    """Return what the status says of an end: its fingerprint, its keys, and whether it is told whom to trust."""
    return {
        "fingerprint": show_fingerprint(identity.fingerprint),
        "signature": identity.signature,
        "closed": trust.is_closed,
    }


def clients_file(settings: EndSettings) -> Path | None:
    """Return the file that lists a host's clients; None: there is no place for one."""
    chosen = settings.identity
    return chosen.authorized_clients or _default(chosen.state_dir, authorized_clients.NAME)


def hosts_file(settings: EndSettings) -> Path | None:
    """Return the file that lists the hosts that a client knows; None: there is no place for one."""
    chosen = settings.identity
    return chosen.known_hosts or _default(chosen.state_dir, known_hosts.NAME)


def _default(directory: Path | None, name: str) -> Path | None:
    return None if directory is None else directory / name


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # In a directory that this process may not enter.
        return False


def _kind(settings: EndSettings) -> str:
    return "host" if isinstance(settings, HostSettings) else "client"
