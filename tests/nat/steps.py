"""The steps of tests/nat/test_documents.py and tests/nat/test_recipes.py."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.chrome.test_browser import CHROMIUM
from tests.documents import Printed, block, files, printed
from tests.nat.machines import ADDRESSES, PAGE, Machine, Machines
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, poll
from tests.process.pebble import Pebble
from tests.tls.parts import Authority

PUBLIC, PRIVATE, USER, SECOND = ADDRESSES
PACKAGED = Path(__file__).parent.parent.parent / "rtunnel" / "etc"


CODE = r"\d+-[a-z]+-[a-z]+"
"""The code of an invitation."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command to its end; the exit code is 0."""

    machine: str
    beginning: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a command that goes on, and wait until it has said something."""

    machine: str
    beginning: str
    says: str


@dataclass(frozen=True, slots=True)
class Redeem:
    """The same, with the code that the private machine shows in place of the printed one."""

    machine: str
    beginning: str
    says: str


@dataclass(frozen=True, slots=True)
class Export:
    """Run ``export NAME=VALUE`` in the shells of all machines."""

    beginning: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop what runs on all machines, or on one."""

    machine: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the page from somewhere."""

    machine: str
    host: str
    port: int = 8080


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a UDP service."""

    machine: str
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Carry:
    """Carry a file from one machine to another."""

    name: str
    machine: str
    other: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Take a sample of the settings as a file of one's own."""

    machine: str
    name: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Skip the test where one of these programs is not installed."""

    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write a file as it is printed."""

    machine: str
    name: str


@dataclass(frozen=True, slots=True)
class WriteBlock:
    """Write the file that a document shows, in the block with this beginning."""

    machine: str
    name: str
    document: str
    beginning: str


@dataclass(frozen=True, slots=True)
class Own:
    """Give a machine a folder of its own in the place of one of the system's: a copy, or one with these folders."""

    machine: str
    folder: str
    inside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shell:
    """Run a command that is not printed to its end; the exit code is 0."""

    machine: str
    line: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Until:
    """Run a command that is not printed, again and again until it ends well and says this."""

    machine: str
    line: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Serve:
    """Start a command that is not printed and goes on, and wait until it has said something."""

    machine: str
    line: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Says:
    """Wait until something that was started on this machine has said this."""

    machine: str
    says: str


@dataclass(frozen=True, slots=True)
class PublicCa:
    """Have a certificate of a public CA, which all machines trust."""


@dataclass(frozen=True, slots=True)
class AcmeCa:
    """Start a CA that gives certificates by ACME. All machines ask it, and trust it."""


@dataclass(frozen=True, slots=True)
class Curl:
    """Have curl print something about a page."""

    machine: str
    url: str
    about: str
    shows: str


@dataclass(frozen=True, slots=True)
class Browse:
    """Open the page in Chromium, by TLS with a post-quantum key exchange."""

    machine: str
    url: str


@dataclass(frozen=True, slots=True)
class Logged:
    """Wait for a line in a file."""

    machine: str
    name: str
    text: str


Step: TypeAlias = (
    Run
    | Start
    | Redeem
    | Export
    | Stop
    | Fetch
    | Ask
    | Carry
    | Sample
    | PublicCa
    | AcmeCa
    | Curl
    | Browse
    | Logged
    | Needs
    | Write
    | WriteBlock
    | Own
    | Shell
    | Until
    | Serve
    | Says
)


def command(beginning: str) -> Printed:
    """The printed command that begins like this; of several, the one that is no longer than that."""
    found = {one.text: one for one in printed() if not one.why_not and one.text.startswith(beginning)}
    if beginning in found:
        return found[beginning]
    assert len(found) == 1, f"{len(found)} commands of the documents begin with {beginning!r}: {list(found)}"
    return next(iter(found.values()))


def named(steps: Iterable[Step]) -> set[str]:
    """The texts of all printed commands that these steps name."""
    return {command(step.beginning).text for step in steps if isinstance(step, Run | Start | Redeem | Export)}


