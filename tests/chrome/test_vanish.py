"""Chrome's ends that are gone, in good order or without a word: nothing of them stays at our end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

from tests.chrome.ends import Ends
from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.proc import descriptors
from tests.process.services import Service, page, read_all, read_bytes, wait_for_page

Serve = Callable[..., Service]

CLEANED_UP = 30
"""Seconds in which a host has forgotten a client that is gone; as many are the limit of ICE's consent (RFC 7675)."""
MARGIN = 10


class Poller:
    """A talent: says a word, and tells when its connection is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(b"?")
        try:
            read_all(connection)
        finally:
            self.over.set()


def test_clients_that_vanish_without_a_word(ends: Ends, serve: Serve) -> None:
    """One when it was in use, and some behind their offer."""
    watch = Poller()
    service = serve(watch=watch)
    ends.start_signaling()
    host = ends.host = ends.start_host("ours", service.address)
    unused = descriptors(host.pid)
    client = ends.start_client("chrome")
    with ends.visit(b"watch") as visitor:
        assert read_bytes(visitor, 1)[0] == 1
        assert descriptors(host.pid) > unused
        client.kill()
    for _ in range(3):
        ends.offer_and_vanish()
    host.wait_for("lost: the peer no longer answers$", timeout=CLEANED_UP + MARGIN)
    assert watch.over.wait(MARGIN)
    poll(lambda: descriptors(host.pid) <= unused, CLEANED_UP + MARGIN, f"the host's descriptors are {unused} again")


def test_a_client_that_takes_its_leave(ends: Ends, serve: Serve) -> None:
    """It closes its peer connection: its streams end at once."""
    watch = Poller()
    ends.start("chrome", "ours", serve(watch=watch).address)
    with ends.visit(b"watch") as visitor:
        assert read_bytes(visitor, 1)[0] == 1
        ends.client.send_signal(signal.SIGTERM)
        ends.host.wait_for("lost: the peer closed the connection$")
        assert watch.over.wait(MARGIN)


def test_a_host_that_takes_its_leave_and_returns(ends: Ends, serve: Serve) -> None:
    """Our client's port stays open, and new connections work when there is a host again."""
    page_service = serve(GET=page("here again"))
    ends.start("ours", "chrome", page_service.address)
    wait_for_page(ends.local, "here again", PATIENCE)
    ends.host.terminate()
    ends.start_host("chrome", page_service.address)
    wait_for_page(ends.local, "here again", PATIENCE)
