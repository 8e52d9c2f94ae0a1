"""Who an end is, by files that may change while it runs."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from rtunnel.access.identities import Identity
from rtunnel.errors import ConfigError
from rtunnel.rtc.rights.trusted import identity_of
from rtunnel.rtc.settings import EndSettings
from rtunnel.tls.identity import expiry_warning
from rtunnel.upkeep.watched_files import WatchedFiles

#: How many seconds pass between two warnings that the certificate expires.
WARN_EVERY = 86400.0
CHANGED = "the files of this end's certificate have changed; new connections use them"


class OwnIdentity(WatchedFiles[Identity]):
    """The identity of an end. That of an organisation's CA is read again when its files change.

    One that the end has made itself never changes, so its file is not watched.

    :raises ConfigError: see :func:`~rtunnel.rtc.rights.trusted.identity_of`.
    """

    log = Logger()

    def __init__(self, settings: EndSettings) -> None:
        chosen = settings.identity
        files = () if chosen.cert is None or chosen.key is None else (chosen.cert, chosen.key)
        self._warned_at: float | None = None
        super().__init__(files, lambda: identity_of(settings))

    def look(self, now: float, use: Callable[[Identity], None]) -> bool:
        """Read the files again if they have changed, and return whether :attr:`now` is another identity.

        What has changed is logged, and once a day that the certificate has expired or soon will. Call it once a
        second.

        :param now: in seconds, by the reactor's clock.
        :param use: makes the end be that one in later connections, or raises a ConfigError.
        """
        before, is_read = self.now, False
        try:
            if self.refresh():
                use(self.now)
                is_read = True
        except ConfigError as error:
            self.log.warn("{error}; the certificate of before stays in use until that is mended", error=error)
        if is_read:
            self.log.info(CHANGED)
        if is_read or self._warned_at is None or now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            for each in (self.now.certificate, *self.now.chain):
                if warning := expiry_warning(each):
                    self.log.warn("{warning}", warning=warning)
        return is_read and self.now != before
