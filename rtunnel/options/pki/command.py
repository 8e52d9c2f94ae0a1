"""``rtunnel pki``: the command line of :mod:`rtunnel.pki.operations`."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from twisted.python import usage

from rtunnel.options.pki.common import STANDARD, Carrying, Command, Issuing, days, group, say, until
from rtunnel.options.pki.report import report
from rtunnel.options.verbs import Verbs
from rtunnel.pki import bundle, files, inventory, names, operations, unpack
from rtunnel.pki.authority import CA_DAYS, LEAF_DAYS
from rtunnel.pki.certificates import EXPIRES_SOON, Algorithm, Kind, hosts_of, kind_of
from rtunnel.pki.store import Store


class Init(Issuing):
    """Make a CA, which signs all other certificates, and the certificate of the server."""

    synopsis = "--name HOST... [options]"
    examples = (
        "rtunnel pki init --name tunnel.example.org 192.0.2.1",
        "rtunnel pki init --name tunnel.example.org --group rtunnel",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ca_days = CA_DAYS
        self.group: int | None = None

    def opt_name(self, value: str) -> None:
        """A DNS name or IP address by which clients reach the server; more may follow it."""
        self.names.append(value)

    def opt_ca_days(self, value: str) -> None:
        """How long the CA is valid. [default: 3650]"""
        self.ca_days = days("ca-days", value)

    def opt_group(self, value: str) -> None:
        """The group of the service's user: it may enter the directory, and read the server's key. [default: no other
        user may]"""
        self.group = group(value)

    def run(self) -> None:
        hosts = names.hosts([*self.names, *self.arguments]) if self.names or self.arguments else _ask_for_hosts()
        store = self.store
        made = operations.init(
            store,
            hosts,
            algorithm=self.algorithm or Algorithm.ML_DSA_65,
            ca_days=self.ca_days,
            days=self.days or LEAF_DAYS,
            group=self.group,
        )
        say(f"In {store.directory}:")
        say(f"    ca.crt, ca.key, ca.crl    the CA, {until(made.ca)}; keep ca.key here, and a copy in a safe place")
        say(f"    server.crt, server.key    the server, {until(made.certificate)}; for {', '.join(hosts)}")
        say("Next: for each client")
        say(f"    {self.command('client', 'NAME', '-o', 'FILE')}")


class Client(Issuing, Carrying):
    """Make a certificate for a client, under the name that the log and the clients file use."""

    synopsis = "[options] NAME"
    examples: ClassVar[tuple[str, ...]] = (
        "rtunnel pki client laptop -o laptop.pem",
        "rtunnel pki client laptop -o - | ssh laptop rtunnel pki import -",
    )
    kind = Kind.CLIENT
    add = staticmethod(operations.add_client)
    what = "the client's name"

    def run(self) -> None:
        name = self.only_argument(self.what)
        if self.output:
            self.check_output()
        store = self.store
        made = self.add(store, name, algorithm=self.algorithm, days=self.days or LEAF_DAYS)
        stream = sys.stderr if self.output == STANDARD else sys.stdout
        say(f"{store.pair(name).certificate}: {self.kind} '{name}', {until(made.certificate)}", stream)
        if self.output:
            self.write_bundle(name)
        else:
            say(f"Next: {self.command('bundle', name, '-o', f'{name}.pem')}")


class Host(Client):
    """Make a certificate for a host of the WebRTC tunnel, under its ID. Clients that have --peer-ca want it."""

    synopsis = "[options] ID"
    examples = ("rtunnel pki host myhost -o myhost.pem",)
    kind = Kind.HOST
    add = staticmethod(operations.add_host)
    what = "the host's ID"


class Bundle(Carrying):
    """Write one file with everything that another machine needs: the CA's certificate, its own, and its private
    key. The name 'server' is for a server that is not on the CA's machine."""

    synopsis = "[options] NAME -o FILE"
    examples = ("rtunnel pki bundle laptop -o laptop.pem",)

    def run(self) -> None:
        name = self.only_argument("the client's name")
        if not self.output:
            raise usage.UsageError("name the file to write: -o FILE")
        self.check_output()
        self.write_bundle(name)


