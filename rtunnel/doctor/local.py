"""Local services: whether they answer, as a tunnel would find them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from rtunnel.addresses import DialAddress
from rtunnel.doctor.steps import WITHIN, Examination, Found, Status, Step, Trouble
from rtunnel.errors import ConfigError
from rtunnel.reasons import reason_and_advice
from rtunnel.reverse.proxy_protocol import header_for
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.services.files.tree import check_directory
from rtunnel.services.health import HealthWatch, Unhealthy
from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import MOST_AT_ONCE, try_service

#: The name of each step.
SERVICE = "service"


@dataclass(frozen=True, slots=True)
class LocalService:
    """One service.

    :ivar name: that of its tunnel.
    :ivar local: where it is.
    :ivar is_udp: whether it takes datagrams.
    :ivar header: the PROXY header that it wants.
    :ivar health: how it is checked; None: it has to accept a connection.
    :ivar may_try: whether connections to it are wanted.
    """

    name: str
    local: DialAddress
    is_udp: bool = False
    header: bytes = b""
    health: HealthSettings | None = None
    may_try: bool = True


def of_tunnel(settings: ClientSettings, tunnel: TunnelSettings) -> LocalService:
    """Return the service of a tunnel of the reverse tunnel."""
    return LocalService(
        tunnel.shown_name,
        tunnel.local,
        tunnel.protocol == "udp",
        header_for(tunnel, ""),
        tunnel.health,
        settings.check_services,
    )


async def examine_services(examination: Examination, services: Sequence[LocalService]) -> None:
    """Try all services, some at a time, and note the outcomes in their order."""
    turns = DeferredSemaphore(MOST_AT_ONCE)

    def begin(service: LocalService) -> Deferred[Step]:
        check: Callable[[], Coroutine[Any, Any, Found]] = partial(_try, examination.reactor, service)
        return turns.run(lambda: Deferred.fromCoroutine(examination.outcome(SERVICE, check)))

    outcomes: list[Step] = await gatherResults([begin(service) for service in services])
    examination.note_all(outcomes)


async def _try(reactor: Any, service: LocalService) -> Found:
    local = service.local
    what = f"{local.in_full} of {service.name}"
    if local.directory is not None:
        try:
            check_directory(local.directory)
        except ConfigError as error:
            raise Trouble(str(error), "Name a directory that the user of the client may read.") from error
        return Found(f"{what} can be read")
    if service.is_udp:
        return Found(f"{what} takes UDP, and cannot be tried", "", Status.SKIPPED)
    if not service.may_try:
        return Found(f"{what} is not tried: --check-services no", "", Status.SKIPPED)
    if local.host is None and not local.description.startswith("unix:"):
        return Found(f"{what} is not tried: its endpoint may send bytes", "", Status.SKIPPED)
    try:
        if service.health is not None:
            health = replace(service.health, timeout=min(service.health.timeout, WITHIN))
            watch = HealthWatch(reactor, local, health, DeferredSemaphore(1), service.header)
            if problem := await watch.check_once():
                raise Unhealthy(problem)
            return Found(f"{what} passes its health check")
        await try_service(local.endpoint(reactor, WITHIN), service.header)
    except Exception as error:
        fails = "fails its health check" if service.health is not None else "does not answer"
        raise Trouble(
            f"{what} {fails}: {reason_and_advice(error)}",
            f"Start the service at {local.in_full} on this machine, or correct its address; visitors of {service.name} "
            "are turned away meanwhile.",
        ) from error
    return Found(f"{what} answers")
