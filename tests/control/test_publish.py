"""What a client serves: what its settings say, without what was unpublished, and with what was added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rtunnel.acme.settings import HTTP_01, AcmeSettings
from rtunnel.addresses import DialAddress
from rtunnel.control.actions.publish import ANSWER, Place, Publishing
from rtunnel.errors import ConfigError
from rtunnel.options.settings.published import published
from rtunnel.options.settings.tunnels import publish
from rtunnel.reverse.settings import ClientSettings, TunnelSettings, challenge_tunnels


class Reader:
    """Reads tunnels without any other setting."""

    most = 5

    def read(self, written: object) -> tuple[tuple[TunnelSettings, ...], AcmeSettings | None]:
        return publish([written]), None

    def places(self, written: str) -> Sequence[Place]:
        public = written.partition("=")[0]
        what = public.partition(":")[2]
        return [each.place for each in published(f"{public}=127.0.0.1:{what if '-' in what else 1}")]


class Store:
    """Keeps what it is told to, unless it cannot."""

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.problem = ""

    def write(self, entries: Sequence[object]) -> None:
        if self.problem:
            raise ConfigError(self.problem)
        self.kept = list(entries)


class State:
    """What a link has made of a tunnel."""

    def __init__(self, public: str = "", refusal: str = "") -> None:
        self.public, self.refusal, self.is_served = public, refusal, bool(public)


class Wanted:
    def __init__(self, settings: TunnelSettings) -> None:
        self.settings = settings


class Link:
    """The client's link and its session in one; ``answers`` is what the server says, by place."""

    is_closed = is_reference = False

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.answers: dict[str, State] = {}
        self.link = self
        self.sessions: Any = [self]

    def tunnel_of(self, wanted: Wanted) -> State | None:
        return self.answers.get(wanted.settings.shown_place, State("somewhere"))


