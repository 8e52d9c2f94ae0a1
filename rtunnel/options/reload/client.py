"""How ``rtunnel-client`` takes other settings while it runs."""

from __future__ import annotations

from typing import Any

from rtunnel.control.actions.publish import Publishing
from rtunnel.errors import ConfigError
from rtunnel.options.change.reader import TunnelReader
from rtunnel.options.plugins.reactor import look_up_first
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.reload.shared import budget_of, drain_of
from rtunnel.options.settings.acme import ACME
from rtunnel.options.settings.declaration import Reload
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings

_TUNNELS = frozenset({"local", "remote-port", "tunnel", "publish", "dial-timeout", "check-services"})


def reloadable(client: TunnelClient, publishing: Publishing) -> Reloadable:
    """Return what applies other settings to a client.

    :param publishing: reads what 'rtunnel publish' adds.
    """
    acme = frozenset(setting.name for setting in ACME if setting.reload is not Reload.RESTART)
    links = client.links

    def use(new: Any) -> None:
        settings: ClientSettings = new.settings
        look_up_first(client.reactor, *settings.first_hosts)
        links.use(settings)
        publishing.reader = TunnelReader(new.resolved)

    def tunnels(new: Any) -> None:
        settings: ClientSettings = new.settings
        # Those that came by 'rtunnel publish' stay.
        places = {tunnel.place for tunnel in settings.tunnels}
        added = [each.settings for each in links.wanted if each.settings.added and each.settings.place not in places]
        before = client.settings
        links.wanted.dial_with(settings.dial_timeout, check=settings.check_services)
        try:
            client.apply([*settings.tunnels, *added], settings.acme)
        except ConfigError:
            links.wanted.dial_with(before.dial_timeout, check=before.check_services)
            raise
        links.set_dial_timeout(settings.dial_timeout)
        publishing.settings_apply(TunnelReader(new.resolved))

    parts = (Part(_TUNNELS | acme, tunnels), drain_of(client), budget_of(links.memory))
    return Reloadable(client, parts, others=use)