class Import(Command):
    """Check a bundle, and unpack it on the machine that it is for. FILE - is standard input."""

    synopsis = "[options] FILE"
    examples = ("rtunnel pki import laptop.pem", "rtunnel pki import laptop.pem --group rtunnel")

    def __init__(self) -> None:
        super().__init__()
        self.replace = False
        self.group: int | None = None

    def opt_replace(self) -> None:
        """Replace another CA, or a certificate of another name; these are put aside."""
        self.replace = True

    def opt_group(self, value: str) -> None:
        """The group of the service's user: it may enter the directory, and read the key. [default: no other user
        may]"""
        self.group = group(value)

    def run(self) -> None:
        source = self.only_argument("the bundle's file")
        if source == STANDARD:
            content, called = sys.stdin.buffer.read(files.MAX_SIZE), "the bundle on standard input"
        else:
            content, called = files.read(Path(source), is_ours=False), source
        arrived = bundle.parse(content, called, datetime.now(UTC))
        store = self.store
        done = unpack.unpack(store, arrived, replace=self.replace, group=self.group)
        own = arrived.identity.certificate
        if done.written:
            written = ", ".join(path.name for path in done.written)
            say(f"{store.directory}: {written} for {arrived.kind} '{arrived.name}', {until(own)}")
        else:
            say(f"{store.directory} already has all of it: {arrived.kind} '{arrived.name}', {until(own)}")
        for path in done.put_aside:
            say(f"    put aside: {path}")
        if source != STANDARD:
            say(f"Now delete {source}.")
        if arrived.kind is Kind.SERVER:
            say(f"Next: rtunnel server --tls{self._environment_hint()}")
        elif arrived.kind is Kind.HOST:
            pair = store.own_host
            say(
                f"Next: rtunnel host --id {shlex.quote(arrived.name)} --identity-cert {pair.certificate} "
                f"--identity-key {pair.key} --peer-ca {store.ca.certificate}"
            )
        else:
            host = next(iter(arrived.servers), "HOST")
            address = f"[{host}]:7000" if ":" in host else f"{host}:7000"
            say(f"Next: rtunnel client --tls --server {address} --tunnel 8080:80{self._environment_hint()}")

    def _environment_hint(self) -> str:
        """Return what to add to a command if the service would look in another directory by default."""
        return f", with RTUNNEL_PKI_DIR={shlex.quote(str(self.store.directory))}" if self.named_directory else ""


class Show(Command):
    """List the certificates: their roles, how long they are valid, and what is wrong with them."""

    examples = ("rtunnel pki show",)

    def __init__(self) -> None:
        super().__init__()
        self.everything = False

    def opt_all(self) -> None:
        """Show replaced certificates that are no longer valid, too."""
        self.everything = True

    def run(self) -> None:
        if self.arguments:
            raise usage.UsageError(f"'{self.arguments[0]}' is not an option; options begin with two dashes")
        store = self.store
        say(report(store.directory, inventory.take(store, everything=self.everything)))


