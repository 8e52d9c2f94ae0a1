"""The command ``rtunnel`` as one would type it."""

from __future__ import annotations

import os
import pty
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtunnel import __version__
from rtunnel.pki import operations
from rtunnel.pki.certificates import Algorithm, algorithm_of, hosts_of
from rtunnel.pki.store import Store
from tests.patience import PATIENCE
from tests.pki.parts import Done, Run, right, tree, wrong
from tests.process.commands import run_to_end
from tests.process.harness import clean_environment

ROOT = Path(__file__).parent.parent.parent
NAMES = ["--name", "t.example.org", "192.0.2.1"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``rtunnel ARGUMENTS`` in a directory of its own, with the directory ``pki`` in it.

    With keywords of :class:`subprocess.Popen` it starts as a user's does, without the imports done.
    """

    def call(*arguments: str, pki_dir: str = "pki", stdin: str = "", **keywords: Any) -> Done:
        environment = {"PYTHONPATH": str(ROOT), "RTUNNEL_PKI_DIR": str(tmp_path / pki_dir), "COLUMNS": "100"}
        if not keywords:
            return run_to_end("rtunnel", *arguments, cwd=tmp_path, env=environment, stdin=stdin.encode())
        return subprocess.run(
            [sys.executable, "-m", "rtunnel", *arguments],
            cwd=tmp_path,
            env=clean_environment(environment),
            **({"stdout": subprocess.PIPE} | keywords),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return call


@pytest.mark.process
def test_from_nothing_to_two_machines(run: Run, tmp_path: Path) -> None:
    printed = right(run("pki", "init", *NAMES))
    assert "rtunnel pki client NAME -o FILE" in printed
    printed = right(run("pki", "client", "laptop", "-o", "laptop.pem"))
    assert "rtunnel pki import laptop.pem" in printed
    assert stat.S_IMODE((tmp_path / "laptop.pem").stat().st_mode) == 0o600
    printed = right(run("pki", "import", "laptop.pem", pki_dir="there"))
    assert "Next: rtunnel client --tls --server t.example.org:7000" in printed
    assert "Now delete laptop.pem." in printed
    there = Store(tmp_path / "there")
    assert there.own_client.load()
    assert there.load_certificate("ca") == Store(tmp_path / "pki").load_certificate("ca")


@pytest.mark.process
def test_through_a_pipe(run: Run, tmp_path: Path) -> None:
    right(run("pki", "init", *NAMES))
    made = run("pki", "client", "laptop", "-o", "-")
    assert made.returncode == 0
    assert made.stdout.startswith("# rtunnel: the client certificate 'laptop'")
    assert made.stdout.endswith("-----END PRIVATE KEY-----\n")
    assert made.stderr.count("\n") == 1
    printed = right(run("pki", "import", "-", pki_dir="there", stdin=made.stdout))
    assert "delete" not in printed
    assert Store(tmp_path / "there").own_client.load()
    assert wrong(run("pki", "import", "-", pki_dir="elsewhere", stdin=made.stdout[:-100])).startswith(
        "rtunnel pki import: the bundle on standard input is damaged"
    )
    assert not (tmp_path / "elsewhere").exists()


def test_a_whole_life(in_process: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "pki")
    right(in_process("pki", "init", *NAMES, "--days", "400", "--ca-days", "1000"))
    assert "rtunnel pki bundle laptop -o laptop.pem" in right(in_process("pki", "client", "laptop"))
    right(in_process("pki", "bundle", "laptop", "-o", "laptop.pem"))
    assert "Nothing expires within 30 days" in right(in_process("pki", "renew"))
    assert "rtunnel pki bundle laptop" in right(in_process("pki", "renew", "laptop"))
    shown = right(in_process("pki", "show"))
    assert "laptop (client, replaced)" in shown
    printed = right(in_process("pki", "renew", "server", "--name", "new.example.org", "--days", "2000"))
    assert "no longer, since the CA expires then; for new.example.org" in printed
    assert hosts_of(store.load_certificate("server")) == ["new.example.org"]
    assert right(in_process("pki", "revoke", "laptop", "--replaced")).count("revoked: ") == 1
    assert right(in_process("pki", "revoke", "laptop")).count("revoked: ") == 1
    assert "nothing to revoke any more" in right(in_process("pki", "revoke", "laptop"))
    shown = right(in_process("pki", "show"))
    assert re.search(r"^laptop \(client, REVOKED on ", shown, re.MULTILINE)
    assert "replaced, REVOKED" not in shown
    assert "replaced, REVOKED" in right(in_process("pki", "show", "--all"))
    assert "revocation list: number 3, 2 revoked" in shown
    assert "the CA, valid until" in right(in_process("pki", "renew", "ca"))
    assert "clients learn of it from a new bundle" in right(in_process("pki", "revoke", "server"))


def test_show(in_process: Run, tmp_path: Path) -> None:
    right(in_process("pki", "init", *NAMES))
    right(in_process("pki", "client", "laptop", "--days", "20", "--algorithm", "ml-dsa-44"))
    shown = right(in_process("pki", "show"))
    laptop = shown[shown.index("laptop (client)") :]
    for pattern in (
        r"file +clients/laptop\.crt",
        r"algorithm +ml-dsa-44",
        r"serial +[0-9a-f]{20,}",
        r"SHA-256 +[0-9a-f]{64}\n",
        r"valid +\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, (19|20) days left",
        r"WARNING: it expires in (19|20) days; run: rtunnel pki renew laptop",
    ):
        assert re.search(pattern, laptop), (pattern, laptop)
    assert re.search(r"names +t\.example\.org, 192\.0\.2\.1", shown)
    assert "client 'laptop', valid until" in right(in_process("pki", "renew"))
    assert "WARNING" not in right(in_process("pki", "show"))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_algorithms(algorithm: Algorithm, in_process: Run, tmp_path: Path) -> None:
    right(in_process("pki", "init", *NAMES, "--algorithm", algorithm))
    right(in_process("pki", "client", "laptop"))
    store = Store(tmp_path / "pki")
    assert {algorithm_of(store.load_certificate(name)) for name in ("ca", "server", "laptop")} == {algorithm}
    assert f"algorithm  {algorithm}" in right(in_process("pki", "show"))


@pytest.mark.parametrize(
    "arguments", [["--name", "a", "b", "c"], ["--name", "a,b", "--name=c"], ["a", "--name", "b", "c"]]
)
def test_names(arguments: list[str], in_process: Run, tmp_path: Path) -> None:
    right(in_process("pki", "init", *arguments))
    assert sorted(hosts_of(Store(tmp_path / "pki").load_certificate("server"))) == ["a", "b", "c"]


@pytest.mark.process
def test_names_are_asked_for_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "rtunnel", "pki", "init", "--dir", "pki"],
        cwd=tmp_path,
        env=clean_environment({"PYTHONPATH": str(ROOT)}),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.write(ours, b"t.example.org 192.0.2.1\n")
        out, err = process.communicate(timeout=PATIENCE)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert b"by which clients reach this server" in err
    assert b"rtunnel pki client NAME -o FILE --dir pki\n" in out
    assert hosts_of(Store(tmp_path / "pki").load_certificate("server")) == ["t.example.org", "192.0.2.1"]


@pytest.mark.process
def test_no_key_on_a_terminal(run: Run, tmp_path: Path) -> None:
    right(run("pki", "init", *NAMES))
    ours, theirs = pty.openpty()
    done = run("pki", "client", "laptop", "-o", "-", stdout=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 1
    assert "a private key does not belong on a terminal" in done.stderr
    assert not (tmp_path / "pki" / "clients").exists()


@pytest.mark.process
def test_a_real_mistake_is_one_line_too(run: Run, tmp_path: Path) -> None:
    assert wrong(run("pki", "init", "--name", "a", "--days", "x")).startswith("rtunnel pki init: --days: 'x'")
    assert tree(tmp_path) == {}


@pytest.mark.process
def test_a_write_that_really_fails(run: Run, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    complaint = wrong(run("pki", "init", *NAMES, preexec_fn=small_files))
    assert re.fullmatch(r"rtunnel pki init: cannot write .*/ca\.crt: file too large", complaint)
    assert tree(tmp_path) == {}
    right(run("pki", "init", *NAMES))
    before = tree(tmp_path)
    wrong(run("pki", "renew", "server", preexec_fn=small_files))
    assert tree(tmp_path) == before


@pytest.mark.process
def test_output_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    right(run("pki", "init", *NAMES))
    with Path("/dev/full").open("w") as full:
        done = run("pki", "show", stdout=full)
    assert (done.returncode, done.stderr) == (1, "rtunnel pki show: cannot write: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = run("pki", "show", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory with a CA that other users may not enter."""
    store = Store(tmp_path / "pki")
    operations.init(store, ["a"])
    store.directory.chmod(0)
    yield store.directory
    store.directory.chmod(0o700)


@pytest.fixture
def unprivileged(in_process: Run, closed: Path) -> Iterator[Run]:
    """Run a command as a user who is not root."""
    if os.geteuid() != 0:
        yield in_process
        return
    os.seteuid(65534)
    yield in_process
    os.seteuid(0)


@pytest.mark.parametrize("arguments", ["show", "client laptop", "renew", "revoke laptop", "init --name a"])
def test_no_permission(arguments: str, unprivileged: Run) -> None:
    assert "permission denied" in wrong(unprivileged("pki", *arguments.split())).lower()


@pytest.mark.process
def test_permissions_without_a_umask(run: Run, tmp_path: Path) -> None:
    def no_umask() -> None:
        os.umask(0)

    right(run("pki", "init", *NAMES, preexec_fn=no_umask))
    right(run("pki", "client", "laptop", "-o", "laptop.pem", preexec_fn=no_umask))
    right(run("pki", "renew", "laptop", preexec_fn=no_umask))
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o022 == 0, path
        if path.is_dir() or path.suffix in (".key", ".pem") or path.name == ".lock":
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.process
def test_two_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "pki")
    operations.init(store, ["a"])
    for name in "abcdef":
        operations.add_client(store, name)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "rtunnel", "pki", "revoke", name, "--dir", str(store.directory)],
            env=clean_environment({"PYTHONPATH": str(ROOT)}),
            stdout=subprocess.DEVNULL,
        )
        for name in "abcdef"
    ]
    assert [process.wait(PATIENCE) for process in processes] == [0] * 6
    revoked = store.load_crl(store.load_certificate("ca"))
    assert revoked is not None
    assert len(revoked) == 6


def test_ctrl_c(in_process: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "init", interrupted)
    done = in_process("pki", "init", *NAMES)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\n")


@pytest.mark.parametrize("words", ["", "pki", "pki init", "pki client", "pki bundle", "pki import", "pki show"])
def test_help(words: str, in_process: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            in_process(*words.split(), flag)
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"Usage: {' '.join(['rtunnel', *words.split()])} ")
        assert all(len(line) <= 100 for line in printed.splitlines())


@pytest.mark.parametrize("words", ["--version", "pki --version", "pki show --version"])
def test_version(words: str, in_process: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        in_process(*words.split())
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"rtunnel {__version__} (Twisted ")


@pytest.mark.process
def test_the_reactor_stays_out_of_it() -> None:
    code = "import sys, rtunnel.options.command; print('twisted.internet.reactor' in sys.modules)"
    environment = clean_environment({"PYTHONPATH": str(ROOT)})
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "False\n"
