"""The examination of a client that has several servers: the way to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rtunnel.doctor.local import SERVICE
from rtunnel.doctor.steps import Examination, Step
from rtunnel.doctor.tunnel import TunnelExamination
from rtunnel.reverse.settings import ClientSettings


class ServersExamination(Examination):
    """Examines the way to each server by itself. The local services are examined once.

    The name of each step ends with the server, if there are several.

    The parameters are those of :class:`TunnelExamination`.
    """

    def __init__(
        self, reactor: Any, settings: ClientSettings, environ: Mapping[str, str], tell: Callable[[Step], None]
    ) -> None:
        super().__init__(reactor, tell)
        several = len(settings.servers) > 1
        self._ways = [
            TunnelExamination(
                reactor,
                settings.of(server),
                environ,
                self._noting(f" {server}" if several else ""),
                with_services=server == settings.servers[-1],
            )
            for server in settings.servers
        ]

    def _noting(self, server: str) -> Callable[[Step], None]:
        return lambda step: self._note(step, server)

    def _note(self, step: Step, server: str) -> None:
        # A local service has nothing to do with a server.
        self.note(step if step.name == SERVICE else replace(step, name=step.name + server))

    async def examine(self) -> None:
        """Run all steps."""
        for way in self._ways:
            if not self._is_stopped:
                await way.examine()

    def stop(self) -> None:
        """See :class:`Examination`."""
        super().stop()
        for way in self._ways:
            way.stop()
