"""What ``--publish`` takes: ``KIND:PORT=LOCAL``, for one port or for a range of them, and ``KIND:NAME=LOCAL``.

    tcp:8080=127.0.0.1:80    tcp:8080=80    tcp:8080=unix:/run/app.sock    tcp:6000-6010=[::1]:6000-6010
    udp:53=127.0.0.1:53      udp:27015-27020=10.0.0.5:27015-27020          tcp:0=:80   (the server's shared port)
    http:app.example.org=127.0.0.1:3000    http:app.example.org/api=3001    https:*.dev.example.org=127.0.0.1:8443
    tcp:8080=files:/srv/share    http:files.example.org=files:/srv/share

Operators mix this up with other notations, so an error says how the same is written in this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from rtunnel.access.public import NAMED
from rtunnel.addresses import FILES, DialAddress
from rtunnel.coercions import service_address, shown
from rtunnel.endpoint_strings import MAX_PORT, is_ipv6
from rtunnel.errors import ConfigError
from rtunnel.host_names import canonical_path, host_pattern, is_host_pattern
from rtunnel.options.settings.entries import written_at
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.files.tree import check_directory

KINDS = ("tcp", "udp", *NAMED)
#: Most ports that all tunnels of a client may have together.
MAX_PORTS = 1000
AT_MOST = f"all tunnels of a client together have at most {MAX_PORTS:,}"

_FORMS = "write tcp:8080=127.0.0.1:80, udp:53=127.0.0.1:53 or https:app.example.org=127.0.0.1:8443"
_EXAMPLES = {"tcp": "8080", "udp": "53"}
_SERVICES = {"http": "127.0.0.1:3000", "https": "127.0.0.1:8443"}
# What a path has besides letters, digits and "-._~", which quote() keeps (RFC 3986, section 3.3); no "=".
_PATH_CHARACTERS = "/%!$&'()*+,;@"
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
        kind, written, local = _split(text)
        if kind in NAMED:
            return (_named(text, kind, written, local, name),)
        ports, locals_ = _ports(text, kind, written, local)
    except ConfigError as error:
        if len(text) <= _MOST_CORRECTED:
            raise
        raise ConfigError(f"{shown(text)} is not KIND:PORT=LOCAL; {_FORMS}") from error
    return tuple(
        TunnelSettings(port, address, f"{name}-{port}" if name and len(ports) > 1 else name, kind)
        for port, address in zip(ports, locals_, strict=True)
    )


def check_files(tunnels: Sequence[TunnelSettings]) -> None:
    """Check the directories that are to be served.

    :raises ConfigError: this process may not read one; or visitors would not reach it by HTTP.
    """
    for tunnel in tunnels:
        with written_at(*tunnel.origin):
            _check_files(tunnel)


def _check_files(tunnel: TunnelSettings) -> None:
    directory = tunnel.local.directory
    if directory is None:
        return
    if tunnel.protocol == "https" and not tunnel.ends_tls:
        raise ConfigError(
            f"https:{tunnel.host}: {tunnel.local} has no TLS of its own; end it here, with --acme-email or the key "
            f"'tls', or publish http:{tunnel.host}={tunnel.local}"
        )
    if tunnel.proxy_protocol:
        raise ConfigError(f"{tunnel.local} reads no PROXY header; leave out the key 'proxy_protocol'")
    check_directory(directory)


def _split(text: str) -> tuple[str, str, str]:
    """Return the kind, what is public, and the service."""
    if colon := re.fullmatch("((?:tcp|udp):[0-9-]+):(.*)", text, re.IGNORECASE):
        raise ConfigError(f"'{text}' has a colon where '=' belongs; write {colon[1].lower()}={colon[2]}")
    if tunnel := re.fullmatch("([0-9-]+):(.*)", text):
        raise ConfigError(f"'{text}' has no kind; write tcp:{tunnel[1]}={tunnel[2]}")
    public, equals, local = text.partition("=")
    head, slash, path = public.partition("/")
    without_spaces = "".join(head.split()) + slash + path.strip() + equals + local.strip()
    if text != without_spaces:
        raise ConfigError(f"'{text}' has spaces; write {without_spaces}")
    kind, colon_, written = public.partition(":")
    if kind not in KINDS:
        raise _wrong_kind(text, kind, bool(colon_), local)
    if several := re.search(f",(?:{'|'.join(KINDS)}):", local):
        first, second = text[: len(text) - len(local) + several.start()], local[several.start() + 1 :]
        raise ConfigError(f"'{text}' is several in one; give each by itself, {first} and {second}")
    return kind, written, local


def _named(text: str, kind: str, written: str, local: str, name: str) -> TunnelSettings:
    """Read the rest of ``http:NAME[/PATH]=LOCAL`` or ``https:NAME=LOCAL``."""
    is_url = re.match("(?:https?:)?//", written)
    if not local:
        written, colon, local = written.partition(":") if not is_url else (written, "", "")
        if colon and local:
            raise ConfigError(f"'{text}' has a colon where '=' belongs; write {kind}:{written}={local}")
        local = _SERVICES[kind]
        wrong = "does not say which service"
    elif is_url:
        wrong = "has a URL where a host name belongs"
    else:
        wrong = ""
    host, slash, path = written[is_url.end() if is_url else 0 :].partition("/")
    if re.fullmatch("[0-9-]*", host):
        what = f"a port where {kind} has a host name" if host else "no host name"
        raise ConfigError(f"'{text}' has {what}; write {kind}:app.example.org={local}")
    if port := re.fullmatch(r"([^:\[\]]+):[0-9]*", host):
        host = port[1]
        wrong = wrong or f"has a port behind the host name, and --{kind}-listen says it for all names"
    try:
        host = host_pattern(host)
    except ConfigError as error:
        reason = str(error).partition("; ")[0]
        raise ConfigError(
            f"{reason}; write {kind}:app.example.org={local} or {kind}:*.dev.example.org={local}"
        ) from None
    path = (slash + path).rstrip("/")
    if path and kind == "https":
        path = ""
        wrong = wrong or "has a path, which the server does not see in https:"
    good = _good_path(path)
    if canonical_path(path) != good or len(good) > _MOST_PATH:
        wrong = wrong or f"has a path that is not one, '{path}'"
    if wrong:
        raise ConfigError(f"'{text}' {wrong}; write {kind}:{host}{good}={local}")
    return TunnelSettings(0, service_address(local), name, kind, host, good)


def _good_path(path: str) -> str:
    """Return a path as requests have it: without query, dot segments and empty ones, and all else percent-encoded."""
    path = re.sub("%(?![0-9A-Fa-f]{2})", "%25", re.split("[?#]", path)[0])
    return canonical_path(quote(path, _PATH_CHARACTERS)).rstrip("/")


def _ports(text: str, kind: str, written: str, local: str) -> tuple[range, list[DialAddress]]:
    """Return the public ports, and as many local addresses."""
    ports = _public_ports(text, kind, written, local)
    if not local:
        example = written if ports[0] else "80"
        raise ConfigError(f"'{text}' does not say which service; write {kind}:{written}=127.0.0.1:{example}")
    if "-" in written:
        return ports, _local_range(text, kind, ports, local)
    return ports, [_local(text, kind, ports[0], local)]


def _wrong_kind(text: str, kind: str, has_colon: bool, local: str) -> ConfigError:
    if kind.lower() in KINDS:
        return ConfigError(f"'{kind}' in '{text}' is not in lower case; write {kind.lower()}{text[len(kind) :]}")
    if not has_colon and re.fullmatch("[0-9-]+", kind):
        return ConfigError(f"'{text}' has no kind; write tcp:{kind}={local or f'127.0.0.1:{kind}'}")
    if re.match(":[0-9]", text):
        return ConfigError(f"'{text}' has no kind; write tcp{text}")
    if not has_colon and "." in kind and is_host_pattern(kind):
        return ConfigError(f"'{text}' has no kind; write http:{kind}={local or _SERVICES['http']}")
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
        return DialAddress.parse_udp(local) if kind == "udp" else service_address(local)
    except ConfigError:
        if span := re.fullmatch("(?:.*:)?([0-9]{1,5})-([0-9]{1,5})", local):
            ports = (port and _span(port, len(_range(text, span[1], span[2])))) or f"{span[1]}-{span[2]}"
            raise ConfigError(
                f"'{text}' has a range of local ports behind one public port; write {kind}:{ports}={local}"
            ) from None
        if " " in local and not local.startswith(("unix:", FILES)):
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
