"""A browser as a peer: ``python browser.py chromium PROGRAM DIRECTORY``. Commands and answers are lines of JSON.

The browser shows ``page.html``, which asks this program for commands, so all browsers are driven in the same way.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue

HERE = Path(__file__).parent
FILES = {"/": ("page.html", "text/html"), "/peer.js": ("peer.js", "text/javascript")}
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--log-level=3",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]
FIREFOX = """
user_pref("media.peerconnection.ice.loopback", true);
user_pref("media.peerconnection.ice.obfuscate_host_addresses", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("app.normandy.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
"""
#: Seconds for which the page waits for a command before it asks again.
TURN = 5.0

commands: Queue[str] = Queue()
printing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if self.path == "/commands":
            found = []
            try:
                found.append(commands.get(timeout=TURN))
                while True:
                    found.append(commands.get_nowait())
            except Empty:
                pass
            self._answer(f"[{','.join(found)}]".encode(), "application/json")
        elif self.path in FILES:
            name, kind = FILES[self.path]
            self._answer((HERE / name).read_bytes(), kind)
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers["Content-Length"])).decode()
        # The page posts several at once, each to a thread of its own.
        with printing:
            print(line, flush=True)
        self._answer(b"", "text/plain")

    def log_message(self, *_: object) -> None:
        """What the browser asked for is of no interest."""


def command(name: str, program: str, directory: Path, url: str) -> list[str]:
    """The command that shows a page."""
    profile = directory / "profile"
    profile.mkdir()
    if name == "chromium":
        return [program, *CHROMIUM, f"--user-data-dir={profile}", url]
    (profile / "user.js").write_text(FIREFOX)
    return [program, "--headless", "--no-remote", "--profile", str(profile), url]


def main() -> None:
    """Run the browser until the commands end."""
    name, program, directory = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    argv = command(name, program, Path(directory), f"http://127.0.0.1:{server.server_port}/")
    browser = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        for line in sys.stdin:
            commands.put(line)
    finally:
        browser.terminate()
        browser.wait()


if __name__ == "__main__":
    main()