class Renew(Issuing):
    """Replace certificates with new ones, with new keys; the old ones are put aside and stay valid. Without a NAME,
    renew all with less than 30 days left. NAME is a client's name, a host's ID, 'server', or 'ca', which gets more time
    and keeps its key."""

    synopsis = "[options] [NAME...]"
    examples = (
        "rtunnel pki renew",
        "rtunnel pki renew server --name a.example.org --name b.example.org",
        "rtunnel pki renew laptop",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.revoke_old = False

    def opt_name(self, value: str) -> None:
        """A DNS name or IP address of the server, instead of those that it has; may be repeated."""
        self.names.append(value)

    def opt_revoke_old(self) -> None:
        """Revoke the old certificates, for example after others have seen a key."""
        self.revoke_old = True

    def run(self) -> None:
        store = self.store
        store.require_ca()
        hosts = names.hosts(self.names) if self.names else []
        wanted = list(dict.fromkeys(self.arguments)) or operations.due(store)
        if hosts and self.arguments != [names.SERVER]:
            raise usage.UsageError("--name is for the server only, and for one name: renew server --name A --name B")
        if names.CA in wanted and (self.algorithm or self.revoke_old):
            raise usage.UsageError("the CA keeps its key; to start over, run 'rtunnel pki init' with another --dir")
        if not wanted:
            say(f"Nothing expires within {EXPIRES_SOON.days} days; to renew a certificate anyway, name it.")
        # Renew the CA first, since no other certificate outlives it.
        for name in sorted(wanted, key=lambda name: name != names.CA):
            self._renew(store, name, hosts)

    def _renew(self, store: Store, name: str, hosts: list[str]) -> None:
        if name == names.CA:
            made = operations.renew_ca(store, days=self.days or CA_DAYS)
            say(f"the CA, {until(made.ca)}")
            say("Next: carry new bundles to the clients before the CA's old certificate expires")
            return
        made = operations.renew(
            store,
            name,
            hosts=hosts,
            algorithm=self.algorithm,
            days=self.days or LEAF_DAYS,
            revoke_old=self.revoke_old,
        )
        limit = "; no longer, since the CA expires then" if made.capped else ""
        if name == names.SERVER:
            of = ", ".join(hosts_of(made.certificate)) or "no name"
            say(f"the server, {until(made.certificate)}{limit}; for {of}. A running server picks it up by itself.")
        else:
            say(f"{kind_of(made.certificate)} '{name}', {until(made.certificate)}{limit}")
            say(f"Next: {self.command('bundle', name, '-o', f'{name}.pem')}")


class Revoke(Command):
    """Revoke the certificates of a name, replaced ones included: the server closes the links of that client, and takes
    no new ones."""

    synopsis = "[options] NAME"
    examples = ("rtunnel pki revoke laptop", "rtunnel pki revoke laptop --replaced")

    def __init__(self) -> None:
        super().__init__()
        self.only_replaced = False

    def opt_replaced(self) -> None:
        """Revoke only those that 'renew' has replaced; the current one stays valid."""
        self.only_replaced = True

    def run(self) -> None:
        name = self.only_argument("the name")
        store = self.store
        fresh = operations.revoke(store, name, only_replaced=self.only_replaced)
        if not fresh:
            say(f"'{name}' has nothing to revoke{'' if self.only_replaced else ' any more'}.")
            return
        for serial in fresh:
            say(f"revoked: '{name}', serial number {serial:x}")
        say(f"A server that reads {store.crl} picks it up by itself; carry that file to any other server.")
        if name == names.SERVER and not self.only_replaced:
            say(f"Next: {self.command('renew', 'server')}; clients learn of it from a new bundle.")


class Options(Verbs):
    """Certificates for links over TLS: a CA of your own, the server's certificate, and one for each client."""

    subCommands: ClassVar = [
        ["init", None, Init, "Make a CA and the server's certificate."],
        ["client", None, Client, "Make a certificate for a client."],
        ["host", None, Host, "Make one for a host of the WebRTC tunnel."],
        ["bundle", None, Bundle, "Write one file to carry to another machine."],
        ["import", None, Import, "Unpack that file there."],
        ["show", None, Show, "List the certificates, and what is wrong with them."],
        ["renew", None, Renew, "Replace certificates with new ones."],
        ["revoke", None, Revoke, "Revoke the certificates of a name."],
    ]
    synopsis = "COMMAND"


def _ask_for_hosts() -> list[str]:
    if not sys.stdin.isatty():
        raise usage.UsageError("the server's name is missing: --name HOST, a DNS name or an IP address")
    sys.stderr.write(
        "Names and addresses by which clients reach this server, such as tunnel.example.org 192.0.2.1:\n> "
    )
    sys.stderr.flush()
    return names.hosts([sys.stdin.readline()])
