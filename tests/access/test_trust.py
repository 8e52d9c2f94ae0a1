"""Whom hosts and clients accept, and what changes that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from twisted.logger import formatEventAsClassicLogText

from rtunnel.access.peers.authorized_clients import add_client
from rtunnel.access.peers.fingerprints import show_fingerprint
from rtunnel.access.peers.known_hosts import add_host, read_known_hosts
from rtunnel.access.peers.rights import EVERYTHING, ClientRights
from rtunnel.access.trust import ClientTrust, HostTrust, OpenTrust, Verdict
from rtunnel.errors import Code, ConfigError
from rtunnel.pki.certificates import Algorithm, Kind
from tests.access.peers.parts import Organisation, identity, peer
from tests.leftovers import TestLog

ONE, OTHER = identity(1), identity(2)
SHORT = show_fingerprint(ONE.fingerprint)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list"


@pytest.fixture
def log(_nothing_left_behind: TestLog) -> TestLog:
    return _nothing_left_behind


def rewrite(path: Path, content: str) -> None:
    """Replace a file, as editors do: its inode shows that it is another one, however quick that was."""
    new = path.with_name("new")
    new.write_text(content)
    new.replace(path)


def said(log: TestLog, part: str) -> list[str]:
    """Return the lines that have *part* in them."""
    lines = [formatEventAsClassicLogText(event) or "" for event in log.events]
    return [line for line in lines if part in line]


def test_open() -> None:
    assert OpenTrust().judge(peer(ONE)) == Verdict(name=SHORT)
    assert not OpenTrust().is_closed


class TestHost:
    def test_open(self, path: Path) -> None:
        for trust in (HostTrust(), HostTrust(default=path)):
            assert not trust.is_closed
            assert trust.judge(peer(ONE)) == Verdict(name=SHORT)
        assert HostTrust(default=path).clients_file == path

    def test_a_file_that_appears_closes_it(self, path: Path) -> None:
        trust = HostTrust(default=path)
        add_client(path, OTHER.fingerprint, "other", None)
        assert trust.is_closed
        refused = trust.judge(peer(ONE))
        assert refused.code is Code.UNAUTHORIZED
        assert refused.refusal == (
            f"the host does not know this client: its fingerprint, {SHORT}, is not in authorized_clients"
        )
        assert trust.judge(peer(OTHER)) == Verdict(name="other")

    def test_a_file_that_appears_with_a_mistake_closes_it(self, path: Path, log: TestLog) -> None:
        trust = HostTrust(default=path)
        rewrite(path, "laptop: {fingerprint: oops!}\n")
        assert trust.is_closed
        assert trust.judge(peer(ONE)).refusal
        assert len(said(log, "what was read before counts until that is mended")) == 1
        path.unlink()
        assert trust.is_closed
        add_client(path, ONE.fingerprint, "laptop", None)
        assert trust.judge(peer(ONE)) == Verdict(name="laptop")

    def test_it_does_not_open_when_the_file_is_gone(self, path: Path, log: TestLog) -> None:
        add_client(path, OTHER.fingerprint, "other", None)
        trust = HostTrust(default=path)
        path.unlink()
        assert trust.is_closed
        assert trust.judge(peer(ONE)).refusal
        assert not trust.judge(peer(OTHER)).refusal
        assert len(said(log, "what was read before counts until that is mended")) == 1

    def test_a_file_that_was_named_must_exist(self, path: Path) -> None:
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            HostTrust(path)
        path.touch()
        assert HostTrust(path).is_closed
        assert HostTrust(path).judge(peer(ONE)).refusal

    def test_rights(self, path: Path) -> None:
        path.write_text(f"laptop: {{fingerprint: {SHORT}, services: [web], streams: 2, bandwidth: 8Mbit}}\n")
        rights = ClientRights(frozenset({"web"}), 2, 1_000_000)
        assert HostTrust(path).judge(peer(ONE)) == Verdict(name="laptop", rights=rights)

    def test_until(self, path: Path) -> None:
        past = datetime.now(UTC) - timedelta(days=2)
        path.write_text(f"laptop: {{fingerprint: {SHORT}, until: {past:%Y-%m-%d}}}\n")
        end = f"{past + timedelta(days=1):%Y-%m-%d} 00:00 UTC"
        assert HostTrust(path).judge(peer(ONE)).refusal == f"the rights of the client 'laptop' ended at {end}"
        rewrite(path, f"laptop: {{fingerprint: {SHORT}, until: {datetime.now(UTC):%Y-%m-%d}}}\n")
        assert not HostTrust(path).judge(peer(ONE)).refusal

    def test_changes(self, path: Path, log: TestLog) -> None:
        path.write_text(f"laptop: {{fingerprint: {SHORT}}}\n")
        trust = HostTrust(path)
        assert trust.judge(peer(ONE)) == Verdict(name="laptop")
        rewrite(path, "laptop: {fingerprint: oops!}\n")
        assert trust.judge(peer(ONE)) == Verdict(name="laptop")
        assert trust.judge(peer(OTHER)).refusal
        [line] = said(log, "what was read before counts until that is mended")
        assert f"{path}: line 1: 'laptop': key 'fingerprint': 'oops!' is not a fingerprint" in line
        rewrite(path, f"phone: {{fingerprint: {show_fingerprint(OTHER.fingerprint)}}}\n")
        assert trust.judge(peer(ONE)).refusal
        assert trust.judge(peer(OTHER)) == Verdict(name="phone")
        assert len(said(log, "is read again")) == 1

    def test_ca(self, tmp_path: Path) -> None:
        organisation = Organisation(tmp_path)
        laptop = organisation.issue("laptop")
        trust = HostTrust(ca=organisation.file)
        assert trust.is_closed
        assert trust.judge(peer(laptop.certificate)) == Verdict(
            name="laptop", rights=EVERYTHING, party="certificate laptop"
        )
        assert "the client's certificate is refused: " in trust.judge(peer(ONE)).refusal
        organisation.revoke(laptop.certificate)
        assert "is revoked" in trust.judge(peer(laptop.certificate)).refusal

    def test_names(self, tmp_path: Path, path: Path) -> None:
        organisation = Organisation(tmp_path)
        path.write_text(f"laptop: {{services: [web]}}\nfriend: {{fingerprint: {SHORT}}}\n")
        trust = HostTrust(path, organisation.file)
        web = ClientRights(frozenset({"web"}))
        assert trust.judge(peer(organisation.issue("laptop").certificate)) == Verdict(
            name="laptop", rights=web, party="certificate laptop"
        )
        assert trust.judge(peer(ONE)) == Verdict(name="friend")
        phone = peer(organisation.issue("phone").certificate)
        assert trust.judge(phone).refusal == (
            "the host does not know this client: 'phone', the name in its certificate, is not in authorized_clients"
        )
        rewrite(path, '"*": {}\n')
        assert trust.judge(phone) == Verdict(name="phone", party="certificate phone")

    def test_a_certificate_with_the_name_of_an_entry(self, tmp_path: Path, path: Path) -> None:
        """The log calls both by it, and yet they are two, each with what it may use."""
        organisation = Organisation(tmp_path)
        path.write_text(f'laptop: {{fingerprint: {SHORT}, streams: 9}}\n"*": {{streams: 1}}\n')
        trust = HostTrust(path, organisation.file)
        listed, certified = trust.judge(peer(ONE)), trust.judge(peer(organisation.issue("laptop").certificate))
        assert listed.name == certified.name == "laptop"
        assert (listed.rights.streams, certified.rights.streams) == (9, 1)
        assert (listed.party, certified.party) == ("", "certificate laptop")

    def test_revocation_beats_the_list(self, tmp_path: Path, path: Path) -> None:
        organisation = Organisation(tmp_path)
        laptop = peer(organisation.issue("laptop").certificate)
        add_client(path, laptop.fingerprint, "laptop", None)
        trust = HostTrust(path, organisation.file)
        assert not trust.judge(laptop).refusal
        organisation.revoke(laptop.certificate)
        assert "is revoked" in trust.judge(laptop).refusal

    @pytest.mark.parametrize(
        ("kind", "days", "message"),
        [
            (Kind.SERVER, 10, "is not for a client"),
            (Kind.HOST, 10, "is not for a client"),
            (Kind.CLIENT, -1, "expired on"),
        ],
    )
    def test_certificates_that_do_not_fit(self, tmp_path: Path, kind: Kind, days: int, message: str) -> None:
        organisation = Organisation(tmp_path)
        then = datetime.now(UTC) - timedelta(days=5) if days < 0 else None
        hosts = ("tunnel.example.org",) if kind is Kind.SERVER else ()
        shown = organisation.issue("laptop", kind, *hosts, days=abs(days), now=then)
        assert message in HostTrust(ca=organisation.file).judge(peer(shown.certificate)).refusal

    def test_somebody_elses_ca_of_the_same_name(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        ours, theirs = Organisation(tmp_path), Organisation(tmp_path / "theirs")
        shown = peer(theirs.issue("laptop").certificate, "", theirs.ca.certificate)
        assert "is not from a CA of --peer-ca" in HostTrust(ca=ours.file).judge(shown).refusal

    def test_classical_chains(self, tmp_path: Path) -> None:
        organisation = Organisation(tmp_path, Algorithm.ED25519)
        with pytest.raises(ConfigError, match=r"has a key of Ed25519, .*; use a CA with a key of ML-DSA"):
            HostTrust(ca=organisation.file)


class TestClient:
    def test_open(self, path: Path) -> None:
        trust = ClientTrust(default=path, host_id="h")
        assert not trust.is_closed
        assert trust.judge(peer(ONE, "h")) == Verdict(name=SHORT)

    def test_pins(self) -> None:
        trust = ClientTrust((ONE.fingerprint[:35], "ab" * 32))
        assert trust.is_closed
        assert trust.judge(peer(ONE, "h")) == Verdict(name="h")
        refusal = trust.judge(peer(OTHER, "h")).refusal
        assert refusal.startswith("THE HOST HAS ANOTHER IDENTITY THAN THE ONE THAT IS KNOWN HERE.")
        assert show_fingerprint(OTHER.fingerprint) in refusal
        assert refusal.endswith("change it in --host-key")

    def test_known_hosts(self, path: Path) -> None:
        add_host(path, "h", ONE.fingerprint)
        trust = ClientTrust(known=path)
        assert trust.judge(peer(ONE, "h")) == Verdict(name="h")
        assert trust.judge(peer(OTHER, "h")).refusal.startswith("THE HOST HAS ANOTHER IDENTITY")
        assert trust.judge(peer(ONE, "x")).refusal == (
            f"the host is not known here. Its fingerprint is {SHORT}; compare it with what 'rtunnel id' prints there, "
            f"and if they are the same, add it to {path}, or write --host-key {SHORT}"
        )

    def test_a_file_that_appears_with_a_mistake_closes_it(self, path: Path, log: TestLog) -> None:
        trust = ClientTrust(default=path, host_id="myhost")
        rewrite(path, "myhost: oops!\n")
        assert trust.is_closed
        assert trust.judge(peer(ONE, "myhost")).refusal == (
            f"{path} cannot be used, so no host is known here; the log says why"
        )
        assert len(said(log, "'oops!' is not a fingerprint")) == 1
        rewrite(path, f"myhost: {SHORT}\n")
        assert trust.judge(peer(ONE, "myhost")) == Verdict(name="myhost")
        assert trust.judge(peer(OTHER, "myhost")).refusal

    def test_the_file_of_the_state_directory_closes_it_for_its_hosts(self, path: Path) -> None:
        trust, other = ClientTrust(default=path, host_id="h"), ClientTrust(default=path, host_id="x")
        add_host(path, "h", ONE.fingerprint)
        assert trust.is_closed
        assert not trust.judge(peer(ONE, "h")).refusal
        assert trust.judge(peer(OTHER, "h")).refusal.startswith("THE HOST HAS ANOTHER IDENTITY")
        assert not other.is_closed
        assert not other.judge(peer(OTHER, "x")).refusal

    @pytest.mark.parametrize("is_named", [True, False])
    def test_first_use(self, path: Path, is_named: bool, log: TestLog) -> None:
        known, default = (path, None) if is_named else (None, path)
        trust = ClientTrust((), known, None, default, trusts_first_use=True, host_id="h")
        assert trust.is_closed
        assert trust.judge(peer(ONE, "h")) == Verdict(name="h")
        assert read_known_hosts(path) == {"h": (ONE.fingerprint[:35],)}
        [line] = said(log, "is trusted at first use")
        assert SHORT in line
        assert trust.judge(peer(ONE, "h")) == Verdict(name="h")
        assert trust.judge(peer(OTHER, "h")).refusal.startswith("THE HOST HAS ANOTHER IDENTITY")

    def test_first_use_that_cannot_be_remembered(self) -> None:
        trust = ClientTrust((), Path("/proc/x/known"), trusts_first_use=True)
        refusal = trust.judge(peer(ONE, "h")).refusal
        assert refusal.startswith("the host is not known, and cannot be remembered: cannot write /proc/x")

    def test_ca(self, tmp_path: Path) -> None:
        organisation = Organisation(tmp_path)
        trust = ClientTrust(ca=organisation.file)
        assert trust.is_closed
        host = organisation.issue("MyHost", Kind.HOST)
        assert trust.judge(peer(host.certificate, "MyHost")) == Verdict(name="MyHost")
        assert trust.judge(peer(host.certificate, "other")).refusal == (
            "the host's certificate is refused: it is not for 'other', but for 'MyHost'; see --host-name"
        )
        server = organisation.issue("x", Kind.SERVER, "a.example.org", "192.0.2.1").certificate
        assert not trust.judge(peer(server, "A.example.org")).refusal
        assert not trust.judge(peer(server, "192.0.2.1")).refusal
        client = peer(organisation.issue("MyHost").certificate, "MyHost")
        assert trust.judge(client).refusal == (
            "the host's certificate is refused: the certificate of 'MyHost' is not for a host: its extended key usage "
            "does not say so"
        )
        named = ClientTrust(ca=organisation.file, host_name="MyHost")
        assert not named.judge(peer(host.certificate, "whatever")).refusal
        assert trust.judge(peer(ONE, "rtunnel")).refusal.startswith("the host's certificate is refused: ")
        organisation.revoke(host.certificate)
        assert "is revoked" in trust.judge(peer(host.certificate, "MyHost")).refusal

    def test_with_a_ca_no_list_counts(self, tmp_path: Path, path: Path) -> None:
        add_host(path, "h", ONE.fingerprint)
        trust = ClientTrust(ca=Organisation(tmp_path).file, default=path, host_id="h")
        assert trust.judge(peer(ONE, "h")).refusal
