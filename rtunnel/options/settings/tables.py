"""``python -m rtunnel.options.settings.tables``: rewrite the tables of options in docs/configuration.rst.

Each table follows a comment ``.. options: NAME`` in the document. The tests check that the tables match the
declarations.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from rtunnel.options.settings import acme, reverse, rtc, tls
from rtunnel.options.settings.declaration import Setting

DOCUMENT = "docs/configuration.rst"

OPTIONS = {
    "rtunnel-server": reverse.SERVER_OWN,
    "rtunnel-client": reverse.CLIENT_OWN,
    "ACME": acme.ACME,
    "rtunnel-server and rtunnel-client": reverse.BOTH,
    "TLS": tls.TLS,
    "TLS of rtunnel-server": tls.TLS_SERVER,
    "TLS of rtunnel-client": tls.TLS_CLIENT,
    "rtc-signal": rtc.SIGNAL_OWN,
    "rtc-host": rtc.HOST_OWN,
    "rtc-client": rtc.CLIENT_OWN,
    "rtc-host and rtc-client": rtc.ENDS,
}


def _default(setting: Setting) -> str:
    if setting.is_switch:
        return "no"
    return f"``{setting.shown_default}``" if setting.shown_default else setting.no_default


def _options(settings: Iterable[Setting]) -> str:
    return _table(
        ("Flag", "Variable", "Key", "Default", "Values", "Reload"),
        [
            (
                f"``--{setting.name}``",
                f"``{setting.variable}``",
                f"``{setting.key}``",
                _default(setting),
                setting.kind.values,
                setting.reload.value,
            )
            for setting in settings
        ],
    )


def _reference_variables() -> str:
    plugins = {"rtc-signal": rtc.SIGNAL, "rtc-host": rtc.HOST, "rtc-client": rtc.CLIENT}
    return _table(
        ("Variable", "Flag", "Plugins"),
        [
            (
                f"``{setting.reference_variable}``",
                f"``--{setting.name}``",
                ", ".join(name for name, declared in plugins.items() if setting in declared),
            )
            for setting in chain(rtc.ENDS, rtc.SIGNAL_OWN, rtc.HOST_OWN, rtc.CLIENT_OWN)
            if setting.in_reference
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["=" * width for width in widths]
    lines = [rule, head, rule, *rows, rule]
    return "".join(
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


TABLES = {name: _options(settings) for name, settings in OPTIONS.items()}
TABLES["variables of the reference program"] = _reference_variables()


def with_tables(document: str) -> str:
    """Return the text of a document with all its tables rebuilt.

    :raises KeyError: it has a table that does not exist.
    """
    return re.sub(
        r"^(\.\. options: (.+)\n\n)(?:.+\n)*", lambda found: found[1] + TABLES[found[2]], document, flags=re.MULTILINE
    )


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else DOCUMENT)
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