class Client:
    """A client that can be given tunnels."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.links = Link()
        self.problem = ""

    def apply(self, tunnels: Sequence[TunnelSettings], acme: AcmeSettings | None) -> Deferred[None]:
        if self.problem:
            raise ConfigError(self.problem)
        self.links.wanted = [Wanted(tunnel) for tunnel in tunnels]
        return succeed(None)


class World:
    """A client whose settings have ``tcp:1=1`` and ``tcp:2=2``."""

    def __init__(self, kept: Sequence[object] = (), acme: AcmeSettings | None = None) -> None:
        self.store = Store()
        self.client = cast(Any, Client())
        self.settings = ClientSettings(DialAddress.parse("server:7000"), publish("tcp:1=1,tcp:2=2"), acme=acme)
        self.publishing = Publishing(self.settings, Reader(), self.store, kept)
        self.client.links.wanted = [Wanted(tunnel) for tunnel in self.publishing.settings.tunnels]
        self.publishing.serve(self.client)

    async def publish(self, *tunnels: object, keep: bool = False) -> dict[str, Any]:
        return await self.publishing.publish({"tunnels": list(tunnels), "keep": keep})

    async def unpublish(self, *tunnels: object) -> dict[str, Any]:
        return await self.publishing.unpublish({"tunnels": list(tunnels)})

    @property
    def served(self) -> list[str]:
        served = [each.settings for each in self.client.links.wanted]
        return [f"{each.shown_place}={each.local}{each.added[:1]}" for each in served]


@ensureDeferred
async def test_more_and_less() -> None:
    world = World()
    assert world.served == ["tcp:1=1", "tcp:2=2"]
    done = await world.publish("tcp:3=3", "udp:1=:53")
    assert done["connected"]
    assert done["tunnels"][0] == {"tunnel": "tcp:3", "service": "127.0.0.1:3", "public": "somewhere", "refused": None}
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3u", "udp:1=:53u"]
    assert (await world.unpublish("tcp:1", "port 3"))["tunnels"] == [
        {"tunnel": "tcp:1", "service": "127.0.0.1:1", "added": None},
        {"tunnel": "tcp:3", "service": "127.0.0.1:3", "added": "until restart"},
    ]
    assert world.served == ["tcp:2=2", "udp:1=:53u"]
    # What the settings have may be there again, or something else in its place.
    await world.publish("tcp:1=1")
    assert world.served == ["tcp:2=2", "udp:1=:53u", "tcp:1=1u"]
    await world.unpublish("tcp:1=1")
    await world.publish("tcp:1=9")
    assert world.served == ["tcp:2=2", "udp:1=:53u", "tcp:1=9u"]
    assert not world.store.kept


@ensureDeferred
async def test_what_is_kept() -> None:
    world = World()
    entry = {"publish": "tcp:7-8=127.0.0.1:7-8", "deny": ["192.0.2.1"], "name": "game"}
    await world.publish("tcp:3=3", entry, keep=True)
    kept = [
        "tcp:3=3",
        {"publish": "tcp:7=127.0.0.1:7", "deny": ["192.0.2.1"], "name": "game-7"},
        {"publish": "tcp:8=127.0.0.1:8", "deny": ["192.0.2.1"], "name": "game-8"},
    ]
    assert world.store.kept == kept
    await world.unpublish("game-7")
    assert world.store.kept == [kept[0], kept[2]]
    again = World([*world.store.kept, "tcp:1=9", "nonsense", {"publish": 7}])
    assert again.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3k", "tcp:8=127.0.0.1:8k"]
    assert len(again.publishing.notes) == 3
    assert "tcp:1 is published already, for 127.0.0.1:1" in again.publishing.notes[0]
    # What cannot be used now stays where it is: perhaps it can tomorrow.
    await again.unpublish("tcp:3")
    assert again.store.kept == ["tcp:1=9", "nonsense", {"publish": 7}, kept[2]]


@ensureDeferred
async def test_where_a_ca_looks_is_taken(tmp_path: Path) -> None:
    """Also by what was kept when the CA did not look there."""
    acme = AcmeSettings("a@b", tmp_path, challenge=HTTP_01)
    name: object = {"publish": "https:a.example.org=3", "tls": "auto"}
    place = "http:a.example.org/.well-known/acme-challenge"
    world = World([f"{place}=4", name], acme)
    assert world.served == ["tcp:1=1", "tcp:2=2", f"{place}=4k"]
    why = f"{place} is where the client answers the CA; leave it out, or give --acme-challenge tls-alpn-01"
    assert world.publishing.notes == [f"what 'rtunnel publish --keep' has kept is not published: {why}"]


@ensureDeferred
async def test_tunnels_for_challenges_are_nobodys(tmp_path: Path) -> None:
    """They come with the names that need them, and go with these only."""
    world = World()
    [own] = challenge_tunnels(
        publish([{"publish": "https:a.example.org=3", "tls": "auto"}]), AcmeSettings("a@b", tmp_path, challenge=HTTP_01)
    )
    world.client.links.wanted.append(Wanted(own))
    with pytest.raises(
        ConfigError, match=r"'http:a.example.org/.well-known/acme-challenge' is not published; published"
    ):
        await world.unpublish(own.shown_place)
    await world.publish("tcp:3=3")
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3u"]


@ensureDeferred
async def test_one_that_is_there_may_be_kept_from_now_on() -> None:
    world = World()
    await world.publish("tcp:3=3")
    await world.publish("tcp:3=3", keep=True)
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3k"]
    assert world.store.kept == ["tcp:3=3"]


@ensureDeferred
@pytest.mark.parametrize(
    ("tunnels", "error"),
    [
        ([], "'tunnels' must be a list with at least one tunnel"),
        (["tcp:3=3", "tcp:1=1"], "tcp:1 is published already, for 127.0.0.1:1; unpublish it first to change it"),
        (["tcp:3=3", "tcp:3=3"], "tcp:3 is published already, for 127.0.0.1:3; unpublish it first to change it"),
        (["tcp:3=3", "tcp:3=4"], "tcp:3 is published already, for 127.0.0.1:3; unpublish it first to change it"),
        (["tcp:3=3", "nonsense"], "'nonsense' "),
        (["tcp:3=3", 7], "entry 1: is a single value and not a mapping"),
        (["tcp:3-6=127.0.0.1:3-6"], "a client has at most 5 tunnels; start another client for more"),
        ([{"publish": "tcp:3=3", "name": "x"}, {"publish": "tcp:4=4", "name": "x"}], "another tunnel is named 'x'; "),
    ],
)
async def test_mistakes_change_nothing(tunnels: list[object], error: str) -> None:
    for keep in (False, True):
        world = World()
        with pytest.raises(ConfigError) as caught:
            await world.publish(*tunnels, keep=keep)
        assert error in str(caught.value)
        assert world.served == ["tcp:1=1", "tcp:2=2"]
        assert world.store.kept == []
        await world.publish("tcp:3=3")


@ensureDeferred
async def test_what_cannot_be_unpublished() -> None:
    world = World()
    for tunnels, error in (
        (["tcp:1", "tcp:3"], "'tcp:3' is not published; published: tcp:1, tcp:2"),
        (["tcp:1-3"], "'tcp:1-3' is not published; "),
        (["what?"], "'what?' is not published; published: tcp:1, tcp:2"),
        ([1], "a tunnel is named by text, such as tcp:8080"),
    ):
        with pytest.raises(ConfigError) as caught:
            await world.unpublish(*tunnels)
        assert error in str(caught.value)
    assert world.served == ["tcp:1=1", "tcp:2=2"]
    await world.unpublish("tcp:1-2")
    assert world.served == []
    with pytest.raises(ConfigError, match="'tcp:1' is not published; nothing is"):
        await world.unpublish("tcp:1")


@ensureDeferred
async def test_what_the_server_refuses_is_not_there_afterwards() -> None:
    world = World()
    world.client.links.answers["tcp:4"] = State(refusal="port-in-use: no")
    done = await world.publish("tcp:3=3", "tcp:4=4", keep=True)
    assert [each["refused"] for each in done["tunnels"]] == [None, "port-in-use: no"]
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3k"]
    assert world.store.kept == ["tcp:3=3"]


@ensureDeferred
async def test_a_server_that_does_not_answer_is_not_waited_for_without_end() -> None:
    world = World()
    world.client.links.answers["tcp:3"] = State()
    waiting = Deferred.fromCoroutine(world.publish("tcp:3=3"))
    for _ in range(int(ANSWER * 100) - 2):
        world.client.reactor.advance(0.01)
    assert not waiting.called
    world.client.reactor.advance(0.02)
    world.client.reactor.advance(0.02)
    assert (await waiting)["tunnels"][0]["public"] is None
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3u"]


@ensureDeferred
async def test_without_a_link_nobody_waits() -> None:
    world = World()
    world.client.links.sessions = []
    done = await world.publish("tcp:3=3")
    assert not done["connected"]
    assert world.served == ["tcp:1=1", "tcp:2=2", "tcp:3=3u"]


@ensureDeferred
async def test_a_reference_server_carries_one() -> None:
    world = World()
    world.client.links.is_reference = True
    for act in (world.publish("tcp:3=3"), world.unpublish("tcp:1")):
        with pytest.raises(ConfigError, match="which carries one tunnel"):
            await act
    assert world.served == ["tcp:1=1", "tcp:2=2"]


@ensureDeferred
async def test_what_cannot_be_kept_or_done_changes_nothing() -> None:
    world = World()
    world.store.problem = "the disk is full"
    with pytest.raises(ConfigError, match="the disk is full"):
        await world.publish("tcp:3=3", keep=True)
    world.store.problem, world.client.problem = "", "the client is going down"
    for act in (world.publish("tcp:3=3", keep=True), world.unpublish("tcp:1")):
        with pytest.raises(ConfigError, match="the client is going down"):
            await act
    world.client.problem = ""
    assert world.served == ["tcp:1=1", "tcp:2=2"]
    assert world.store.kept == []


@ensureDeferred
async def test_settings_that_are_read_again() -> None:
    """Somebody else gives the client other tunnels meanwhile. Publishing goes on from what is there."""
    world = World()
    await world.publish("tcp:3=3", keep=True)
    await world.client.apply(publish("tcp:3=8,tcp:5=5"), None)
    await world.publish("tcp:4=4")
    assert world.served == ["tcp:3=8", "tcp:5=5", "tcp:4=4u"]
    assert world.store.kept == ["tcp:3=3"], "the settings may change again"
    await world.unpublish("tcp:3")
    assert world.served == ["tcp:5=5", "tcp:4=4u"]
    assert world.store.kept == []


@ensureDeferred
async def test_a_successor_goes_on_with_what_was_changed() -> None:
    """With another service in the place of the settings' one, too, and however often there is a successor."""
    world = World()
    await world.unpublish("tcp:1")
    await world.publish("tcp:1=9", "tcp:3=3")
    for _ in range(2):
        heir = World()
        heir.publishing.inherit(world.publishing.state())
        assert heir.served == ["tcp:2=2", "tcp:1=9u", "tcp:3=3u"]
        world = heir


@ensureDeferred
async def test_a_successor_after_other_settings() -> None:
    """What the settings of the start had counts no more: a successor reads those of its own."""
    world = World()
    await world.unpublish("tcp:1")
    await world.client.apply(publish("tcp:1=1,tcp:5=5"), None)
    world.publishing.settings_apply(Reader())
    assert world.publishing.state() == {"added": [], "unpublished": []}
    await world.unpublish("tcp:5")
    assert world.publishing.state() == {"added": [], "unpublished": ["tcp:5"]}
