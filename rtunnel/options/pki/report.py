"""What ``rtunnel pki show`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rtunnel.pki.certificates import Kind, algorithm_of, crl_number, fingerprint, hosts_of
from rtunnel.pki.inventory import Entry, Inventory

_ROLES = {Kind.CA: "CA", Kind.SERVER: "server", Kind.HOST: "host", Kind.CLIENT: "client"}


def report(directory: Path, inventory: Inventory) -> str:
    """Return the text for an inventory, without a newline at the end."""
    lines = [str(directory)]
    for entry in inventory.entries:
        lines += ["", *_entry(directory, entry)]
    if inventory.crl is not None:
        lines += ["", f"revocation list: number {crl_number(inventory.crl)}, {len(inventory.crl)} revoked"]
    if inventory.problems:
        lines += ["", *(f"WARNING: {problem}" for problem in inventory.problems)]
    return "\n".join(lines)


def _entry(directory: Path, entry: Entry) -> Iterator[str]:
    certificate = entry.certificate
    what = f"{_ROLES[entry.role]}, replaced" if entry.replaced else _ROLES[entry.role]
    if entry.revoked is not None:
        what += f", REVOKED on {entry.revoked:%Y-%m-%d %H:%M} UTC"
    yield f"{entry.name} ({what})"
    algorithm = algorithm_of(certificate)
    end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    rows = {
        "file": entry.path.relative_to(directory),
        "names": ", ".join(hosts_of(certificate)),
        "algorithm": algorithm or "another one",
        "serial": f"{certificate.serial_number:x}",
        "SHA-256": fingerprint(certificate),
        "valid": f"{certificate.not_valid_before_utc:%Y-%m-%d} to {end}, {max(entry.days_left, 0)} days left",
    }
    yield from (f"    {title:<10} {value}" for title, value in rows.items() if value)
    yield from (f"    WARNING: {problem}" for problem in entry.problems)
