"""The columns of other reverse tunnels, where they are installed: on the PATH, or in the folder of BENCH_RIVALS.

Each has its defaults, but for what encrypts: where that is a choice, there is a column for each.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import randrange

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.parts import find, free_ports, running, wait_for
from benchmarks.ways import Column, Way

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ends:
    """The commands of one tunnel.

    :ivar server: the command of the server.
    :ivar clients: the commands of its clients.
    :ivar control: where the server listens for the clients.
    """

    server: Sequence[str]
    clients: Sequence[Sequence[str]]
    control: tuple[str, int]


#: Writes the files of a tunnel into a directory, and returns its commands. It is given each public port, with the port
#: of the service that it leads to.
Ready = Callable[[Path, dict[int, int]], Ends]


def tunnel(ready: Ready, *, returns: bool = True) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs the server and the clients of a tunnel.

    :param returns: whether a client comes back to a server that was restarted.
    """

    @contextmanager
    def opened(directory: Path, services: Way) -> Iterator[Way]:
        iperf, web = free_ports(2)
        ends = ready(directory, {iperf: services.iperf, web: services.web})
        log = directory / "server.log"
        with ExitStack() as stack:
            programs = [stack.enter_context(running(ends.server, log))]
            wait_for(ends.control[1], log, ends.control[0])
            for number, argv in enumerate(ends.clients):
                log = directory / f"client-{number}.log"
                programs.append(stack.enter_context(running(argv, log)))
            for port in (iperf, web):
                wait_for(port, log)
            yield Way(iperf, web, tuple(programs), programs[0] if returns else None)

    return opened


def rathole(noise: bool) -> Ready:
    """Return what runs rathole over TCP, or with Noise's default pattern, which proves the server's key."""

    def ready(directory: Path, ports: dict[int, int]) -> Ends:
        program, (control,) = find("rathole"), free_ports(1)
        secret = X25519PrivateKey.generate()
        keys = {
            "server": f'local_private_key = "{b64encode(secret.private_bytes_raw()).decode()}"',
            "client": f'remote_public_key = "{b64encode(secret.public_key().public_bytes_raw()).decode()}"',
        }
        addresses = {
            "server": ("bind_addr", [f"{HOST}:{port}" for port in ports]),
            "client": ("local_addr", [f"{HOST}:{to}" for to in ports.values()]),
        }
        for end, own in (("server", "bind_addr"), ("client", "remote_addr")):
            lines = [f"[{end}]", f'{own} = "{HOST}:{control}"', 'default_token = "bench"']
            if noise:
                lines += [f"[{end}.transport]", 'type = "noise"', f"[{end}.transport.noise]", keys[end]]
            name, values = addresses[end]
            for number, value in enumerate(values):
                lines += [f"[{end}.services.s{number}]", f'{name} = "{value}"']
            (directory / f"{end}.toml").write_text("\n".join(lines))
        server, client = ([program, f"--{end}", str(directory / f"{end}.toml")] for end in ("server", "client"))
        return Ends(server, [client], (HOST, control))

    return ready


def frp(tls: bool) -> Ready:
    """Return what runs frp without its TLS, or with it, which is its default and proves nobody."""

    def ready(directory: Path, ports: dict[int, int]) -> Ends:
        (control,) = free_ports(1)
        lines = [f'bindAddr = "{HOST}"', f"bindPort = {control}", f'proxyBindAddr = "{HOST}"']
        (directory / "frps.toml").write_text("\n".join(lines))
        lines = [f'serverAddr = "{HOST}"', f"serverPort = {control}", f"transport.tls.enable = {str(tls).lower()}"]
        for port, to in ports.items():
            lines += ["[[proxies]]", f'name = "p{port}"', 'type = "tcp"', f'localIP = "{HOST}"']
            lines += [f"localPort = {to}", f"remotePort = {port}"]
        (directory / "frpc.toml").write_text("\n".join(lines))
        server, client = ([find(name), "-c", str(directory / f"{name}.toml")] for name in ("frps", "frpc"))
        return Ends(server, [client], (HOST, control))

    return ready


def bore(directory: Path, ports: dict[int, int]) -> Ends:
    """Return what runs bore, which takes a client for each port, and always listens on port 7835."""
    program = find("bore")
    host = f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}"
    server = [program, "server", "--bind-addr", host, "--bind-tunnels", HOST]
    clients = [
        [program, "local", str(to), "--local-host", HOST, "--to", host, "--port", str(port)]
        for port, to in ports.items()
    ]
    return Ends(server, clients, (host, 7835))


def wstunnel(scheme: str) -> Ready:
    """Return what runs wstunnel over ``ws``, or over ``wss``, which proves nobody."""

    def ready(directory: Path, ports: dict[int, int]) -> Ends:
        program, (control,) = find("wstunnel"), free_ports(1)
        url = f"{scheme}://{HOST}:{control}"
        reverse = [part for port, to in ports.items() for part in ("-R", f"tcp://{HOST}:{port}:{HOST}:{to}")]
        return Ends([program, "server", url], [[program, "client", *reverse, url]], (HOST, control))

    return ready


def chisel(directory: Path, ports: dict[int, int]) -> Ends:
    """Return what runs chisel, which is SSH inside of HTTP."""
    program, (control,) = find("chisel"), free_ports(1)
    server = [program, "server", "--host", HOST, "--port", str(control), "--reverse"]
    remotes = [f"R:{HOST}:{port}:{HOST}:{to}" for port, to in ports.items()]
    return Ends(server, [[program, "client", f"http://{HOST}:{control}", *remotes]], (HOST, control))


RIVALS = tuple(
    Column(key, title, about, opened, is_ours=False)
    for key, title, about, opened in (
        ("rathole", "rathole", "its defaults, no encryption", tunnel(rathole(False))),
        ("rathole-noise", "rathole Noise", "encrypted, the server proved", tunnel(rathole(True))),
        ("frp", "frp", "without TLS", tunnel(frp(False))),
        ("frp-tls", "frp TLS", "its defaults, nobody proved", tunnel(frp(True))),
        ("bore", "bore", "its defaults, no encryption", tunnel(bore, returns=False)),
        ("wstunnel", "wstunnel ws", "a WebSocket for each visitor", tunnel(wstunnel("ws"))),
        ("wstunnel-tls", "wstunnel wss", "the same with TLS, nobody proved", tunnel(wstunnel("wss"))),
        ("chisel", "chisel", "SSH inside of HTTP", tunnel(chisel)),
    )
)
