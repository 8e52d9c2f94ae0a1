"""The reactor, made fit for programs that run for months, on machines that are not looked after.

- Its timers go by a clock that nobody can set. Twisted's own go by the time of day: when that is set back by an hour,
  no timer fires for an hour.
- Names are looked up by :class:`~rtunnel.names.Resolver`.
- It may watch as many descriptors as the system allows.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from rtunnel.names import Resolver
from rtunnel.relay.sockets import raise_descriptor_limit


def leave_out_tls(options: Any) -> None:
    """Import Twisted without its own TLS, in a process that has not imported it yet. This saves 12 MiB.

    Twisted imports pyOpenSSL with its endpoints and its TCP if it is there, for endpoints such as ``tls:`` and for
    ``startTLS``. The tunnels' TLS is their own, and has pyOpenSSL when it is first used. Where the settings name an
    endpoint of a plugin, Twisted's endpoints are imported already, and nothing is left out.

    :param options: of the service. Those without a parent belong to somebody else's program, which may want that TLS.
    """
    if options.parent is None or "twisted.internet.endpoints" in sys.modules or "OpenSSL" in sys.modules:
        return
    # An import of it fails; see importlib's documentation of sys.modules.
    sys.modules["OpenSSL"] = None  # type: ignore[assignment]
    try:
        from twisted.internet import endpoints, posixbase, tcp  # noqa: F401
    finally:
        del sys.modules["OpenSSL"]


def prepared_reactor(*first: str | None) -> Any:
    """Return the reactor of this process; install the default one if there is none yet.

    :param first: hosts whose names are looked up before all others, or None; see :attr:`Resolver.first`.
    """
    from twisted.internet import reactor

    prepare(reactor, *first)
    return reactor


def prepare(reactor: Any, *first: str | None) -> None:
    """Change the clock and the resolver of *reactor*, and raise the process's soft limit of descriptors.

    May be called again, with other names. A reactor that runs already keeps its clock: it may be in the middle of calls
    that are due by now, and by another clock all would be due for ever, so that it would look at no socket any more.
    """
    if reactor.seconds is not time.monotonic and not reactor.running:
        before = reactor.seconds()
        reactor.seconds = time.monotonic
        for call in reactor.getDelayedCalls():
            left = call.getTime() - before
            call.seconds = time.monotonic
            call.reset(left)
    # select() watches none above 1,023.
    if type(reactor).__module__ != "twisted.internet.selectreactor":
        raise_descriptor_limit()
    if not isinstance(reactor.nameResolver, Resolver):
        reactor.installNameResolver(Resolver(reactor))
    look_up_first(reactor, *first)


def look_up_first(reactor: Any, *names: str | None) -> None:
    """Let these names be looked up before all others, if *reactor* is prepared."""
    if isinstance(reactor.nameResolver, Resolver):
        reactor.nameResolver.first.update(name for name in names if name)
