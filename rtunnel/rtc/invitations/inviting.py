"""A host invites somebody, and takes whoever has shown that his code is right.

With its first invitation a host is closed: from then on only those in ``authorized_clients`` may connect, and whoever
redeems an invitation is added there.
"""

from __future__ import annotations

from typing import Protocol

from twisted.logger import Logger

from rtunnel.access.peers.authorized_clients import (
    add_client,
    make_clients_file,
    read_authorized_clients,
)
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations.hosting import Invitations, OpenInvitation, Terms
from rtunnel.rtc.invitations.terms import what_to_type
from rtunnel.rtc.rights.trusted import clients_file
from rtunnel.rtc.settings import HostSettings
from rtunnel.wire.invitations.invitation import LASTS

_log = Logger()


class Host(Protocol):
    """What is needed of :class:`~rtunnel.rtc.host.RtcHost`."""

    settings: HostSettings
    invitations: Invitations


async def invite(host: Host, terms: Terms) -> OpenInvitation:
    """Open an invitation, and return it once it can be found. The host is closed then.

    :raises ConfigError: that is not possible; the message says why.
    """
    if host.settings.identity.ca is not None:
        raise ConfigError("this host trusts a CA (--peer-ca): give the other machine a certificate of it instead")
    path = clients_file(host.settings)
    if path is None:
        raise ConfigError("this host has no place to write down whom it knows; give it --state-dir")
    if make_clients_file(path):
        _log.warn("from now on only the clients in {path} may connect, and those that are invited", path=path)
    return await host.invitations.invite(terms)


async def invite_at_start(host: Host) -> None:
    """Open an invitation for all services, and log its code: the operator has given ``--invite``."""
    try:
        each = await invite(host, Terms())
    except ConfigError as error:
        _log.error("there is no invitation: {error}", error=error)
        return
    assert each.code is not None
    _log.info(
        "invitation {number} is good for {minutes:.0f} minutes and one try; the other person types: {command}",
        number=each.number,
        minutes=LASTS / 60,
        command=what_to_type(each.code, each.terms, host.settings),
    )


def admit(settings: HostSettings, each: OpenInvitation, fingerprint: str) -> None:
    """Write down a client that has confirmed the code. If that is not possible, it is refused.

    :param fingerprint: of its identity, 64 hexadecimal digits.
    """
    path = clients_file(settings)
    assert path is not None
    name = each.terms.name or f"invited-{show_fingerprint(fingerprint)[:5]}"
    try:
        known = read_authorized_clients(path).known(fingerprint) if path.exists() else None
        if known is not None:
            each.client = known[0]
            _log.warn(
                "invitation {number}: this client is {name} in {path} already, and its rights there stay as they are",
                number=each.number,
                name=each.client,
                path=path,
            )
            return
        add_client(path, fingerprint, name, each.terms.services)
        # Another one may have had that name.
        known = read_authorized_clients(path).known(fingerprint)
    except (ConfigError, OSError) as error:
        _log.error("invitation {number}: the client cannot be written down: {error}", number=each.number, error=error)
        return
    each.client = known[0] if known is not None else name
    _log.info(
        "invitation {number}: {name} is known from now on, with {terms}; fingerprint {short}, in {path}",
        number=each.number,
        name=each.client,
        terms=str(each.terms),
        short=show_fingerprint(fingerprint),
        path=path,
    )
