"""``rtunnel publish`` and ``rtunnel unpublish``: a tunnel more or less in the running client.

What the client serves is what its settings say, without what was unpublished, and with what was added. Some of what was
added is kept: it is there again when the client is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.task import deferLater

from rtunnel.acme.settings import AcmeSettings
from rtunnel.control.actions.perform import Actions, only
from rtunnel.errors import ConfigError
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings

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


class _Added:
    """A tunnel that was added, and how the operator wrote it."""

    def __init__(self, tunnel: TunnelSettings, written: object, *, is_kept: bool) -> None:
        self.tunnel = tunnel
        self.written = written
        self.is_kept = is_kept


class Publishing:
    """What a client serves, and how that came to be.

    :param settings: those of the start, without what was added.
    :param kept: what is kept from before, as the operator wrote it.
    """

    def __init__(self, settings: ClientSettings, reader: IReader, store: IStore, kept: Sequence[object]) -> None:
        self._base = settings.tunnels
        self._reader = reader
        self._store = store
        self._without: set[Place] = set()
        self._added: dict[Place, _Added] = {}
        # What is kept, and cannot be used now.
        self._unusable: list[object] = []
        self._acme = settings.acme
        self._client: TunnelClient | None = None
        #: What the operator should know about what is kept.
        self.notes: list[str] = []
        for written in kept:
            try:
                self._read(written, is_kept=True)
            except ConfigError as error:
                self._unusable.append(written)
                self.notes.append(f"what 'rtunnel publish --keep' has kept is not published: {error}")
        #: The settings with all tunnels.
        self.settings = replace(settings, tunnels=tuple(self._wanted()), acme=self._acme)

    def serve(self, client: TunnelClient) -> None:
        """Change the tunnels of this client, which has begun with :attr:`settings`."""
        self._client = client

    def _wanted(self) -> list[TunnelSettings]:
        base = [tunnel for tunnel in self._base if tunnel.place not in self._without]
        present = {tunnel.place for tunnel in base}
        added = [
            replace(each.tunnel, added=KEPT if each.is_kept else UNTIL_RESTART)
            for place, each in self._added.items()
            if place not in present
        ]
        return [*base, *added]

    async def _apply(self) -> None:
        assert self._client is not None
        await self._client.apply(self._wanted(), self._acme)

    async def reload(self, settings: ClientSettings) -> None:
        """Serve what the settings say now, and what was added. What was unpublished of the settings is back.

        :raises ConfigError: that cannot be done, and nothing has changed.
        """
        before = self._base, self._without, self._acme
        self._base, self._without, self._acme = settings.tunnels, set(), settings.acme or self._acme
        try:
            await self._apply()
        except ConfigError:
            self._base, self._without, self._acme = before
            raise

    def _keep(self) -> None:
        self._store.write([*self._unusable, *(each.written for each in self._added.values() if each.is_kept)])

    # The actions

    async def publish(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve more tunnels, and return what has become of them.

        :raises ConfigError: one of them is wrong, or is there already; then nothing has changed.
        """
        only(asked, "tunnels", "keep")
        entries, is_kept = _list_of(asked), asked.get("keep", False)
        if not isinstance(is_kept, bool):
            raise ConfigError("'keep' must be true or false")
        self._refuse_reference()
        before, without = dict(self._added), set(self._without)
        new: list[TunnelSettings] = []
        try:
            for written in entries:
                new += self._read(written, is_kept=is_kept, besides=new)
            if is_kept:
                self._keep()
            await self._apply()
        except ConfigError:
            self._added, self._without = before, without
            if is_kept:
                with suppress(ConfigError):
                    self._keep()
            raise
        found = await self._answers(new)
        refused = [tunnel for tunnel, each in zip(new, found, strict=True) if each["refused"]]
        if refused:
            for tunnel in refused:
                self._added.pop(tunnel.place, None)
            if is_kept:
                self._keep()
            await self._apply()
        return {"tunnels": found, "connected": self._session is not None}

    def _read(
        self, written: object, *, is_kept: bool, besides: Sequence[TunnelSettings] = ()
    ) -> tuple[TunnelSettings, ...]:
        """Add what an operator has written.

        :param besides: what the same operator has written before it.
        :raises ConfigError: it is wrong, or cannot be beside what is there.
        """
        tunnels, acme = self._reader.read(written)
        for tunnel in tunnels:
            self._check_free(tunnel, besides)
        if len(self._wanted()) + len(tunnels) > self._reader.most:
            raise ConfigError(f"a client has at most {self._reader.most:,} tunnels; start another client for more")
        self._acme = acme or self._acme
        for tunnel in tunnels:
            self._add(tunnel, _entry(tunnel, written), is_kept=is_kept)
        return tunnels

    def _add(self, tunnel: TunnelSettings, written: object, *, is_kept: bool) -> None:
        base = next((each for each in self._base if each == tunnel), None)
        if base is not None and tunnel.place in self._without:
            self._without.discard(tunnel.place)
        else:
            self._added[tunnel.place] = _Added(tunnel, written, is_kept=is_kept)

    def _check_free(self, tunnel: TunnelSettings, new: Sequence[TunnelSettings]) -> None:
        present = self._wanted()
        there = next((each for each in present if each.place == tunnel.place), None)
        if there is None:
            if tunnel.name and any(tunnel.name == each.name for each in present):
                raise ConfigError(f"another tunnel is named '{tunnel.name}'; give each a name of its own")
            return
        if there == tunnel and there.added == UNTIL_RESTART and tunnel not in new:
            return  # it is to be kept now
        raise ConfigError(
            f"{tunnel.shown_place} is published already, for {there.local.in_full}; unpublish it first to change it"
        )

    async def unpublish(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Serve fewer tunnels, and return which.

        :raises ConfigError: one of them is not there; then nothing has changed.
        """
        only(asked, "tunnels")
        self._refuse_reference()
        present = self._wanted()
        gone: dict[Place, TunnelSettings] = {}
        for written in _list_of(asked):
            gone |= {tunnel.place: tunnel for tunnel in self._meant(written, present)}
        before, without = dict(self._added), set(self._without)
        is_kept = any(place in self._added and self._added[place].is_kept for place in gone)
        for place in gone:
            self._added.pop(place, None)
            if any(tunnel.place == place for tunnel in self._base):
                self._without.add(place)
        try:
            if is_kept:
                self._keep()
            await self._apply()
        except ConfigError:
            self._added, self._without = before, without
            raise
        return {
            "tunnels": [
                {"tunnel": tunnel.shown_place, "service": tunnel.local.in_full, "added": tunnel.added or None}
                for tunnel in gone.values()
            ]
        }

    def _meant(self, written: object, present: Sequence[TunnelSettings]) -> list[TunnelSettings]:
        if not isinstance(written, str) or not written:
            raise ConfigError("a tunnel is named by text, such as tcp:8080")
        named = [tunnel for tunnel in present if written in (tunnel.name, tunnel.shown_name, tunnel.shown_place)]
        if named:
            return named
        try:
            places = self._reader.places(written)
        except ConfigError:
            places = ()
        found = [tunnel for tunnel in present if tunnel.place in places]
        if not found or len(found) < len(places):
            raise ConfigError(f"'{written}' is not published{_others(present)}")
        return found

    def _refuse_reference(self) -> None:
        if self._session is not None and self._session.is_reference:
            raise ConfigError(
                "this server speaks the reference protocol, which carries one tunnel for as long as the link lasts; "
                "change the settings, and start the client again"
            )

    # What the server says

    @property
    def _session(self) -> Any:
        if self._client is None or self._client.link.session is None or self._client.link.session.link.is_closed:
            return None
        return self._client.link.session

    async def _answers(self, new: Sequence[TunnelSettings]) -> list[dict[str, Any]]:
        assert self._client is not None
        clock = self._client.reactor
        until = clock.seconds() + ANSWER
        while True:
            found = [self._answer(tunnel) for tunnel in new]
            has_all = all(each["public"] or each["refused"] for each in found)
            if has_all or self._session is None or clock.seconds() >= until:
                return found
            await deferLater(clock, LOOK_EVERY)

    def _answer(self, tunnel: TunnelSettings) -> dict[str, Any]:
        assert self._client is not None
        public, refused = "", ""
        for wanted in self._client.link.wanted:
            state = self._session.tunnel_of(wanted) if self._session is not None else None
            if wanted.settings.place == tunnel.place and state is not None:
                public, refused = state.public if state.is_served else "", state.refusal
        return {
            "tunnel": tunnel.shown_place,
            "service": tunnel.local.in_full,
            "public": public or None,
            "refused": refused or None,
        }


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
