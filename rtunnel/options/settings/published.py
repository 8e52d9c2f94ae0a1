"""What ``--publish`` takes: ``KIND:PORT=LOCAL``, for one port or for a range of them, and ``KIND:NAME=LOCAL``.

    tcp:8080=127.0.0.1:80    tcp:8080=80    tcp:8080=unix:/run/app.sock    tcp:6000-6010=[::1]:6000-6010
    udp:53=127.0.0.1:53      udp:27015-27020=10.0.0.5:27015-27020          tcp:0=:80   (the server's shared port)
    http:app.example.org=127.0.0.1:3000    http:app.example.org/api=3001    https:*.dev.example.org=127.0.0.1:8443

Operators mix this up with other notations, so an error says how the same is written in this one.
"""

from __future__ import annotations

import re

from rtunnel.access.public import NAMED
from rtunnel.addresses import DialAddress
from rtunnel.coercions import shown
from rtunnel.endpoint_strings import MAX_PORT, is_ipv6
from rtunnel.errors import ConfigError
from rtunnel.host_names import host_pattern
from rtunnel.reverse.settings import TunnelSettings

KINDS = ("tcp", "udp", *NAMED)
#: Most ports that all tunnels of a client may have together.
MAX_PORTS = 1000
AT_MOST = f"all tunnels of a client together have at most {MAX_PORTS:,}"

_FORMS = "write tcp:8080=127.0.0.1:80, udp:53=127.0.0.1:53 or https:app.example.org=127.0.0.1:8443"
_EXAMPLES = {"tcp": "8080", "udp": "53"}
#: What a path of ``http:NAME/PATH`` consists of (RFC 3986, section 3.3).
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;@-]|%[0-9A-Fa-f]{2})+)*")
#: The longest path, in characters.
_MOST_PATH = 1000
# A longer text is cut in the error, and not corrected.
_MOST_CORRECTED = 200


def is_published(text: str) -> bool:
    """Return whether *text* is meant as ``KIND:PORT=LOCAL`` and not as ``REMOTE_PORT:LOCAL``."""
    kind = text.strip().partition(":")[0]
    return kind.lower() in KINDS or ("=" in text and not kind.isdigit())


def published(text: str, name: str = "") -> tuple[TunnelSettings, ...]:
    """Read ``KIND:PORT=LOCAL``. A range is a tunnel for each of its ports.

    :param name: the name in the log; the tunnels of a range have their ports behind it, as in ``game-27015``.
    :raises ConfigError: it is wrong; the message says what to write instead.
    """
    text = text.strip()
    try:
        if text.partition(":")[0] in NAMED:
            return (_named(text, name),)
        kind, ports, locals_ = _parts(text)
    except ConfigError as error:
        if len(text) <= _MOST_CORRECTED:
            raise
        raise ConfigError(f"{shown(text)} is not KIND:PORT=LOCAL; {_FORMS}") from error
    return tuple(
        TunnelSettings(port, local, f"{name}-{port}" if name and len(ports) > 1 else name, kind)
        for port, local in zip(ports, locals_, strict=True)
    )


def _named(text: str, name: str) -> TunnelSettings:
    """Read ``http:NAME[/PATH]=LOCAL`` or ``https:NAME=LOCAL``."""
    public, equals, local = text.partition("=")
    kind, _, written = public.partition(":")
    if written.startswith("//"):
        raise ConfigError(f"'{text}' has a URL where a name belongs; write {kind}:{written[2:]}{equals}{local}")
    host, slash, path = written.partition("/")
    host = host.strip()
    if not equals or not local.strip():
        service = "127.0.0.1:3000" if kind == "http" else "127.0.0.1:8443"
        raise ConfigError(f"'{text}' does not say which service; write {public}={service}")
    if port := re.fullmatch("(.*):([0-9]+)", host):
        raise ConfigError(
            f"'{text}' has a port behind the host name, and the server's {kind.upper()} port is the same for all "
            f"names; write {kind}:{port[1]}{slash}{path}={local}"
        )
    if re.fullmatch("[0-9-]+", host):
        raise ConfigError(f"'{text}' has a port where {kind} has a host name; write {kind}:app.example.org={local}")
    try:
        host = host_pattern(host)
    except ConfigError as error:
        raise ConfigError(
            f"{error}={local}".replace("write app.example.org", f"write {kind}:app.example.org")
        ) from None
    if path and kind == "https":
        raise ConfigError(
            f"'{text}' has a path, which the server cannot see under TLS; write https:{host}={local}, or http:"
        )
    path = (slash + path).rstrip("/")
    if not _PATH.fullmatch(path) or len(path) > _MOST_PATH or {".", ".."} & {*path.split("/")}:
        raise ConfigError(f"'{path}' in '{text}' is not a path; write one such as {kind}:{host}/api={local}")
    return TunnelSettings(0, DialAddress.parse(local), name, kind, host, path)


