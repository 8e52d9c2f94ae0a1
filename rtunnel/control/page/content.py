"""The page as it is in the package: one file that loads nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files


def load() -> tuple[bytes, str]:
    """Return the page, and the Content-Security-Policy that lets nothing but its own script and style run."""
    page = files("rtunnel.control.page").joinpath("status.html").read_bytes()
    script, style = (_hash(page, kind) for kind in (b"script", b"style"))
    return page, (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _hash(page: bytes, kind: bytes) -> str:
    [content] = re.findall(b"<%b>(.*)</%b>" % (kind, kind), page, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content).digest()).decode()}'"