def perform(step: Step, machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    """Do one step."""
    by_name = machines.by_name
    match step:
        case Run(machine, beginning, says):
            process = by_name[machine].start(command(beginning).text)
            assert process.wait() == 0, process
            assert re.search(says, process.output, re.MULTILINE), process
        case Start(machine, beginning, says):
            by_name[machine].start(command(beginning).text).wait_for(says)
        case Redeem(machine, beginning, says):
            code = by_name[PRIVATE].wait_for(rf"rtunnel connect ({CODE}) ")[1]
            line, count = re.subn(CODE, code, command(beginning).text)
            assert count == 1
            by_name[machine].start(line).wait_for(says)
        case Export(beginning):
            name, _, value = command(beginning).text.removeprefix("export ").partition("=")
            for each in by_name.values():
                each.environment[name] = value
        case Stop(machine):
            for each in [by_name[machine]] if machine else reversed(by_name.values()):
                each.stop()
        case Fetch(machine, host, port):
            assert by_name[machine].fetch(host, port) == PAGE
        case Ask(machine, port, host):
            assert by_name[machine].ask(host, port) == b"answer to ask"
        case Carry(name, machine, other):
            shutil.copy(by_name[machine].home / name, by_name[other].home / name)
        case Sample(machine, name):
            shutil.copy(PACKAGED / name, by_name[machine].home / name)
        case Needs(programs):
            for program in programs:
                need(program)
        case Own(machine, folder, inside):
            by_name[machine].own(folder, *inside)
        case Write(machine, name):
            by_name[machine].path(name).write_text(files()[name])
        case WriteBlock(machine, name, document, beginning):
            by_name[machine].path(name).write_text(block(document, beginning))
        case Shell(machine, line, says):
            assert ends_well(by_name[machine], line, says), f"{line!r} that says {says!r}"
        case Until(machine, line, says):
            poll(lambda: ends_well(by_name[machine], line, says), PATIENCE, f"{line!r} that says {says!r}")
        case Serve(machine, line, says):
            by_name[machine].start(line).wait_for(says)
        case Says(machine, says):
            by_name[machine].wait_for(says)
        case PublicCa():
            authority = Authority(tmp_path / "public-ca", kind="RSA")
            holder = authority.server(hosts=["signal.example.org"], kind="RSA")
            shutil.copy(holder.cert, by_name[PUBLIC].home / "fullchain.pem")
            shutil.copy(holder.key, by_name[PUBLIC].home / "privkey.pem")
            for each in by_name.values():
                each.environment["SSL_CERT_FILE"] = str(authority.cert)
        case AcmeCa():
            start_acme_ca(machines, twistd, tmp_path)
        case Curl(machine, url, about, shows):
            options = f"--silent --show-error --output page --write-out {shlex.quote(about)}"
            process = by_name[machine].start(f"curl {options} {url}")
            assert process.wait() == 0, process
            assert process.output == shows
        case Browse(machine, url):
            options = shlex.join([*CHROMIUM, "--user-data-dir=profile", "--log-net-log=net.json", "--dump-dom", url])
            chromium = by_name[machine].start(f"{need('chromium')} {options}")
            chromium.wait_for(PAGE.decode())
            assert chromium.wait() == 0, chromium
            # X25519MLKEM768, as TLS numbers it.
            assert '"key_exchange_group":4588' in (by_name[machine].home / "net.json").read_text()
        case Logged(machine, name, text):
            log = by_name[machine].path(name)
            poll(lambda: log.exists() and text in log.read_text(), 60, f"{text} in {log}")


def ends_well(machine: Machine, line: str, says: str) -> bool:
    """Whether this command ends with exit code 0 and says this."""
    process = machine.start(line)
    return process.wait() == 0 and re.search(says, process.output, re.MULTILINE) is not None


def start_acme_ca(machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    """Start Pebble on the private machine, whose environment names it: the commands do not."""
    with machines.by_name[PRIVATE].network.inside():
        pebble = Pebble(twistd, tmp_path / "pebble", 443, address=ADDRESSES[PUBLIC], by_http=80)
        pebble.start()
        root = pebble.root()
    machines.by_name[PRIVATE].environment |= {
        "RTUNNEL_ACME_SERVER": pebble.directory,
        "RTUNNEL_ACME_CA": str(pebble.ca),
    }
    home = machines.by_name[USER].home
    (home / "acme.pem").write_text(root)
    machines.by_name[USER].environment["CURL_CA_BUNDLE"] = "acme.pem"
    # Chromium's own store of the user's CAs.
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "acme", "-i", str(home / "acme.pem")]):
        assert twistd.program(need("certutil"), "-d", f"sql:{database}", *arguments).wait() == 0
