"""Choose the engine of the directory."""

from __future__ import annotations

from typing import Any

from rtunnel.cluster.interface import IDirectory
from rtunnel.cluster.memory import MemoryDirectory
from rtunnel.cluster.settings import ClusterUrl


def directory_for(reactor: Any, url: ClusterUrl | None) -> IDirectory:
    """Return the directory that the setting ``cluster`` names: a service, to be started by its user.

    :param reactor: provides time and connections. It must be the process's own if there is a *url*.
    :param url: None: this node is alone.
    """
    if url is None:
        return MemoryDirectory(reactor)
    # It costs memory, which nobody without a cluster should pay.
    from rtunnel.cluster.redis import RedisDirectory

    return RedisDirectory(reactor, url)
