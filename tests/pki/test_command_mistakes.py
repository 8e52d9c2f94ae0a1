"""The command ``rtunnel pki``: one line for each mistake, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtunnel.pki import operations
from rtunnel.pki.store import Store
from tests.pki.parts import Run, tree, wrong


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("pki", "rtunnel pki: name a command: init, client, host, bundle, import, show, renew, revoke; see --help"),
        ("pkl", "rtunnel: 'pkl' is not a command; did you mean 'pki'?"),
        ("pki ini", "rtunnel pki: 'ini' is not a command; did you mean 'init'?"),
        ("pki --foo", "rtunnel pki: option --foo not recognized"),
        ("pki init", "rtunnel pki init: the server's name is missing: --name HOST, a DNS name or an IP address"),
        ("pki init --nmae a", "rtunnel pki init: option --nmae not recognized; did you mean '--name'?"),
        ("pki init --name", "rtunnel pki init: option --name requires argument"),
        ("pki init --name a:7000", "rtunnel pki init: 'a:7000' has a port; write only a"),
        (
            "pki init --name a --days 0",
            "rtunnel pki init: --days: 0 is out of range; write a whole number from 1 to 36500",
        ),
        (
            "pki init --name a --ca-days x",
            "rtunnel pki init: --ca-days: 'x' is not a whole number; write one from 1 to",
        ),
        (
            "pki init --name a --algorithm rsa",
            "rtunnel pki init: --algorithm: 'rsa' is not one of ml-dsa-44, ml-dsa-65,",
        ),
        ("pki init --name a --group nobody-here", "rtunnel pki init: --group: this machine has no group 'nobody-here'"),
        ("pki init --name a --dir=", "rtunnel pki init: --dir is empty; name a directory"),
        ("pki client", "rtunnel pki client: the client's name is missing"),
        ("pki client a b", "rtunnel pki client: the client's name is given once; remove 'b'"),
        ("pki client a", "rtunnel pki client: there is no CA in {pki}; make one with 'rtunnel pki init'"),
        ("pki client ../a", "rtunnel pki client: '../a' cannot name a client"),
        ("pki bundle a", "rtunnel pki bundle: name the file to write: -o FILE"),
        ("pki bundle a -o a.pem", "rtunnel pki bundle: {pki} has no certificate of the ca"),
        ("pki import", "rtunnel pki import: the bundle's file is missing"),
        ("pki import a.pem", "rtunnel pki import: cannot read a.pem: no such file or directory"),
        ("pki show", "rtunnel pki show: there is nothing in {pki}; 'rtunnel pki init' makes a CA there"),
        ("pki show all", "rtunnel pki show: 'all' is not an option; options begin with two dashes"),
        ("pki renew", "rtunnel pki renew: there is no CA in {pki}"),
        ("pki revoke", "rtunnel pki revoke: the name is missing"),
        ("pki revoke a", "rtunnel pki revoke: there is no CA in {pki}"),
    ],
)
def test_mistakes_are_one_line(arguments: str, complaint: str, in_process: Run, tmp_path: Path) -> None:
    assert wrong(in_process(*arguments.split())).startswith(complaint.format(pki=tmp_path / "pki"))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("pki init --name a", "ca.crt already exists, and is not overwritten; see 'rtunnel pki show'"),
        ("pki client laptop", "client 'laptop' already exists"),
        ("pki client phone -o there", "there already exists, and is not overwritten; name another file"),
        ("pki bundle laptop -o there", "there already exists, and is not overwritten; name another file"),
        ("pki bundle laptop -o no/where", "cannot write no/where: no such file or directory"),
        ("pki bundle lapto -o x", "has no client or host 'lapto'; did you mean 'laptop'?"),
        ("pki renew laptop --name a", "--name is for the server only"),
        ("pki renew server --name a b", "--name is for the server only, and for one name"),
        ("pki renew ca --revoke-old", "the CA keeps its key"),
        ("pki renew nobody", "has no client or host 'nobody'"),
        ("pki revoke ca", "the CA cannot revoke itself"),
        ("pki import there", "there is not a bundle"),
    ],
)
def test_mistakes_change_nothing(arguments: str, complaint: str, in_process: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "pki")
    operations.init(store, ["a"])
    operations.add_client(store, "laptop")
    (tmp_path / "there").write_text("precious")
    before = tree(tmp_path)
    assert complaint in wrong(in_process(*arguments.split()))
    assert tree(tmp_path) == before
