"""Turn the settings of identities into what the services take, and try all files before the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from rtunnel.access.identities import identity_from_files
from rtunnel.acme.settings import default_state_dir
from rtunnel.errors import ConfigError, StartupError
from rtunnel.options.settings.sources import Resolved
from rtunnel.rtc.rights.trusted import trust_of
from rtunnel.rtc.settings import EndSettings, IdentitySettings

EndT = TypeVar("EndT", bound=EndSettings)

#: Settings of which only one may say whom a client trusts, as long as none of them is a default.
_WHOM = ("host-key", "peer-ca", "known-hosts", "trust-on-first-use")
_TOGETHER = frozenset(("known-hosts", "trust-on-first-use"))


def decide_identity(resolved: Resolved) -> IdentitySettings:
    """Return who an end is, and whom it trusts.

    :raises ConfigError: a file cannot be used, or two settings contradict each other.
    """
    values = resolved.values
    for name, other in (("identity-cert", "identity-key"), ("identity-key", "identity-cert")):
        if values[name] is not None and values[other] is None:
            raise resolved.error(name, f"also needs --{other}")
    if "host-key" in values:
        _check_client(resolved)
    found = IdentitySettings(
        **resolved.fields_of(IdentitySettings) | {"state_dir": values["state-dir"] or default_state_dir(os.environ)}
    )
    if found.cert is not None and found.key is not None:
        with resolved.reads_files("identity-cert", "identity-key"):
            identity_from_files(found.cert, found.key, "client" if "host-key" in values else "host")
    return found


def _check_client(resolved: Resolved) -> None:
    values = resolved.values
    given = [name for name in _WHOM if values[name]]
    for index, name in enumerate(given):
        for other in given[:index]:
            if {name, other} != _TOGETHER:
                later, first = sorted((name, other), key=lambda each: resolved.sources[each].rank, reverse=True)
                raise resolved.error(later, f"cannot be combined with --{first}; keep one of them")
    if values["host-name"] and values["peer-ca"] is None:
        raise resolved.error("host-name", "has no effect without --peer-ca; add it, or leave this out")


def check_trust(resolved: Resolved, settings: EndT) -> EndT:
    """Return *settings*, whose files say whom to trust; they can be used.

    :raises ConfigError: one cannot; the message names the file and the fix.
    """
    names = ("peer-ca", "authorized-clients", "known-hosts")
    with resolved.reads_files(*(name for name in names if name in resolved.values)):
        trust_of(settings)
    return settings


@contextmanager
def startup_errors() -> Iterator[None]:
    """Let the process end with one line if its identity cannot be read or made.

    :raises StartupError: it cannot.
    """
    try:
        yield
    except ConfigError as error:
        raise StartupError(str(error)) from error
