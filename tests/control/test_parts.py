"""What services say about themselves: the parts that several of them have."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rtunnel.addresses import DialAddress
from rtunnel.control.parts import answering
from rtunnel.reasons import reason_of
from rtunnel.services.health import HealthWatch
from rtunnel.services.health_settings import HealthSettings
from rtunnel.services.watch import ServiceWatch


def refused() -> Failure:
    return Failure(ConnectionRefusedError())


def test_a_service_that_nobody_watches() -> None:
    assert answering(None) == {"answers": None, "problem": None}


def test_a_service_that_is_watched() -> None:
    watch = ServiceWatch(Clock(), DialAddress.parse("80"), 5.0, None)
    assert answering(watch) == {"answers": None, "problem": None}
    watch.failed(refused())
    assert answering(watch) == {"answers": False, "problem": reason_of(refused())}
    watch.answered()
    assert answering(watch) == {"answers": True, "problem": None}


def test_a_service_with_a_health_check_answers_until_it_is_out() -> None:
    clock: Any = Clock()
    watch = HealthWatch(clock, DialAddress.parse("80"), HealthSettings(fall=2, rise=2), DeferredSemaphore(1))
    assert answering(watch) == {"answers": None, "problem": None}
    watch.answered()
    watch.failed(refused())
    assert answering(watch) == {"answers": True, "problem": None}
    watch.failed(refused())
    assert answering(watch) == {"answers": False, "problem": reason_of(refused())}
    watch.answered()
    assert answering(watch)["answers"] is False
    watch.answered()
    assert answering(watch) == {"answers": True, "problem": None}
