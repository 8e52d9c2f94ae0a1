"""A service that says nothing, and hears when somebody goes away."""

from __future__ import annotations

import select
import socket
import threading

from rtunnel.relay.sockets import close_socket
from tests.patience import PATIENCE
from tests.process.services import read_all


class Silent:
    """A talent: reads to the end, answers nothing, and learns whether the other end has reset the connection."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.was_reset = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        read_all(connection)
        self.asked.set()
        poller = select.poll()
        poller.register(connection, 0)
        if any(events & select.POLLERR for _, events in poller.poll(PATIENCE * 1000)):
            self.was_reset.set()

    def learns_of(self, visitor: socket.socket) -> bool:
        """Whether it learns that *visitor* ends his direction, and then goes away."""
        visitor.shutdown(socket.SHUT_WR)
        assert self.asked.wait(PATIENCE)
        close_socket(visitor, reset=True)
        return self.was_reset.wait(PATIENCE)
