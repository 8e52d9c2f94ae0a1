"""The operator's settings of the status port."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rtunnel.addresses import ListenAddress


@dataclass(frozen=True, slots=True)
class StatusSettings:
    """Where the status can be read besides the control socket.

    :ivar listen: the address; None: nowhere.
    :ivar token: what whoever reads must know; None: nothing.
    :ivar cert: PEM file with the certificate for HTTPS, followed by any intermediate certificates; None: it is HTTP.
    :ivar key: PEM file with its private key.
    :ivar ca: PEM file with the CAs, one of which must have issued the certificate of whoever reads; None: nobody needs
        one.
    """

    listen: ListenAddress | None = None
    token: str | None = field(default=None, repr=False)
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
