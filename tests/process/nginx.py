"""A web server of the system, for tests of the whole tunnel."""

from __future__ import annotations

from pathlib import Path

from tests.needs import has_ipv6
from tests.ports import free_port
from tests.process.harness import Process, Twistds, need, wait_until_open
from tests.process.services import LOOPBACK

#: What templates of nginx.conf begin with: one process, whose log is its output.
NGINX_PROCESS = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 2048; }}
"""
#: Where nginx keeps what it does not keep in memory; for the block ``http``.
NGINX_FOLDERS = """
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
"""
NGINX_CONF = (
    NGINX_PROCESS
    + """
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ text/html html; }}
"""
    + NGINX_FOLDERS
    + """    server {{
        {listen}
        root {site};
    }}
}}
"""
)


class Nginx:
    """A web server of the system: one process, in a directory of its own, for the files of ``site``.

    :ivar port: where it listens on 127.0.0.1.
    :ivar socket: its UNIX socket.
    :ivar port6: where it listens on ::1; 0 where this machine has no such address.
    """

    def __init__(self, twistd: Twistds, directory: Path) -> None:
        program = need("nginx")
        self.site = directory / "site"
        self.site.mkdir(parents=True)
        self.port = free_port()
        self.socket = directory / "nginx.sock"
        self.port6 = free_port("::1") if has_ipv6() else 0
        listen = f"listen {LOOPBACK}:{self.port}; listen unix:{self.socket};"
        if self.port6:
            listen += f" listen [::1]:{self.port6};"
        conf = directory / "nginx.conf"
        conf.write_text(NGINX_CONF.format(directory=directory, site=self.site, listen=listen))
        self.process: Process = twistd.program(program, "-e", "stderr", "-p", str(directory), "-c", str(conf))
        wait_until_open(self.port)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def put(self, name: str, content: bytes) -> None:
        """Serve a file."""
        (self.site / name).write_bytes(content)
