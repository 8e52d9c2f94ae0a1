"""Commands that are killed: after ``kill -9`` at any moment nothing is lost, and no file is half written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtunnel.pki import operations
from rtunnel.pki.store import Store, parse_certificate, parse_crl, parse_key
from tests.patience import PATIENCE
from tests.pki.parts import HOSTS, crl
from tests.process.harness import clean_environment

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent

DRIVER = """
import os, signal, sys
from pathlib import Path

from rtunnel.pki import operations as pki
from rtunnel.pki.store import Store


def deadly(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    return call


def opens(function, creates):
    # Directories and files that are only read leave nothing behind.
    return lambda path, flags, *rest, **more: (creates if flags & os.O_CREAT else function)(path, flags, *rest, **more)


what, *directories = sys.argv[1:]
for left, directory in enumerate(directories):
    child = os.fork()
    if not child:
        # All that the file system sees of a command.
        os.open = opens(os.open, deadly(os.open))
        for name in ("fsync", "link", "mkdir", "replace", "unlink"):
            setattr(os, name, deadly(getattr(os, name)))
        store = Store(Path(directory))
        if what == "init":
            pki.init(store, ["t.example.org"])
        else:
            pki.renew(store, "laptop", revoke_old=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
MOST = 60


def kill_at_each_step(what: str, directory: Path, template: Path | None) -> Iterator[Store]:
    """Run a command again and again, each time on a copy of a directory and for one step more."""
    copies = [directory / str(step) for step in range(MOST)]
    if template is not None:
        for copy in copies:
            shutil.copytree(template, copy)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, what, *map(str, copies)],
        env=clean_environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    codes = done.stdout.split()
    assert set(codes) == {"-9", "0"}
    assert codes.index("0") > 10
    for copy in copies:
        yield Store(copy)


def found_whole(store: Store) -> set[bytes]:
    """Return the contents of the files, after a check that each is whole."""
    contents = set()
    for path in store.directory.rglob("[!.]*"):
        if path.is_file():
            content = path.read_bytes()
            parse = {".crt": parse_certificate, ".key": parse_key, ".crl": parse_crl}[path.suffix]
            parse(content, path)
            contents.add(content)
    return contents


@pytest.fixture
def template(store: Store) -> Store:
    operations.add_client(store, "laptop")
    return store


def test_renew(template: Store, tmp_path: Path) -> None:
    before = found_whole(template)
    before.remove(template.crl.read_bytes())
    for store in kill_at_each_step("renew", tmp_path, template.directory):
        assert before <= found_whole(store)
        crl(store)
        operations.renew(store, "laptop")
        assert store.pair("laptop").load()
        assert before <= found_whole(store)
        assert not list(store.directory.rglob("*.tmp"))


def test_init(tmp_path: Path) -> None:
    beginnings = 0
    for store in kill_at_each_step("init", tmp_path, None):
        if found_whole(store):
            continue
        operations.init(store, HOSTS)
        assert store.load_ca()
        assert not list(store.directory.rglob("*.tmp"))
        beginnings += 1
    # Only in the last moments, in which the files get their names, there may be some of them.
    assert beginnings > 10


def test_no_key_is_open_for_a_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        stores = list(kill_at_each_step("init", tmp_path, None))
    finally:
        os.umask(before)
    for store in stores:
        for path in store.directory.rglob("*"):
            if ".key" in path.name:
                assert path.stat().st_mode & 0o077 == 0
