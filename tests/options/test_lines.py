"""What is said about a wrong value in a file names its line, in the files of all services."""

from __future__ import annotations

import json

import pytest
from twisted.python import usage

from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client, rtunnel_server
from rtunnel.options.plugins.common import PluginOptions
from rtunnel.yaml_file import line_of
from tests.options.conftest import Write

pytestmark = pytest.mark.usefixtures("nothing_from_outside")

CLIENT = "# at home\nserver: 1.2.3.4:7000\ntunnels:\n  - 'tcp:1=1'\n"
HOST = "signal: ws://a.example\nhost:\n  id: a\n"
CHALLENGES = "  - http:a.example/.well-known/acme-challenge=1\n  - https:a.example=1\n"
ENTRY = "  - publish: http:a.example=1\n"


def refused(options: type[PluginOptions], path: str) -> str:
    with pytest.raises(usage.UsageError) as caught:
        options().parseOptions(["--config", path])
    assert str(caught.value).startswith(path), caught.value
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        (rtunnel_server.Options, "# a\n\ndrain: 5\nroute: no\n", "line 4: key 'route': "),
        (rtunnel_server.Options, "tls:\n  enabled: no\n  cert: [x]\n", "line 3: key 'tls.cert': "),
        (rtunnel_server.Options, "tls:\n  enabled: no\n  certt: x\n", "line 3: unknown key 'tls.certt'"),
        (rtunnel_server.Options, "drain: 1\ntls: maybe\n", "line 2: key 'tls.enabled': 'maybe' is neither"),
        (rtc_signal.Options, "signal: ws://a\nserver: [x]\n", "line 2: key 'server': is a list and not a mapping"),
        (rtc_signal.Options, "signal: ws://a\nserver:\n  a-b: 1\n  a_b: 2\n", "line 4: key 'server': keys 'a-b' and"),
        # Two that contradict each other
        (rtunnel_server.Options, "drain: 1\ndead-after: 5\n", "line 2: key 'dead_after': 5 is too low; it must be"),
        (rtunnel_server.Options, "control-listen: :1\npublic-listen: :1\n", "line 2: key 'public_listen': "),
        (rtunnel_server.Options, "drain: 1\nstatus-token: 12345678\n", "line 2: key 'status_token': has no"),
        (rtunnel_server.Options, "drain: 1\ntls:\n  cert: x\n", "line 3: key 'tls.cert': has no effect without TLS"),
        # Lists of entries
        (rtunnel_client.Options, f"{CLIENT}  - ftp:1=1\n", "line 5: key 'tunnels': 'ftp' in 'ftp:1=1' is not a kind"),
        (rtunnel_client.Options, f"{CLIENT}  - local: :1\n    remote-port: x\n", "line 6: key 'tunnels': entry 2: key"),
        (rtunnel_client.Options, f"{CLIENT}  - local: :1\n    remot: x\n", "line 6: key 'tunnels': entry 2: unknown"),
        (rtunnel_client.Options, f"{CLIENT}  - 7\n", "line 5: key 'tunnels': entry 2: is a single value and not"),
        (rtunnel_client.Options, f"{CLIENT}  - name: a\n", "line 5: key 'tunnels': entry 2: has no key 'local'"),
        (rtunnel_client.Options, f"{CLIENT}{ENTRY}    deny: x\n", "line 6: key 'tunnels': entry 2: key 'deny': 'x' is"),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    group: a\n",
            "line 6: key 'tunnels': entry 2: key 'group': needs",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    request-headers:\n      X-A: a\n      TE: b\n",
            "line 8: key 'tunnels': entry 2: key 'request-headers': 'TE' belongs to",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    request-headers:\n      X-A: a\n      X-B: [b]\n",
            "line 8: key 'tunnels': entry 2: key 'request-headers': 'X-B': ",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    health-check: x\n",
            "line 6: key 'tunnels': entry 2: key 'health",
        ),
        (rtunnel_client.Options, f"{CLIENT}{ENTRY}    health-rise: 2\n", "line 6: key 'tunnels': entry 2: key 'health"),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    proxy-protocol: v1\n",
            "line 6: key 'tunnels': entry 2: key 'prox",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    tls: auto\n",
            "line 6: key 'tunnels': entry 2: key 'tls': is for",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}  - publish: https:a.example=1\n    tls:\n      certificate: x\n      private-key: [1]\n",
            "line 8: key 'tunnels': entry 2: key 'tls': key 'private_key': [1] is not text",
        ),
        # Tunnels that cannot be with each other, or with other settings
        (
            rtunnel_client.Options,
            f"{CLIENT}  - tcp:2=1\n  - tcp:1=2\n",
            "line 6: key 'tunnels': two tunnels want remote",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}publish:\n- tcp:2=1\n- tcp:1=2\n",
            "line 7: key 'publish': two tunnels want",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}  - publish: https:a.example=1\n    tls: auto\n",
            "line 5: key 'tunnels': https:a.example with 'tls: auto' needs --acme-email",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}  - publish: https:a.example=1\n    health-check: /x\n",
            "line 5: key 'tunnels': https:a.example: key 'health_check': the service speaks TLS",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}{CHALLENGES}acme-email: a@a.example\nacme-challenge: http-01\n",
            "line 5: key 'tunnels': http:a.example/.well-known/acme-challenge is where the client answers the CA",
        ),
        (rtunnel_client.Options, f"{CLIENT}  - tcp:2=files:/no/such\n", "line 5: key 'tunnels': files:/no/such cannot"),
        (
            rtunnel_client.Options,
            f"{CLIENT}  - udp:1=1\ndata-plane: mux\nvia: http://a.example:1\n",
            "line 6: key 'data_plane': mux leaves UDP tunnels no way",
        ),
        # Files that cannot be used
        (
            rtunnel_server.Options,
            "drain: 1\nclients: /no/such\n",
            "line 2: key 'clients': /no/such: cannot be read: No",
        ),
        (rtunnel_server.Options, "tls:\n  enabled: yes\n  cert: /no/such\n", "line 3: key 'tls.cert': /no/such cannot"),
        (
            rtunnel_server.Options,
            "status-listen: 127.0.0.1:1\nstatus-tls-cert: /no/such\nstatus-tls-key: /no/such.key\n",
            "line 2: key 'status_tls_cert': /no/such cannot be read",
        ),
        (
            rtunnel_client.Options,
            f"{CLIENT}  - https:a.example=1\nacme-email: a@a.example\nacme-ca: /no/such\n",
            "line 7: key 'acme_ca': /no/such cannot be read",
        ),
        (
            rtc_signal.Options,
            "server:\n  tls:\n    cert-file: /no/such\n    key-file: /no/such\n",
            "line 3: key 'server.tls.cert_file': /no/such cannot be read",
        ),
        (
            rtc_host.Options,
            "signal: wss://a.example\nhost:\n  id: a\nca-file: /no/such\n",
            "line 4: key 'ca_file': cannot read /no/such: ",
        ),
        # WebRTC
        (rtc_signal.Options, "signal: ws://a\nserver:\n  addr: x\n", "line 3: key 'server.addr': 'x' has no port"),
        (rtc_signal.Options, "server:\n  auth:\n    valid-tokens:\n      - a b\n", "line 4: key 'server.auth.valid_to"),
        (rtunnel_server.Options, "valid-tokens:\n  - correct-horse\n  - x\n", "line 3: key 'valid_tokens': entry 2 is"),
        (rtunnel_server.Options, "allow-ports:\n  - 80\n  - 9-8\n", "line 3: key 'allow_ports': '9-8' ends before"),
        (
            rtunnel_client.Options,
            f"{CLIENT}{ENTRY}    deny:\n    - 10.0.0.0/8\n    - x\n",
            "line 8: key 'tunnels': entry 2: key",
        ),
        (rtunnel_client.Options, f"{CLIENT}{ENTRY}    auth:\n    - x\n", "line 7: key 'tunnels': entry 2: key 'auth'"),
        (rtc_signal.Options, "server:\n  addr: :1\nserver:\n  addr: x\n", "line 4: key 'server.addr': 'x' has no port"),
        (
            rtc_host.Options,
            f"{HOST}  services:\n    - web=:1\n    - web\n",
            "line 6: key 'host.services': 'web' is not",
        ),
        (
            rtc_host.Options,
            f"{HOST}  services:\n  - name: b c\n    remote: 1\n",
            "line 5: key 'host.services': entry 1",
        ),
        (
            rtc_host.Options,
            f"{HOST}turn:\n  secret: x\n",
            "line 5: key 'turn.secret': has no effect without a server",
        ),
        (
            rtc_client.Options,
            "signal: ws://a\nclient:\n  id: a\n  forwards: [x]\n",
            "line 4: key 'client.forwards': ",
        ),
    ],
)
def test_the_line_of_a_mistake(options: type[PluginOptions], content: str, message: str, config: Write) -> None:
    said = refused(options, config(content))
    assert said.startswith(message), said


def test_json_has_lines_too(config: Write) -> None:
    tunnel = {"name": "/\u00e9\U0001f600", "local": 80, "remote-port": "x"}
    written = {"server": "1.2.3.4:7000", "tunnels": ["tcp:1=1", tunnel]}
    for indent, line in ((None, 1), (2, 8), ("\t", 8)):
        path = config(json.dumps(written, indent=indent), "client.json")
        assert refused(rtunnel_client.Options, path).startswith(
            f"line {line}: key 'tunnels': entry 2: key 'remote_port'"
        )


@pytest.mark.parametrize("content", ["", "a: [", "a: *b", "\x01", "[" * 5000, "- a", "a", "a: 1\n---\nb: 1"])
def test_a_line_that_is_not_known(content: str) -> None:
    assert line_of(content, ("b", 0)) is None
