"""A reverse tunnel between two machines on one cable that have no address but the link-local ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat.lab import Namespace, need_root
from tests.process.harness import Twistds, wait_until_open
from tests.process.services import Service, curl, page
from tests.tls.parts import Authority

PAGE = "A page on the cable.\n"


class Cable:
    """Two machines."""

    def __init__(self) -> None:
        self.public, self.private = Namespace(), Namespace()
        self.public.cable("eth0", self.private, "eth0")
        for machine, address in ((self.public, "fe80::1"), (self.private, "fe80::2")):
            machine.ip(f"addr add {address}/64 dev eth0 nodad")

    def close(self) -> None:
        self.public.close()
        self.private.close()


@pytest.fixture
def cable() -> Iterator[Cable]:
    need_root()
    built = Cable()
    yield built
    built.close()


def test_the_server_by_its_link_local_address(cable: Cable, twistd: Twistds, tmp_path: Path) -> None:
    """The zone says which interface leads there. The certificate is for the address without it."""
    authority = Authority(tmp_path / "pki")
    authority.server(hosts=["fe80::1"])
    authority.client(file="client")
    tls = {"RTUNNEL_PKI_DIR": str(authority.directory), "RTUNNEL_TLS": "yes", "RTUNNEL_DATA_PLANE": "direct"}
    with cable.public.inside():
        server = twistd("rtunnel-server", "--control-listen", "[::]:7000", env=tls)
        wait_until_open(7000, host="::1")
    with cable.private.inside():
        service = Service({"GET": page(PAGE)})
        client = twistd(
            *("rtunnel-client", "--server", "[fe80::1%eth0]:7000", "--tunnel", f"8001:{service.address}"), env=tls
        )
    try:
        client.wait_for(r":8001 is published")
        with cable.public.inside():
            assert curl("http://127.0.0.1:8001/").decode() == PAGE
        server.wait_for(r"\(laptop\)")
    finally:
        service.close()
