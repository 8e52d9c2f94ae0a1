"""Several services, several clients, and every place from which settings may come."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistds
from tests.process.services import ANY_PORT, LOOPBACK, Service, Tunnel, fetch, page

Serve = Callable[..., Service]


def control_port(server: Process) -> int:
    return int(server.wait_for(r"control port listening on \S+:(\d+)$")[1])


def shared_port(server: Process) -> int:
    return int(server.wait_for(r"shared public port \S+:(\d+) is closed until")[1])


def three_services(serve: Serve) -> dict[int, Service]:
    """By the public port that each is to have."""
    return {free_port(): serve(GET=page(name)) for name in ("red", "green", "blue")}


def check_services(client: Process, server: Process, services: dict[int, Service]) -> None:
    """Each public port leads to its own service, over one link."""
    for port, service in services.items():
        client.wait_for(rf":{port} is published; the service at {service.address} answers$")
    assert sorted(fetch(port) for port in services) == ["blue", "green", "red"]
    assert len({fetch(port) for port in services}) == len(services)
    server.wait_for(r"client \S+ connected")
    assert len(re.findall(r"client \S+ connected", server.output)) == 1


def test_many_tunnels_over_one_link(twistd: Twistds, serve: Serve) -> None:
    services = three_services(serve)
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", f"--public-interface={LOOPBACK}")
    tunnels = [f"--tunnel={port}:{service.address}" for port, service in services.items()]
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{control_port(server)}", *tunnels)
    check_services(client, server, services)
    assert [fetch(port) for port in services] == ["red", "green", "blue"]


def test_one_service_down_does_not_matter_to_the_others(twistd: Twistds, serve: Serve) -> None:
    service = serve(GET=page("here"))
    down, up = free_port(), free_port()
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", f"--public-interface={LOOPBACK}")
    tunnels = [f"--tunnel={down}:{LOOPBACK}:{free_port()}", f"--tunnel={up}:{service.address}"]
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{control_port(server)}", *tunnels)
    client.wait_for(rf":{down} is published; the service at \S+ does not answer")
    client.wait_for(rf":{up} is published; the service at \S+ answers$")
    for _ in range(3):
        try:
            fetch(down)
        except ConnectionError:
            pass
        else:
            raise AssertionError("a page from a service that is not there")
        assert fetch(up) == "here"
    assert "gone" not in server.output


def test_shared_port_of_two_clients(twistd: Twistds, serve: Serve) -> None:
    """Visitors are given out in turn; without one of the clients, the other serves them all."""
    public = f"--public-listen={ANY_PORT}"
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", public, "--route=round-robin")
    control, shared = control_port(server), shared_port(server)
    clients = {}
    for name in ("red", "green"):
        service = serve(GET=page(name))
        clients[name] = twistd("rtunnel-client", f"--server={LOOPBACK}:{control}", f"--local={service.address}")
        clients[name].wait_for(rf"{LOOPBACK}:{shared} is published; the service at {service.address} answers$")
    assert Counter(fetch(shared) for _ in range(10)) == {"red": 5, "green": 5}
    assert clients["red"].terminate() == 0
    server.wait_for(r"client \S+ gone")
    assert Counter(fetch(shared) for _ in range(4)) == {"green": 4}


def test_visitor_of_a_shared_port_without_clients_is_closed_at_once(twistd: Twistds) -> None:
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", f"--public-listen={ANY_PORT}")
    try:
        fetch(shared_port(server), timeout=PATIENCE)
    except ConnectionError:
        pass
    else:
        raise AssertionError("a page from nowhere")
    assert server.running


def test_yaml_file(twistd: Twistds, serve: Serve) -> None:
    services = three_services(serve)
    (twistd.directory / "server.yaml").write_text(
        f"control_listen: {LOOPBACK}:0\npublic-interface: {LOOPBACK}\nallow_ports: {','.join(map(str, services))}\n"
    )
    server = twistd("rtunnel-server", "--config=server.yaml")
    entries = "".join(
        f"  - name: service {port}\n    local: {service.address}\n    remote_port: {port}\n"
        for port, service in services.items()
    )
    (twistd.directory / "client.yaml").write_text(f"server: {LOOPBACK}:{control_port(server)}\ntunnels:\n{entries}")
    client = twistd("rtunnel-client", "--config=client.yaml")
    check_services(client, server, services)


def test_json_files_of_the_reference(twistd: Twistds, serve: Serve) -> None:
    service = serve(GET=page("here"))
    (twistd.directory / "server.json").write_text(
        json.dumps(
            {
                "control_listen": f"{LOOPBACK}:0",
                "public_listen": f"{LOOPBACK}:0",
                "tls": {"enabled": False, "cert": "server.crt", "key": "server.key", "ca": "ca.crt"},
            }
        )
    )
    server = twistd("rtunnel-server", "--config=server.json")
    (twistd.directory / "client.json").write_text(
        json.dumps(
            {
                "server": f"{LOOPBACK}:{control_port(server)}",
                "local": service.address,
                "remote_port": 0,
                "tls": {"enabled": False, "cert": "", "key": "", "ca": "", "server_name": ""},
            }
        )
    )
    client = twistd("rtunnel-client", "--config=client.json")
    client.wait_for(rf":{shared_port(server)} is published; the service at {service.address} answers$")
    assert fetch(shared_port(server)) == "here"


def test_environment(twistd: Twistds, serve: Serve) -> None:
    services = three_services(serve)
    settings = {
        "RTUNNEL_CONTROL_LISTEN": ANY_PORT,
        "RTUNNEL_PUBLIC_INTERFACE": LOOPBACK,
        "RTUNNEL_ALLOW_PORTS": ",".join(map(str, services)),
    }
    server = twistd("rtunnel-server", env=settings)
    tunnels = ",".join(f"{port}:{service.address}" for port, service in services.items())
    settings = {"RTUNNEL_SERVER": f"{LOOPBACK}:{control_port(server)}", "RTUNNEL_TUNNEL": tunnels}
    client = twistd("rtunnel-client", env=settings)
    check_services(client, server, services)


def test_port_that_is_not_allowed(twistd: Twistds, serve: Serve) -> None:
    """The client is told which are, and the tunnels that may be are served."""
    service = serve(GET=page("here"))
    allowed, other = free_port(), free_port()
    options = [f"--public-interface={LOOPBACK}", f"--allow-ports={allowed}"]
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", *options)
    tunnels = [f"--tunnel={port}:{service.address}" for port in (other, allowed)]
    client = twistd("rtunnel-client", f"--server={LOOPBACK}:{control_port(server)}", *tunnels)
    client.wait_for(rf"port {other} refused by the server: port-not-allowed: .*{allowed}")
    client.wait_for(rf":{allowed} is published; the service at {service.address} answers$")
    assert fetch(allowed) == "here"


def test_same_service_at_another_address(twistd: Twistds, serve: Serve) -> None:
    """The IPv6 wildcard takes visitors of both families."""
    service = serve(GET=page("here"))
    port = free_port()
    server = twistd("rtunnel-server", f"--control-listen={ANY_PORT}", "--public-interface=::")
    address = f"--server={LOOPBACK}:{control_port(server)}"
    client = twistd("rtunnel-client", address, f"--local={service.address}", f"--remote-port={port}")
    client.wait_for(rf":{port} is published; the service at {service.address} answers$")
    assert fetch(port) == "here"


def test_two_servers_side_by_side(twistd: Twistds, serve: Serve) -> None:
    """Nothing of one process is in the way of another on the same machine."""
    tunnels = [Tunnel(twistd, serve(GET=page(name)).address) for name in ("red", "green")]
    assert [fetch(tunnel.public) for tunnel in tunnels] == ["red", "green"]
