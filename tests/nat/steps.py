"""The steps of tests/nat/test_documents.py."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.chrome.test_browser import CHROMIUM
from tests.documents import Printed, block, printed
from tests.nat.machines import ADDRESSES, PAGE, Machines
from tests.process.harness import Twistds, need, poll
from tests.process.pebble import Pebble
from tests.tls.parts import Authority

PUBLIC, PRIVATE, USER = ADDRESSES
PACKAGED = Path(__file__).parent.parent.parent / "rtunnel" / "etc"


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command to its end; the exit code is 0."""

    machine: str
    beginning: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a command that goes on, and wait until it has said something."""

    machine: str
    beginning: str
    says: str


@dataclass(frozen=True, slots=True)
class Export:
    """Run ``export NAME=VALUE`` in the shells of all machines."""

    beginning: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop what runs on all machines."""


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
class Write:
    """Write the file that a document shows."""

    machine: str
    name: str
    document: str
    beginning: str


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


Step = Run | Start | Export | Stop | Fetch | Ask | Carry | Sample | Write | PublicCa | AcmeCa | Curl | Browse | Logged


def command(beginning: str) -> Printed:
    """The printed command that begins like this; of several, the one that is no longer than that."""
    found = {one.text: one for one in printed() if not one.why_not and one.text.startswith(beginning)}
    if beginning in found:
        return found[beginning]
    assert len(found) == 1, f"{len(found)} commands of the documents begin with {beginning!r}: {list(found)}"
    return next(iter(found.values()))


def perform(step: Step, machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    """Do one step."""
    by_name = machines.by_name
    match step:
        case Run(machine, beginning):
            process = by_name[machine].start(command(beginning).text)
            assert process.wait() == 0, process
        case Start(machine, beginning, says):
            by_name[machine].start(command(beginning).text).wait_for(says)
        case Export(beginning):
            name, _, value = command(beginning).text.removeprefix("export ").partition("=")
            for each in by_name.values():
                each.environment[name] = value
        case Stop():
            for each in reversed(by_name.values()):
                each.stop()
        case Fetch(machine, host, port):
            assert by_name[machine].fetch(host, port) == PAGE
        case Ask(machine, port, host):
            assert by_name[machine].ask(host, port) == b"answer to ask"
        case Carry(name, machine, other):
            shutil.copy(by_name[machine].home / name, by_name[other].home / name)
        case Sample(machine, name):
            shutil.copy(PACKAGED / name, by_name[machine].home / name)
        case Write(machine, name, document, beginning):
            (by_name[machine].home / name).write_text(block(document, beginning))
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
            options = f"--silent --show-error --cacert acme.pem --output page --write-out {shlex.quote(about)}"
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
            log = by_name[machine].home / name
            poll(lambda: log.exists() and text in log.read_text(), 60, f"{text} in {log}")


def start_acme_ca(machines: Machines, twistd: Twistds, tmp_path: Path) -> None:
    """Start Pebble on the private machine, whose environment names it: the commands do not."""
    with machines.by_name[PRIVATE].network.inside():
        pebble = Pebble(twistd, tmp_path / "pebble", 443, address=ADDRESSES[PUBLIC])
        pebble.start()
        root = pebble.root()
    machines.by_name[PRIVATE].environment |= {
        "RTUNNEL_ACME_SERVER": pebble.directory,
        "RTUNNEL_ACME_CA": str(pebble.ca),
    }
    home = machines.by_name[USER].home
    (home / "acme.pem").write_text(root)
    # Chromium's own store of the user's CAs.
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "acme", "-i", str(home / "acme.pem")]):
        assert twistd.program(need("certutil"), "-d", f"sql:{database}", *arguments).wait() == 0