def _parts(text: str) -> tuple[str, range, list[DialAddress]]:
    """Return the kind, the public ports, and as many local addresses."""
    if colon := re.fullmatch("((?:tcp|udp):[0-9-]+):(.*)", text, re.IGNORECASE):
        raise ConfigError(f"'{text}' has a colon where '=' belongs; write {colon[1].lower()}={colon[2]}")
    if tunnel := re.fullmatch("([0-9-]+):(.*)", text):
        raise ConfigError(f"'{text}' has no kind; write tcp:{tunnel[1]}={tunnel[2]}")
    public, equals, local = text.partition("=")
    without_spaces = "".join(public.split()) + equals + local.strip()
    if text != without_spaces:
        raise ConfigError(f"'{text}' has spaces; write {without_spaces}")
    kind, colon_, written = public.partition(":")
    if kind not in KINDS:
        raise _wrong_kind(text, kind, bool(colon_), local)
    ports = _public_ports(text, kind, written, local)
    if not local:
        example = written if ports[0] else "80"
        raise ConfigError(f"'{text}' does not say which service; write {kind}:{written}=127.0.0.1:{example}")
    if several := re.search(",(?:tcp|udp):", local):
        first, second = text[: len(text) - len(local) + several.start()], local[several.start() + 1 :]
        raise ConfigError(f"'{text}' is several in one; give each by itself, {first} and {second}")
    if "-" in written:
        return kind, ports, _local_range(text, kind, ports, local)
    return kind, ports, [_local(text, kind, ports[0], local)]


def _wrong_kind(text: str, kind: str, has_colon: bool, local: str) -> ConfigError:
    if kind.lower() in KINDS:
        return ConfigError(f"'{kind}' in '{text}' is not in lower case; write {kind.lower()}{text[len(kind) :]}")
    if not has_colon and re.fullmatch("[0-9-]+", kind):
        return ConfigError(f"'{text}' has no kind; write tcp:{kind}={local or f'127.0.0.1:{kind}'}")
    if re.match(":[0-9]", text):
        return ConfigError(f"'{text}' has no kind; write tcp{text}")
    if not has_colon:
        return ConfigError(f"{shown(text)} is not KIND:PORT=LOCAL; {_FORMS}")
    return ConfigError(f"'{kind}' in '{text}' is not a kind of tunnel: kinds are {', '.join(KINDS)}; {_FORMS}")


def _public_ports(text: str, kind: str, written: str, local: str) -> range:
    example = f"{kind}:{_EXAMPLES[kind]}={f'127.0.0.1:{_EXAMPLES[kind]}' if '-' in local or not local else local}"
    if not written:
        raise ConfigError(f"'{text}' has no public port; write {example}")
    span = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", written)
    if span is None:
        raise ConfigError(f"'{written}' in '{text}' is not a port, nor a range such as 6000-6010; write {example}")
    ports = _range(text, span[1], span[2] or span[1])
    if not ports[0] and kind == "udp":
        raise ConfigError(
            f"'{text}' asks for port 0, and UDP has no shared port; write a port from 1, such as {example}"
        )
    if not ports[0] and span[2]:
        raise ConfigError(f"'{text}' has port 0, the server's shared port, in a range; write a range from 1 on")
    if len(ports) > MAX_PORTS:
        raise ConfigError(f"'{written}' in '{text}' is {len(ports):,} ports; {AT_MOST}: write a shorter range")
    return ports


def _range(text: str, low: str, high: str) -> range:
    ports = range(int(low), int(high) + 1)
    for port in (int(low), int(high)):
        if port > MAX_PORT:
            raise ConfigError(f"port {port} in '{text}' is out of range; a port is 1 to {MAX_PORT}")
    if not ports:
        raise ConfigError(f"'{low}-{high}' in '{text}' ends before it begins; write {high}-{low}")
    return ports


def _local(text: str, kind: str, port: int, local: str) -> DialAddress:
    """Read the service of one port."""
    try:
        return DialAddress.parse_udp(local) if kind == "udp" else DialAddress.parse(local)
    except ConfigError:
        if span := re.fullmatch("(?:.*:)?([0-9]{1,5})-([0-9]{1,5})", local):
            ports = (port and _span(port, len(_range(text, span[1], span[2])))) or f"{span[1]}-{span[2]}"
            raise ConfigError(
                f"'{text}' has a range of local ports behind one public port; write {kind}:{ports}={local}"
            ) from None
        if " " in local and not local.startswith("unix:"):
            raise ConfigError(f"'{text}' has spaces; write {text.replace(' ', '')}") from None
        raise


def _local_range(text: str, kind: str, ports: range, local: str) -> list[DialAddress]:
    """Read the services of a range of ports."""
    public = _span(ports[0], len(ports))
    found = re.fullmatch("(.*:|)([0-9]{1,5})(?:-([0-9]{1,5}))?", local)
    if found is None:
        raise ConfigError(
            f"'{text}' has a range of public ports, and no range of local ones; "
            f"write {kind}:{public}=127.0.0.1:{public}"
        )
    host, first, last = found.groups()
    if is_ipv6(host[:-1]):
        bracketed = f"[{host[:-1]}]:{local[len(host) :]}"
        raise ConfigError(f"'{local}' in '{text}' has an IPv6 address without brackets; write {bracketed}")
    local_ports = _range(text, first, last or first)
    if len(local_ports) != len(ports):
        as_many = _span(local_ports[0], len(ports)) or public
        raise ConfigError(
            f"'{text}' has {len(ports)} public ports and {len(local_ports)} local; "
            f"write {kind}:{public}={host}{as_many}"
        )
    addresses = [_local(text, kind, 0, f"{host}{port}") for port in local_ports]
    if addresses[0].port != local_ports[0]:
        raise ConfigError(f"'{local}' in '{text}' is not a range of ports; write {kind}:{public}=127.0.0.1:{public}")
    return addresses


def _span(first: int, count: int) -> str:
    """Write a range of *count* ports; empty if there are not so many."""
    return f"{first}-{first + count - 1}" if first + count - 1 <= MAX_PORT else ""
