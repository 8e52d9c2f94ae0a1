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

from benchmarks.parts import HOST, find, free_ports, running, wait_for, wait_for_echo
from benchmarks.ways import Column, Way


@dataclass(frozen=True)
class Job:
    """What a tunnel is to do.

    :ivar tcp: each public port, with the port of the service that it leads to.
    :ivar udp: the same for UDP.
    :ivar server: the IP address on which the server listens for its clients.
    :ivar services: the IP address of the services.
    """

    tcp: dict[int, int]
    udp: dict[int, int]
    server: str = HOST
    services: str = HOST

    @property
    def forwards(self) -> list[tuple[str, int, int]]:
        """``tcp`` or ``udp``, public port and service's port of each."""
        return [(kind, *ports) for kind, each in (("tcp", self.tcp), ("udp", self.udp)) for ports in each.items()]


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


#: Writes the files of a tunnel into a directory, and returns its commands.
Ready = Callable[[Path, Job], Ends]


def tunnel(
    ready: Ready, *, returns: bool = True, udp: bool = True
) -> Callable[[Path, Way], AbstractContextManager[Way]]:
    """Return a function that runs the server and the clients of a tunnel.

    :param returns: whether a client comes back to a server that was restarted.
    :param udp: whether it can carry UDP.
    """

    @contextmanager
    def opened(directory: Path, services: Way) -> Iterator[Way]:
        iperf, web, echo = free_ports(3)
        tcp = {iperf: services.iperf, web: services.web}
        datagrams = {iperf: services.iperf, echo: services.echo} if udp and services.echo else {}
        ends = ready(directory, Job(tcp, datagrams, services.network.server, services.host))
        log = directory / "server.log"
        with ExitStack() as stack:
            programs = [stack.enter_context(running(ends.server, log))]
            wait_for(ends.control[1], log, ends.control[0])
            for number, argv in enumerate(ends.clients):
                log = directory / f"client-{number}.log"
                with services.network.at_client():
                    programs.append(stack.enter_context(running(argv, log)))
            for port in (iperf, web):
                wait_for(port, log)
            if datagrams:
                wait_for_echo(echo, log)
            yield Way(iperf, web, tuple(programs), programs[0] if returns else None, echo if datagrams else None)

    return opened


def rathole(noise: bool) -> Ready:
    """Return what runs rathole over TCP, or with Noise's default pattern, which proves the server's key."""

    def ready(directory: Path, job: Job) -> Ends:
        program, (control,) = find("rathole"), free_ports(1)
        secret = X25519PrivateKey.generate()
        keys = {
            "server": f'local_private_key = "{b64encode(secret.private_bytes_raw()).decode()}"',
            "client": f'remote_public_key = "{b64encode(secret.public_key().public_bytes_raw()).decode()}"',
        }
        for end, own in (("server", "bind_addr"), ("client", "remote_addr")):
            lines = [f"[{end}]", f'{own} = "{job.server}:{control}"', 'default_token = "bench"']
            if noise:
                lines += [f"[{end}.transport]", 'type = "noise"', f"[{end}.transport.noise]", keys[end]]
            for number, (kind, port, to) in enumerate(job.forwards):
                address = f'bind_addr = "{HOST}:{port}"' if end == "server" else f'local_addr = "{job.services}:{to}"'
                lines += [f"[{end}.services.s{number}]", f'type = "{kind}"', address]
            (directory / f"{end}.toml").write_text("\n".join(lines))
        server, client = ([program, f"--{end}", str(directory / f"{end}.toml")] for end in ("server", "client"))
        return Ends(server, [client], (job.server, control))

    return ready


def frp(tls: bool) -> Ready:
    """Return what runs frp without its TLS, or with it, which is its default and proves nobody."""

    def ready(directory: Path, job: Job) -> Ends:
        (control,) = free_ports(1)
        lines = [f'bindAddr = "{job.server}"', f"bindPort = {control}", f'proxyBindAddr = "{HOST}"']
        (directory / "frps.toml").write_text("\n".join(lines))
        lines = [
            f'serverAddr = "{job.server}"',
            f"serverPort = {control}",
            f"transport.tls.enable = {str(tls).lower()}",
        ]
        for kind, port, to in job.forwards:
            lines += ["[[proxies]]", f'name = "{kind}{port}"', f'type = "{kind}"', f'localIP = "{job.services}"']
            lines += [f"localPort = {to}", f"remotePort = {port}"]
        (directory / "frpc.toml").write_text("\n".join(lines))
        server, client = ([find(name), "-c", str(directory / f"{name}.toml")] for name in ("frps", "frpc"))
        return Ends(server, [client], (job.server, control))

    return ready


def bore(directory: Path, job: Job) -> Ends:
    """Return what runs bore, which takes a client for each port, always listens on port 7835, and carries no UDP."""
    program = find("bore")
    host = f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}"
    server = [program, "server", "--bind-addr", host, "--bind-tunnels", HOST]
    clients = [
        [program, "local", str(to), "--local-host", HOST, "--to", host, "--port", str(port)]
        for port, to in job.tcp.items()
    ]
    return Ends(server, clients, (host, 7835))


def wstunnel(scheme: str) -> Ready:
    """Return what runs wstunnel over ``ws``, or over ``wss``, which proves nobody."""

    def ready(directory: Path, job: Job) -> Ends:
        program, (control,) = find("wstunnel"), free_ports(1)
        url = f"{scheme}://{job.server}:{control}"
        reverse = [
            part for kind, port, to in job.forwards for part in ("-R", f"{kind}://{HOST}:{port}:{job.services}:{to}")
        ]
        return Ends([program, "server", url], [[program, "client", *reverse, url]], (job.server, control))

    return ready


def chisel(directory: Path, job: Job) -> Ends:
    """Return what runs chisel, which is SSH inside of HTTP."""
    program, (control,) = find("chisel"), free_ports(1)
    server = [program, "server", "--host", job.server, "--port", str(control), "--reverse"]
    remotes = [f"R:{HOST}:{port}:{job.services}:{to}" for port, to in job.tcp.items()]
    remotes += [f"R:{HOST}:{port}:{job.services}:{to}/udp" for port, to in job.udp.items()]
    return Ends(server, [[program, "client", f"http://{job.server}:{control}", *remotes]], (job.server, control))


RIVALS = tuple(
    Column(key, title, about, opened, is_ours=False)
    for key, title, about, opened in (
        ("rathole", "rathole", "its defaults, no encryption", tunnel(rathole(False))),
        ("rathole-noise", "rathole Noise", "encrypted, the server proved", tunnel(rathole(True))),
        ("frp", "frp", "without TLS", tunnel(frp(False))),
        ("frp-tls", "frp TLS", "its defaults, nobody proved", tunnel(frp(True))),
        ("bore", "bore", "its defaults, no encryption", tunnel(bore, returns=False, udp=False)),
        ("wstunnel", "wstunnel ws", "a WebSocket for each visitor", tunnel(wstunnel("ws"))),
        ("wstunnel-tls", "wstunnel wss", "the same with TLS, nobody proved", tunnel(wstunnel("wss"))),
        ("chisel", "chisel", "SSH inside of HTTP", tunnel(chisel)),
    )
)
