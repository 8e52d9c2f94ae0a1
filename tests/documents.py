"""The commands that the documents print, for the tests that run them.

A block that no test runs has a comment before it, with the reason::

    .. not run: it needs a package index

``python -m tests.documents`` prints these blocks with their reasons, which CI does.

Files are printed as code blocks with a caption, whose first word is the name of the file::

    .. code-block:: yaml
       :caption: client.yaml, on the private machine
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.rst", ROOT / "README.zh-CN.rst", *sorted((ROOT / "docs").glob("*.rst"))]

COMMENT = ".. not run: "
PROGRAMS = ["curl", "export", "kill", "make", "mkdir", "openssl", "python3", "rtunnel", "ssh", "sudo", "systemctl"]
PROGRAMS += ["turnserver", "twistd", ".ci/run", "/opt/rtunnel/bin/rtunnel"]
PROGRAMS += ["cube2-server", "dig", "fail2ban-client", "ip", "nginx", "quakestat", "redis-cli", "redis-server"]
PROGRAMS += ["unbound", "wrk"]
_COMMAND = re.compile(rf"(?:[A-Z_]+=\S* )*(?:{'|'.join(map(re.escape, PROGRAMS))})(?![\w-]|: |.*-n: )")


@dataclass(frozen=True, slots=True)
class Printed:
    """One command, as it is printed; lines that end with a backslash are joined to the next by it.

    :ivar why_not: why no test runs it; empty if one must.
    """

    document: str
    text: str
    why_not: str


_FILE = re.compile(r"^\.\. code-block:: .+\n   :caption: ([^\s,]+).*\n\n((?:   .*\n|\n)+)", re.MULTILINE)


@functools.cache
def files() -> dict[str, str]:
    """What the documents print as files, by their names."""
    found = [match for path in DOCUMENTS for match in _FILE.finditer(path.read_text())]
    named = {match[1]: textwrap.dedent(match[2]).strip() + "\n" for match in found}
    assert len(named) == len(found), "two files of the documents have the same name"
    return named


@functools.cache
def printed() -> tuple[Printed, ...]:
    """All commands of all documents."""
    return tuple(command for path in DOCUMENTS for command in commands_of(path.name, path.read_text()))


def commands_of(document: str, content: str) -> list[Printed]:
    """The commands of a document."""
    found = []
    for why_not, block in _blocks(content.splitlines()):
        lines = [line for line in re.split(r"(?<!\\)\n", block) if line.strip() and not line.startswith("#")]
        if lines and _COMMAND.match(lines[0]):
            found += [Printed(document, line, why_not) for line in lines]
    return found


def block(document: str, beginning: str) -> str:
    """The literal block of a document that begins like this, such as a file of settings."""
    content = (ROOT / "docs" / document).read_text()
    (found,) = (text for _, text in _blocks(content.splitlines()) if text.startswith(beginning))
    return found + "\n"


def _blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each literal block, and the reason of the comment before it."""
    why_not = ""
    while lines:
        line = lines.pop(0)
        if line.startswith(COMMENT):
            why_not = line.removeprefix(COMMENT)
        if not line.endswith("::") or line.startswith(".. "):
            continue
        while lines and not lines[0].strip():
            lines.pop(0)
        depth = len(lines[0]) - len(lines[0].lstrip())
        block = []
        while lines and (not lines[0].strip() or lines[0].startswith(" " * depth)):
            block.append(lines.pop(0)[depth:])
        yield why_not, "\n".join(block).strip()
        why_not = ""


def main() -> None:
    """Print what no test runs."""
    for command in printed():
        if command.why_not:
            print(f"{command.document}: {command.text}\n    not run: {command.why_not}")


if __name__ == "__main__":
    main()
