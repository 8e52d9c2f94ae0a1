"""``rtunnel publish`` and ``rtunnel unpublish``: a tunnel more or less in the running client.

Where a tunnel comes from, it says itself (:attr:`TunnelSettings.added`). Some of what was added is kept: it is there
again when the client is started again.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.task import deferLater

from rtunnel.acme.settings import AcmeSettings
from rtunnel.control.actions.perform import Actions, only
from rtunnel.errors import ConfigError
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings, challenge_tunnels

#: Seconds that the server has to say whether it serves a tunnel, and between two looks.
ANSWER, LOOK_EVERY = 10.0, 0.02
#: Of the tunnels that there are, so many are named to whoever names another.
MOST_NAMED = 10
#: See :attr:`TunnelSettings.added`.
UNTIL_RESTART, KEPT = "until restart", "kept"

Place = tuple[str, int, str, str]


class IReader(Protocol):
    """Reads tunnels as the operator writes them.

    :ivar most: how many a client may have.
    """

    most: int

    def read(self, written: object) -> tuple[tuple[TunnelSettings, ...], AcmeSettings | None]:
        """Return the tunnels of one entry, as ``--publish`` and the settings' file have it, and where certificates come
        from, if they need any.

        :raises ConfigError: it is wrong, or cannot be with the settings of this process.
        """

    def places(self, written: str) -> Sequence[Place]:
        """Return the public places that an operator means by ``tcp:8080`` or ``tcp:8080=80``.

        :raises ConfigError: it is neither.
        """


class IStore(Protocol):
    """Keeps what was added, as the operator wrote it."""

    def write(self, entries: Sequence[object]) -> None:
        """Keep these, and no others.

        :raises ConfigError: that cannot be done.
        """


class Publishing:
    """Adds tunnels to those of a client, takes some away, and keeps what was added for the next start.

    :param settings: those of the start, without what is kept.
    :param kept: what is kept from before, as the operator wrote it.
    :ivar reader: reads tunnels by the settings of now.
    :ivar settings: those of the start, with all tunnels.
    :ivar notes: what the operator should know about what is kept.
    """

    def __init__(self, settings: ClientSettings, reader: IReader, store: IStore, kept: Sequence[object]) -> None:
        self.reader = reader
        self.settings = settings
        self.notes: list[str] = []
        self._store = store
        self._client: TunnelClient | None = None
        self._kept: dict[Place, object] = {}
        # What is kept, and cannot be used now.
        self._unusable: list[object] = []
        # What was added until the restart, as the operator would write it.
        self._added: dict[Place, object] = {}
        # What the settings have, and was taken away until the restart.
        self._unpublished: set[str] = set()
        for written in kept:
            try:
                new = _New(reader, self.settings.tunnels, [written], KEPT)
                challenge_tunnels(new.all, new.acme or self.settings.acme)
            except ConfigError as error:
                self._unusable.append(written)
                self.notes.append(f"what 'rtunnel publish --keep' has kept is not published: {error}")
            else:
                self.settings = replace(self.settings, tunnels=new.all, acme=new.acme or self.settings.acme)
                self._kept |= new.written

    def serve(self, client: TunnelClient) -> None:
        """Change the tunnels of this client, which has begun with :attr:`settings`."""
        self._client = client

    @property
    def _served(self) -> TunnelClient:
        assert self._client is not None
        return self._client

    @property
    def _present(self) -> list[TunnelSettings]:
        # Those for challenges come with others, and go with them.
        present = (wanted.settings for wanted in self._served.links.wanted)
        return [tunnel for tunnel in present if not tunnel.answers_challenges]

    def _keep(self, kept: dict[Place, object]) -> None:
        """Keep this, if it is something else than before."""
        if kept != self._kept:
            self._store.write([*self._unusable, *kept.values()])
            self._kept = kept

    async def _change(
        self, tunnels: Sequence[TunnelSettings], kept: dict[Place, object], acme: AcmeSettings | None = None
    ) -> None:
        """Serve these tunnels and keep that, or neither.

        :raises ConfigError: one of the two cannot be done.
        """
        before = self._kept
        self._keep(kept)
        try:
            applied = self._served.apply(tunnels, acme)
        except ConfigError:
            with suppress(ConfigError):
                self._keep(before)
            raise
        await applied

    # The actions

    async def publish(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve more tunnels, and return what has become of them.

        :raises ConfigError: one of them is wrong, or is there already; then nothing has changed.
        """
        only(asked, "tunnels", "keep")
        is_kept = asked.get("keep", False)
        if not isinstance(is_kept, bool):
            raise ConfigError("'keep' must be true or false")
        self._refuse_reference()
        new = _New(self.reader, self._present, _list_of(asked), KEPT if is_kept else UNTIL_RESTART)
        await self._change(new.all, self._kept | (new.written if is_kept else {}), new.acme)
        if not is_kept:
            self._added |= new.written
        found = await self._answers(new.tunnels)
        refused = {tunnel.place for tunnel, each in zip(new.tunnels, found, strict=True) if each["refused"]}
        if refused:
            left = [tunnel for tunnel in self._present if tunnel.place not in refused]
            await self._change(left, _without(self._kept, refused))
        return {"tunnels": found, "connected": bool(self._sessions)}

    async def unpublish(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve fewer tunnels, and return which.

        :raises ConfigError: one of them is not there; then nothing has changed.
        """
        only(asked, "tunnels")
        self._refuse_reference()
        present = self._present
        gone: dict[Place, TunnelSettings] = {}
        for written in _list_of(asked):
            gone |= {tunnel.place: tunnel for tunnel in self._meant(written, present)}
        left = [tunnel for tunnel in present if tunnel.place not in gone]
        await self._change(left, _without(self._kept, gone))
        self._unpublished.update(tunnel.shown_place for tunnel in gone.values() if not tunnel.added)
        return {
            "tunnels": [
                {"tunnel": tunnel.shown_place, "service": tunnel.local.in_full, "added": tunnel.added or None}
                for tunnel in gone.values()
            ]
        }

    def settings_apply(self, reader: IReader) -> None:
        """Take note that all tunnels of other settings are served from now on, with what was added beside them."""
        self.reader = reader
        self._unpublished.clear()

    # An upgrade

    def state(self) -> dict[str, Any]:
        """Return what was changed until the restart, as JSON has it, for the process that takes the place of this."""
        present = {tunnel.place: tunnel for tunnel in self._present}
        added = [self._added[place] for place, each in present.items() if each.added == UNTIL_RESTART]
        return {"added": added, "unpublished": sorted(self._unpublished)}

    def inherit(self, state: Mapping[str, Any]) -> None:
        """Serve what the predecessor has served, before this client starts. What the settings lack is not given up.

        :raises ConfigError: a tunnel cannot be, beside those of the settings of now.
        """
        self._unpublished = gone = set(state["unpublished"])
        tunnels: Sequence[TunnelSettings] = [each for each in self._present if each.shown_place not in gone]
        there = {each.place for each in tunnels}
        acme = None
        for written in state["added"]:
            read, _ = self.reader.read(written)
            if any(tunnel.place in there for tunnel in read):
                continue  # the settings have it by now
            new = _New(self.reader, tunnels, [written], UNTIL_RESTART)
            tunnels, acme = new.all, new.acme or acme
            self._added |= new.written
        self._served.apply(tunnels, acme)

    def _meant(self, written: object, present: Sequence[TunnelSettings]) -> list[TunnelSettings]:
        if not isinstance(written, str) or not written:
            raise ConfigError("a tunnel is named by text, such as tcp:8080")
        named = [tunnel for tunnel in present if written in (tunnel.name, tunnel.shown_name, tunnel.shown_place)]
        if named:
            return named
        try:
            places = self.reader.places(written)
        except ConfigError:
            places = ()
        found = [tunnel for tunnel in present if tunnel.place in places]
        if not found or len(found) < len(places):
            raise ConfigError(f"'{written}' is not published{_others(present)}")
        return found

    def _refuse_reference(self) -> None:
        if any(session.is_reference for session in self._sessions):
            raise ConfigError(
                "this server speaks the reference protocol, which carries one tunnel for as long as the link lasts; "
                "change the settings, and start the client again"
            )

    # What the server says

    @property
    def _sessions(self) -> list[Any]:
        """The links that are up."""
        return [session for session in self._served.links.sessions if not session.link.is_closed]

    async def _answers(self, new: Sequence[TunnelSettings]) -> list[dict[str, Any]]:
        """Return what becomes of tunnels, once each server has said it, or one that has not is silent for long."""
        clock = self._served.reactor
        until = clock.seconds() + ANSWER
        while True:
            found = [self._answer(tunnel) for tunnel in new]
            is_over = not self._sessions or clock.seconds() >= until
            if is_over or all(answers == len(self._sessions) for _, answers in found):
                return [answer for answer, _ in found]
            await deferLater(clock, LOOK_EVERY)

    def _answer(self, tunnel: TunnelSettings) -> tuple[dict[str, Any], int]:
        """Return what has become of a tunnel, and how many servers have said so. It is published if one has done it."""
        public: list[str] = []
        refused: list[str] = []
        for wanted in self._served.links.wanted:
            if wanted.settings.place == tunnel.place:
                states = [session.tunnel_of(wanted) for session in self._sessions]
                public = [each.public for each in states if each is not None and each.is_served]
                refused = [each.refusal for each in states if each is not None and each.refusal]
        return {
            "tunnel": tunnel.shown_place,
            "service": tunnel.local.in_full,
            "public": ", ".join(dict.fromkeys(public)) or None,
            "refused": None if public else ", ".join(dict.fromkeys(refused)) or None,
        }, len(public) + len(refused)


class _New:
    """Tunnels as an operator has written them, beside those that there are.

    :param present: those that there are.
    :param added: see :attr:`TunnelSettings.added`.
    :ivar tunnels: the new ones.
    :ivar all: these and those that there are.
    :ivar written: how each would be written alone.
    :ivar acme: where certificates come from; None: as before.
    :raises ConfigError: one is wrong, or cannot be beside what is there.
    """

    def __init__(
        self, reader: IReader, present: Sequence[TunnelSettings], entries: Sequence[object], added: str
    ) -> None:
        self.tunnels: list[TunnelSettings] = []
        self.written: dict[Place, object] = {}
        self.acme: AcmeSettings | None = None
        beside = {tunnel.place: tunnel for tunnel in present}
        for written in entries:
            tunnels, acme = reader.read(written)
            self.acme = acme or self.acme
            for tunnel in tunnels:
                self._check_free(tunnel, beside)
                beside[tunnel.place] = replace(tunnel, added=added)
                self.tunnels.append(tunnel)
                self.written[tunnel.place] = _entry(tunnel, written)
        if len(beside) > reader.most:
            raise ConfigError(f"a client has at most {reader.most:,} tunnels; start another client for more")
        self.all = tuple(beside.values())

    def _check_free(self, tunnel: TunnelSettings, beside: dict[Place, TunnelSettings]) -> None:
        there = beside.get(tunnel.place)
        if there is None:
            if tunnel.name and any(tunnel.name == each.name for each in beside.values()):
                raise ConfigError(f"another tunnel is named '{tunnel.name}'; give each a name of its own")
        elif there != tunnel or there.added != UNTIL_RESTART or tunnel in self.tunnels:
            # One that is there until the restart may be kept from now on.
            raise ConfigError(
                f"{tunnel.shown_place} is published already, for {there.local.in_full}; unpublish it first to change it"
            )


def _without(kept: dict[Place, object], gone: Container[Place]) -> dict[Place, object]:
    return {place: written for place, written in kept.items() if place not in gone}


def _list_of(asked: dict[str, Any]) -> list[object]:
    entries = asked.get("tunnels")
    if not isinstance(entries, list) or not entries:
        raise ConfigError("'tunnels' must be a list with at least one tunnel")
    return entries


def _entry(tunnel: TunnelSettings, written: object) -> object:
    """Return how an operator would write this tunnel alone, which may be one of a range."""
    one = f"{tunnel.shown_place}={tunnel.local}"
    if not isinstance(written, dict):
        return one
    rest = {key: value for key, value in written.items() if key.replace("-", "_") not in ("local", "remote_port")}
    return rest | {"publish": one} | ({"name": tunnel.name} if tunnel.name else {})


def _others(present: Sequence[TunnelSettings]) -> str:
    names = [tunnel.shown_place for tunnel in present]
    if not names:
        return "; nothing is"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; published: {', '.join(names[:MOST_NAMED])}{more}"


def actions(publishing: Publishing) -> Actions:
    """Return the two actions, by name."""
    return {"publish": publishing.publish, "unpublish": publishing.unpublish}
