"""What ``make demo`` runs: fetch a web page through both tunnels, with real processes, all on this machine.

A web server (nginx if it is installed, otherwise Twisted's) listens on a loopback port. The demo fetches its page from
the public port of an rtunnel-server, and then from the local port of an rtc-client. It prints each command, so that you
can type it yourself. It contacts no other machine, bounds every wait, and ends all its processes.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

TIMEOUT = 30.0
"""The longest wait, in seconds, for something to listen, the page to come, or a process to end."""

NGINX_CONF = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    default_type text/html;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/site;
    }}
}}
"""


class DemoError(Exception):
    """A step failed. The message says which."""


class Interrupted(Exception):
    """SIGINT or SIGTERM has come."""


signals_seen: list[int] = []
"""The SIGINT and SIGTERM that have come. An exception in the handler could lose a process that was just started."""


def say(text: str) -> None:
    print(text, flush=True)


def find(program: str) -> str | None:
    """Return the path of a system program, or None. Look also in the directories for root."""
    return shutil.which(program, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Return *count* different ports that are currently free."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Child:
    """A process. Its output goes to a file, which is shown if the demo fails."""

    def __init__(self, name: str, argv: Sequence[str], directory: Path) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        say(f"  $ {shlex.join([Path(argv[0]).name, *argv[1:]])}")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RTUNNEL_", "WTT_"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        say(f"    (process {self._process.pid})")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def terminate(self) -> int:
        """End the process with SIGTERM, and return its exit code."""
        self._process.terminate()
        wait_until(lambda: not self.running, f"{self.name} ends on SIGTERM")
        return self._process.wait(TIMEOUT)

    def kill(self) -> None:
        """Kill the process if it still runs."""
        if self.running:
            self._process.kill()
        self._process.wait(TIMEOUT)


def wait_until(look: Callable[[], bool], what: str, *needed: Child) -> None:
    """Wait until *look* returns true.

    :param what: what is awaited, for the error.
    :raises DemoError: it took longer than :data:`TIMEOUT`, or one of the processes *needed* has ended.
    :raises Interrupted: a signal has come.
    """
    deadline = time.monotonic() + TIMEOUT
    while not look():
        if signals_seen:
            raise Interrupted
        for child in needed:
            if not child.running:
                raise DemoError(f"{child.name} ended before {what}")
        if time.monotonic() > deadline:
            raise DemoError(f"not within {TIMEOUT:.0f} s: {what}")
        time.sleep(0.1)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def fetch(url: str) -> str:
    """Fetch a page, with curl if it is installed. Return an empty text if that fails."""
    curl = find("curl")
    if curl is not None:
        argv = [curl, "--silent", "--fail", "--noproxy", "*", "--max-time", "3", url]
        return subprocess.run(argv, capture_output=True, check=False, timeout=10).stdout.decode(errors="replace")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=3) as answer:
            page: bytes = answer.read()
            return page.decode(errors="replace")
    except OSError:
        return ""


def web_server_argv(twistd: str, directory: Path, port: int) -> list[str]:
    """Return the command of a web server for ``directory/site``."""
    nginx = find("nginx")
    if nginx is None:
        site = str(directory / "site")
        return [twistd, "-n", "--pidfile=", "web", "--listen", f"tcp:{port}:interface=127.0.0.1", "--path", site]
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(directory=directory, port=port))
    return [nginx, "-p", str(directory), "-c", str(conf)]


Plugin = Callable[..., Child]
"""Starts a command of rtunnel by its name, with options."""


def demo(directory: Path, start: Callable[[str, Sequence[str]], Child]) -> None:
    """Run all steps. The caller ends the processes that *start* has started.

    :raises DemoError: a step failed.
    """
    twistd = shutil.which("twistd", path=str(Path(sys.executable).parent))
    if twistd is None:
        raise DemoError(f"there is no twistd beside {sys.executable}: is rtunnel installed there?")
    token = secrets.token_hex(8)
    (directory / "site").mkdir()
    (directory / "site" / "index.html").write_text(f"<h1>Hello through the tunnel: {token}</h1>\n")
    web, control, public, signaling, local = free_ports(5)

    say(f"A web server that only this machine can reach, on port {web}:")
    web_server = start("web", web_server_argv(twistd, directory, web))
    wait_until(lambda: accepts(web), "the web server listens", web_server)

    def plugin(name: str, *options: str) -> Child:
        return start(name, [str(Path(twistd).with_name("rtunnel")), name, *options])

    reverse_tunnel(plugin, web, control, public, token)
    webrtc_tunnel(plugin, web, signaling, local, token)


