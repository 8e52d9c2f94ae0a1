"""Which Redis is the master, as Sentinels say."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rtunnel.cluster.interface import Away
from rtunnel.cluster.redis_commands import MEANING, NO_PASSWORD, Commands, dial
from rtunnel.cluster.settings import ClusterUrl, shown_address

#: The same of a Sentinel.
_MEANING = {
    MEANING["NOAUTH"]: "it asks for a password of its own; write ?sentinel_password= behind the URL",
    MEANING["WRONGPASS"]: "it refuses ?sentinel_password=",
    NO_PASSWORD: "it has no password; leave out ?sentinel_password=",
}


async def find_master(reactor: Any, url: ClusterUrl, timeout: float) -> tuple[str, int]:
    """Return where the master is.

    All Sentinels are asked at once. As soon as most of them have answered, the one that has seen the latest election is
    right: one that was stopped, or cut off, still names the master of before, and that one may be there again.

    :raises Away: none of them knows.
    """
    addresses = list(dict.fromkeys(url.addresses))
    answers: list[tuple[int, str, int]] = []
    reasons: dict[tuple[str, int], str] = {}
    enough: Deferred[None] = Deferred()

    async def ask(address: tuple[str, int]) -> None:
        try:
            answers.append(await _ask_sentinel(reactor, url, address, timeout))
        except Away as away:
            why = _MEANING.get(str(away), str(away))
            reasons[address] = f"Sentinel {shown_address(*address)}: {why}"
        is_over = len(answers) > len(addresses) // 2 or len(answers) + len(reasons) == len(addresses)
        if is_over and not enough.called:
            enough.callback(None)

    def failed(failure: Failure) -> None:
        # Not one that is cancelled as there was enough.
        if not enough.called:
            enough.errback(failure)

    asked = [Deferred.fromCoroutine(ask(address)).addErrback(failed) for address in addresses]
    try:
        await enough
    finally:
        for each in asked:
            each.cancel()
    if not answers:
        raise Away("; ".join(reasons[address] for address in addresses))
    _, host, port = max(answers, key=itemgetter(0))
    return host, port


async def _ask_sentinel(
    reactor: Any, url: ClusterUrl, address: tuple[str, int], timeout: float
) -> tuple[int, str, int]:
    """Return the election (its number) that the Sentinel at *address* has seen, and the host and port of the master.

    :raises Away: it does not know.
    """
    password = url.sentinel_password or None
    sentinel = await dial(reactor, url, address, lambda: Commands(reactor, timeout, password=password), timeout)
    try:
        reply = await sentinel.ask("SENTINEL", "MASTER", url.master)
    except Away as away:
        if "No such master" in str(away):
            raise Away(f"knows no master '{url.master}'") from None
        raise
    finally:
        sentinel.drop("it has been asked")
    try:
        told = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(told[b"config-epoch"]), str(told[b"ip"], "ascii", "replace"), int(told[b"port"])
    except (TypeError, ValueError, KeyError):
        raise Away("it does not say where the master is") from None
