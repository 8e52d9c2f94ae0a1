"""The names in certificates: servers' names, which clients check, and clients' names, which give them their rights.

A client's name is also that of its files, so it has only letters, digits and a few other characters: never a path.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from rtunnel.endpoint_strings import MAX_NAME, ascii_name, is_ipv4, is_ipv6
from rtunnel.errors import PkiError

#: The names of the CA and the server in commands that take a client's name too.
CA = "ca"
SERVER = "server"

#: Most characters of a common name (RFC 5280, appendix A.1).
MAX_COMMON_NAME = 64

_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def client_name(text: str) -> str:
    """Return *text* if it is a valid name for a client.

    :raises PkiError: it cannot.
    """
    if text in (CA, SERVER):
        raise PkiError(
            f"'{text}' means the {'CA' if text == CA else 'server'} itself; choose another name for a client"
        )
    if not _CLIENT.fullmatch(text):
        raise PkiError(
            f"'{shown(text)}' cannot name a client; use letters and digits, after the first also . _ @ + and -"
        )
    if len(text) > MAX_COMMON_NAME:
        raise PkiError(f"'{text[:20]}...' is too long for a name, which has {MAX_COMMON_NAME} characters at most")
    return text


def host(text: str) -> str:
    """Return a DNS name or an IP address in the form that certificates have.

    :raises PkiError: it is neither.
    """
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    if is_ipv4(bare) or is_ipv6(bare):
        if "%" in bare:
            raise PkiError(f"'{text}' has a zone, which no certificate can hold; write {bare.partition('%')[0]}")
        return str(ipaddress.ip_address(bare))
    if not bare:
        raise PkiError("an empty name; write a DNS name such as tunnel.example.org, or an IP address")
    if "://" in bare:
        raise PkiError(f"'{shown(text)}' is a URL; write only the name of its host")
    if re.fullmatch(r"[^:]+:[0-9]+|\[.*\]:[0-9]+", bare):
        raise PkiError(f"'{shown(text)}' has a port; write only {shown(bare.rpartition(':')[0].strip('[]'))}")
    if "*" in bare:
        raise PkiError(f"'{shown(text)}' is a pattern; write every name by which clients reach the server")
    try:
        name = ascii_name(bare).removesuffix(".").lower()
    except ValueError:
        name = ""
    labels = name.split(".")
    # Some programs take a name that ends in digits for an IPv4 address, and some do not.
    if len(name) > MAX_NAME or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise PkiError(f"'{shown(text)}' is neither a DNS name nor an IP address")
    return name


def hosts(texts: Iterable[str]) -> list[str]:
    """Return DNS names and IP addresses in their order, each once. Commas or spaces may separate them in each text.

    :raises PkiError: there is none, or one is wrong.
    """
    found = [host(part) for text in texts for part in re.split(r"[,\s]+", text.strip())]
    if not found:
        raise PkiError("a server needs a name; give the DNS names and IP addresses by which clients reach it")
    return list(dict.fromkeys(found))


def shown(text: str) -> str:
    """Return *text* cut to 80 characters and without control characters, safe to print on a terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[:80])
