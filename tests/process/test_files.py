"""``files:DIR`` as operators use it: real processes, curl in front, and a directory with what people have in theirs."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.needs import need_root
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, need, poll
from tests.process.services import LOOPBACK, Tunnel, Visitor, curl, expected, pieces
from tests.process.test_https_engine import House
from tests.process.web_services import APP, OTHER, Site

StartTunnel = Callable[..., Tunnel]
StartSite = Callable[..., Site]

PLANES = ["mux", "direct"]
ON_ALL_PLANES = pytest.mark.parametrize("start_tunnel", PLANES, indirect=True)
SIZE = 60_000_000
MIB = 1024 * 1024
HOSTILE = [
    b"<script>alert(1)<x>",
    b'" onmouseover="alert(1)',
    b"javascript:alert(1)",
    b"new\nline",
    b"bad\xff\xfe",
    "evil\u202etxt.exe".encode(),
    b"per%2Fcent&amp;",
    b"?query#frag",
    b"back\\slash",
    b" space ",
    b"-rf",
    b"C:",
]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    root = tmp_path / "share"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "b.txt").write_bytes(b"b")
    (root / ".ssh").mkdir()
    (root / ".ssh" / "id").write_text("a secret")
    (root / "out").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo")
    for name in HOSTILE:
        (root / os.fsdecode(name)).write_bytes(name)
    return root


def put(path: Path, total: int, seed: int) -> None:
    with path.open("wb") as file:
        for piece in pieces(total, seed):
            file.write(piece)


def sha256(path: Path) -> str:
    return subprocess.check_output([need("sha256sum"), str(path)]).split()[0].decode()


def status(url: str, *more: str) -> int:
    return int(curl(url, "--no-fail", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", *more))


@ON_ALL_PLANES
def test_a_large_file_in_whole_and_in_parts(start_tunnel: StartTunnel, share: Path, tmp_path: Path) -> None:
    put(share / "large", SIZE, 7)
    tunnel = start_tunnel(f"files:{share}")
    tunnel.client.wait_for(rf":{tunnel.public} is published; visitors see the files in {re.escape(str(share))}$")
    got = tmp_path / "got"
    curl(f"{tunnel.url}/large", "-o", str(got))
    assert sha256(got) == expected(SIZE, 7)[1]
    # A download that broke off is taken up again.
    os.truncate(got, SIZE // 3)
    curl(f"{tunnel.url}/large", "-C", "-", "-o", str(got))
    assert sha256(got) == expected(SIZE, 7)[1]
    content = got.read_bytes()
    for text, part in [
        ("0-0", content[:1]),
        ("1000-99999", content[1000:100_000]),
        (f"{SIZE - 10}-", content[-10:]),
        ("-70000", content[-70_000:]),
    ]:
        assert curl(f"{tunnel.url}/large", "-r", text) == part
    several = curl(f"{tunnel.url}/large", "-r", "0-99999,50000000-50099999")
    assert content[:100_000] in several
    assert content[50_000_000:50_100_000] in several
    assert status(f"{tunnel.url}/large", "-r", f"{SIZE}-") == 416
    tag = re.search(r"(?i)^etag: (.*?)\r$", curl(f"{tunnel.url}/large", "-I").decode(), re.MULTILINE)
    assert tag is not None
    assert status(f"{tunnel.url}/large", "-H", f"If-None-Match: {tag[1]}") == 304
    for process in (tunnel.client, tunnel.server):
        assert process.terminate() == 0
        assert "Traceback" not in process.output


def test_names_and_ways_out(start_tunnel: StartTunnel, share: Path) -> None:
    tunnel = start_tunnel(f"files:{share}")
    page = curl(f"{tunnel.url}/")
    for name in HOSTILE:
        url = quote(name, safe="")
        assert f'href="{url}"'.encode() in page
        assert curl(f"{tunnel.url}/{url}") == name
    for markup in (b"<script", b' onmouseover="', b"id_", b"passwd", b"fifo", b".ssh"):
        assert markup not in page
    for path in (
        "/.ssh/id",
        "/%2essh/id",
        "/../outside",
        "/sub/../.ssh/id",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/out",
        "/fifo",
    ):
        assert status(tunnel.url + path) == 404
    assert curl(f"{tunnel.url}/sub", "-L", "-w", "%{url_effective}").endswith(f"{tunnel.url}/sub/".encode())
    assert status(f"{tunnel.url}/sub/b.txt", "-X", "DELETE") == 405
    assert status(f"{tunnel.url}/sub/b.txt", "-T", str(share / "sub" / "b.txt")) == 405
    assert curl(f"{tunnel.url}/sub/b.txt") == b"b"
    assert "Twisted" not in curl(f"{tunnel.url}/", "-i").decode()
    assert "Traceback" not in tunnel.client.output


@pytest.mark.parametrize("plane", PLANES)
def test_by_host_name(start_site: StartSite, share: Path, plane: str) -> None:
    put(share / "large", 20_000_000, 3)
    site = start_site(plane)
    site.publish({APP: f"files:{share}", f"{OTHER}/my/files": f"files:{share}/sub"})
    assert hashlib.sha256(site.get(APP, "/large")).hexdigest() == expected(20_000_000, 3)[1]
    assert b'href="sub/"' in site.get(APP)
    assert site.get(OTHER, "/my/files/b.txt") == b"b"
    assert site.get(OTHER, "/my/files", "-L", "--resolve", f"{OTHER}:{site.port}:{LOOPBACK}").endswith(b"1 B")
    assert site.status(OTHER, "/b.txt") == 404
    # Many requests over kept connections.
    wanted = "/sub/b.txt?[1-300]"
    got = site.get(APP, wanted)
    assert got == b"b" * 300


@pytest.mark.parametrize("plane", PLANES)
def test_under_tls_that_ends_at_the_client(twistd: Twistds, share: Path, tmp_path: Path, plane: str) -> None:
    put(share / "large", 20_000_000, 3)
    house = House(twistd, tmp_path, f"files:{share}", plane)
    assert hashlib.sha256(house.get("/large")).hexdigest() == expected(20_000_000, 3)[1]
    assert house.get("/large", "-r", "10-19") == (share / "large").read_bytes()[10:20]
    assert b'href="sub/"' in house.get("/")
    assert "Traceback" not in house.client.output


@ON_ALL_PLANES
def test_who_does_not_read_or_vanishes(start_tunnel: StartTunnel, share: Path) -> None:
    """Fifty visitors ask for 60 MB each and read nothing of it; the file is open for each of them, and no longer."""
    put(share / "large", SIZE, 7)
    tunnel = start_tunnel(f"files:{share}")
    curl(f"{tunnel.url}/sub/b.txt")
    before = tunnel.client.rss_bytes()
    request = b"GET /large HTTP/1.1\r\n\r\n"
    with ExitStack() as stack:
        visitors = [stack.enter_context(tunnel.visit(request)) for _ in range(50)]
        for visitor in visitors:
            assert visitor.recv(1)
        assert curl(f"{tunnel.url}/sub/b.txt") == b"b"
        assert _opened(tunnel.client.pid, share / "large") == 50
        assert tunnel.client.rss_bytes() - before < 100 * MIB
    poll(lambda: not _opened(tunnel.client.pid, share / "large"), PATIENCE, "the files are closed")
    assert tunnel.client.running
    assert "Traceback" not in tunnel.client.output


def _opened(pid: int, path: Path) -> int:
    """How many descriptors of a process lead to a file."""
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += each.readlink() == path
        except OSError:  # it was closed meanwhile
            continue
    return count


def test_many_requests_at_once_by_who_does_not_read(start_tunnel: StartTunnel, share: Path) -> None:
    """They are answered one after the other, as he reads; and others meanwhile."""
    for number in range(1000):
        (share / "sub" / f"{number}").touch()
    tunnel = start_tunnel(f"files:{share}")
    curl(f"{tunnel.url}/sub/b.txt")
    before = tunnel.client.rss_bytes()
    with ExitStack() as stack:
        for _ in range(10):
            visitor = stack.enter_context(Visitor(tunnel.public))
            visitor.sendall(b"GET /sub/ HTTP/1.1\r\n\r\n" * 500)
            assert visitor.recv(1)
        assert curl(f"{tunnel.url}/sub/b.txt") == b"b"
        assert tunnel.client.rss_bytes() - before < 60 * MIB


def test_garbage(start_tunnel: StartTunnel, share: Path) -> None:
    tunnel = start_tunnel(f"files:{share}")
    for garbage in (os.urandom(100_000), b"\r\n" * 1000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000, b"\x16\x03\x01"):
        with tunnel.visit() as visitor:
            try:
                visitor.sendall(garbage)
                visitor.shutdown(socket.SHUT_WR)
                while visitor.recv(65536):
                    pass
            except ConnectionError:
                pass
    assert curl(f"{tunnel.url}/sub/b.txt") == b"b"
    assert "Traceback" not in tunnel.client.output


def test_relative_to_the_working_directory(twistd: Twistds, share: Path) -> None:
    """Also of a daemon."""
    tunnel = Tunnel(twistd, "files:share", twistd_options=["--rundir", "/"])
    assert curl(f"{tunnel.url}/sub/b.txt") == b"b"


def test_no_such_directory(twistd: Twistds, tmp_path: Path) -> None:
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{free_port()}", f"--local=files:{tmp_path}/nothing")
    assert client.wait() == 1
    assert client.output.strip().endswith(
        f"files:{tmp_path}/nothing cannot be read: no such file or directory; name a directory that this user may read"
    )
    assert "Traceback" not in client.output


def test_the_user_of_twistd_may_not_read_it(twistd: Twistds, tmp_path: Path) -> None:
    need_root()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    options = ["-n", "--pidfile=", "--uid=65534", "--gid=65534"]
    local = f"--local=files:{private}"
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{free_port()}", local, twistd_options=options)
    assert client.wait() == 1
    assert client.output.strip().endswith(
        f"files:{private} cannot be read: permission denied; name a directory that this user may read"
    )
    assert "Traceback" not in client.output