def reverse_tunnel(plugin: Plugin, web: int, control: int, public: int, token: str) -> None:
    """Fetch the page through the reverse tunnel."""
    say("\nTHE REVERSE TUNNEL: a public machine passes visitors on.\n")
    say(f"1. The public end: clients come to port {control}, visitors to the ports that clients ask for:")
    control_listen = f"tcp:{control}:interface=127.0.0.1"
    server = plugin("server", "--control-listen", control_listen, "--public-interface", "127.0.0.1")
    wait_until(lambda: "listening" in server.output, "the server listens", server)

    say(f"2. The private end: it dials the server, and asks for public port {public}:")
    server_option = ("--server", f"127.0.0.1:{control}")
    client = plugin("client", *server_option, "--local", f"127.0.0.1:{web}", "--remote-port", str(public))

    say("3. A visitor of the public port:")
    visit(public, token, server, client)
    say("4. Both ends go down on SIGTERM:")
    go_down(public, client, server)


def webrtc_tunnel(plugin: Plugin, web: int, signaling: int, local: int, token: str) -> None:
    """Fetch the page through the WebRTC tunnel."""
    say("\nTHE WEBRTC TUNNEL: both ends connect to each other, through NATs too.\n")
    say(f"1. The signaling server, on port {signaling}, where the ends find each other:")
    signal_server = plugin("signal", "--addr", f"127.0.0.1:{signaling}")
    wait_until(lambda: "listening" in signal_server.output, "the signaling server listens", signal_server)

    # On one machine no STUN server is needed, and loopback will do.
    here = ("--signal", f"ws://127.0.0.1:{signaling}", "--stun-server", "", "--ice-interface", "127.0.0.1")
    say("2. The private end, under the name 'demo':")
    host = plugin("host", "--id", "demo", "--remote", f"127.0.0.1:{web}", *here)
    wait_until(lambda: "offers" in host.output, "the host is registered", signal_server, host)

    say(f"3. The user's end: port {local} here leads to the web server there:")
    client = plugin("connect", "--id", "demo", "--local", f"127.0.0.1:{local}", *here)
    wait_until(lambda: "connected to host" in client.output, "the two are connected", signal_server, host, client)
    say("    " + next(line for line in client.output.splitlines() if "connected to host" in line).partition(" ")[2])

    say("4. A program that uses that port:")
    visit(local, token, signal_server, host, client)
    say("5. All three go down on SIGTERM:")
    go_down(local, client, host, signal_server)


def visit(port: int, token: str, *needed: Child) -> None:
    """Fetch the page from *port*, waiting until it comes."""
    url = f"http://127.0.0.1:{port}/"
    say(f"  $ curl {url}")
    pages: list[str] = []

    def page_came() -> bool:
        pages.append(fetch(url))
        return bool(pages[-1])

    wait_until(page_came, "the page comes through the tunnel", *needed)
    say(f"    {pages[-1].strip()}")
    if token not in pages[-1]:
        raise DemoError("that is not the web server's page")


def go_down(port: int, *children: Child) -> None:
    """End the processes, one after the other, and check that nothing listens on *port* any more."""
    for child in children:
        code = child.terminate()
        say(f"    {child.name}: exit code {code}")
        if code != 0:
            raise DemoError(f"{child.name} should have ended with exit code 0")
    if accepts(port):
        raise DemoError(f"port {port} is still open")


@contextmanager
def workplace() -> Iterator[tuple[Path, list[Child]]]:
    """Yield a directory and a list of processes. Remove and end them when the demo is over, however it ends."""
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="rtunnel-demo-") as name:
        try:
            yield Path(name), children
        finally:
            for child in reversed(children):
                child.kill()


def note_signal(number: int, _frame: FrameType | None) -> None:
    signals_seen.append(number)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note_signal)
    with workplace() as (directory, children):

        def start(name: str, argv: Sequence[str]) -> Child:
            child = Child(name, argv, directory)
            children.append(child)
            return child

        try:
            demo(directory, start)
        except DemoError as error:
            for child in children:
                say(f"--- {child.name} ---\n{child.output}")
            say(f"The demo failed: {error}.")
            return 1
        except Interrupted:
            say("Interrupted.")
            return 128 + signals_seen[0]
    say("It works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
