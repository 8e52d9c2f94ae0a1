"""Reads tunnels that come while the client runs, by the rules by which it has read its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rtunnel.access.public import NAMED
from rtunnel.acme.settings import AcmeSettings
from rtunnel.control.actions.publish import Place
from rtunnel.options.settings.acme import decide_acme
from rtunnel.options.settings.published import MAX_PORTS, check_files, published
from rtunnel.options.settings.sources import Resolved
from rtunnel.options.settings.tunnels import publish
from rtunnel.options.settings.via import decide_via
from rtunnel.reverse.settings import TunnelSettings


class TunnelReader:
    """See :class:`~rtunnel.control.actions.publish.IReader`.

    :param resolved: the settings of the client.
    """

    most = MAX_PORTS

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved

    def read(self, written: object) -> tuple[tuple[TunnelSettings, ...], AcmeSettings | None]:
        """See :class:`~rtunnel.control.actions.publish.IReader`."""
        tunnels, acme = decide_acme(self._resolved, publish([written]))
        check_files(tunnels)
        decide_via(self._resolved, os.environ, tunnels)
        return tunnels, acme

    def places(self, written: str) -> Sequence[Place]:
        """See :class:`~rtunnel.control.actions.publish.IReader`."""
        public = written.partition("=")[0]
        if public.isdecimal():
            public = f"tcp:{public}"
        kind, _, what = public.partition(":")
        service = what if kind not in NAMED and "-" in what else "1"
        return [tunnel.place for tunnel in published(f"{public}=127.0.0.1:{service}")]
