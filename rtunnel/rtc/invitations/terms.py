"""What a host's invitation is for, checked against what the host offers, and what the other person types."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.rtc.invitations.hosting import Terms
from rtunnel.rtc.settings import HostSettings, ServiceSettings
from rtunnel.wire.invitations.code import InvitationCode

#: The longest name of a client, in characters.
MAX_NAME = 64


def decide_terms(offered: Collection[str], services: Sequence[str], name: str) -> Terms:
    """Return what an invitation is for.

    :param offered: the names of the host's services; that of the default service is empty.
    :param services: those that the operator has named; empty: all.
    :param name: what the host shall call the client; empty: nobody has said.
    :raises ConfigError: the host does not offer one of them, or the name cannot be used.
    """
    for service in services:
        if service not in offered:
            known = [each for each in offered if each]
            hint = suggestion(service, known) or (
                f"; it offers {', '.join(known)}" if known else "; leave --service out"
            )
            raise ConfigError(f"this host does not offer the service '{service}'{hint}")
    if len(name) > MAX_NAME or not (name.isprintable() and name == name.strip()):
        raise ConfigError(f"a name must be printable text of up to {MAX_NAME} characters")
    return Terms(frozenset(services) if services else None, name)


def what_to_type(code: InvitationCode, terms: Terms, settings: HostSettings) -> str:
    """Return the command for the other person."""
    words = ["rtunnel", "connect", str(code)]
    meant = [each for each in settings.services if terms.services is None or each.name in terms.services]
    words += _local(meant)
    words += [word for url in settings.signal.url.all for word in ("--signal", url.text)]
    if settings.signal.token is not None:
        words += ["--token", "TOKEN"]
    if settings.hedge:
        words += ["--hedge", ",".join(settings.hedge)]
    return shlex.join(words)


def _local(meant: Sequence[ServiceSettings]) -> list[str]:
    if len(meant) == 1 or not all(each.name for each in meant):
        service = next((each for each in meant if not each.name), meant[0])
        return (
            ["--protocol", "udp", "--local", "127.0.0.1:8080"]
            if service.protocol == "udp"
            else ["--local", "127.0.0.1:8080"]
        )
    words = []
    for number, each in enumerate(meant):
        words += ["--forward", f"{'udp:' if each.protocol == 'udp' else ''}127.0.0.1:{8080 + number}={each.name}"]
    return words
