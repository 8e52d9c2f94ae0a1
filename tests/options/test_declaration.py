"""A setting is declared once: what derives from the declaration, and that declarations and dataclasses agree."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import pytest

from rtunnel.access.admission import AdmissionSettings
from rtunnel.acme.settings import AcmeSettings
from rtunnel.coercions import text
from rtunnel.options.settings import reverse, rtc
from rtunnel.options.settings.declaration import COUNT, PATH, SWITCH, TEXT, TIME_OR_ZERO, Kind, Setting, sizes, words
from rtunnel.options.settings.tables import with_tables
from rtunnel.reverse.settings import ClientSettings, ServerSettings
from rtunnel.rtc import settings as rtc_settings
from rtunnel.tls.policy import TlsSettings
from rtunnel.wire.limits import ChannelLimits, LinkLimits


@dataclass
class Owner:
    required: int
    max_links: int = 5
    names: tuple[str, ...] = field(default_factory=lambda: ("a", "b"))


def test_all_names_come_from_one() -> None:
    setting = Setting("max-links", COUNT, "")
    assert (setting.field, setting.key) == ("max_links", "max_links")
    assert setting.variables == ["RTUNNEL_MAX_LINKS"]


@pytest.mark.parametrize(
    ("key", "expected", "variable"),
    [
        ("", "max_links", "WTT_MAX_LINKS"),
        ("server.", "server.max_links", "WTT_SERVER_MAX_LINKS"),
        ("server.most", "server.most", "WTT_SERVER_MOST"),
    ],
)
def test_key_and_variable_of_the_reference(key: str, expected: str, variable: str) -> None:
    setting = Setting("max-links", COUNT, "", key=key, in_reference=True)
    assert setting.key == expected
    assert setting.variables == ["RTUNNEL_MAX_LINKS", variable]


def test_the_default_is_that_of_the_field() -> None:
    assert Setting("max-links", COUNT, "", Owner).default == 5
    assert Setting("name", TEXT, "", Owner, "names").default == ("a", "b")
    assert Setting("required", COUNT, "", Owner).default is None
    assert Setting("required", COUNT, "", Owner, default=7).default == 7
    assert Setting("max-links", COUNT, "").default is None


def test_a_field_that_does_not_exist() -> None:
    with pytest.raises(KeyError, match="max_link"):
        Setting("max-link", COUNT, "", Owner)


@pytest.mark.parametrize(
    ("kind", "default", "shown"),
    [
        (COUNT, 5, "5"),
        (TIME_OR_ZERO, 0.0, "0"),
        (TIME_OR_ZERO, 1.5, "1.5"),
        (sizes(1, 1 << 30), 65536, "64K"),
        (words("a", "b"), "a", "a"),
        (Kind(text, "", ",".join), ("a", "b"), "a,b"),
        (Kind(text, "", ",".join), (), ""),
        (SWITCH, False, ""),
        (PATH, None, ""),
        (TEXT, "", ""),
    ],
)
def test_shown_default(kind: Kind, default: object, shown: str) -> None:
    assert Setting("x", kind, "", default=default).shown_default == shown


#: Fields that no setting decides alone: groups of settings, and what comes from several settings together.
COMPOSED = {
    *("acme", "limits", "tls", "admission", "tunnels", "signal", "ice", "services", "forwards", "identity"),
    # The servers behind the first one, which are in the setting "server" too.
    "other_servers",
    # No settings, but what is on the command line.
    *("invite", "invitation"),
}


@pytest.mark.parametrize(
    ("declared", "owners"),
    [
        (reverse.SERVER, [ServerSettings, LinkLimits, AdmissionSettings]),
        (reverse.CLIENT, [ClientSettings, TlsSettings, AcmeSettings]),
        (rtc.SIGNAL, [rtc_settings.SignalSettings]),
        (rtc.HOST, [rtc_settings.HostSettings, rtc_settings.SignalClientSettings, ChannelLimits]),
        (rtc.CLIENT, [rtc_settings.ClientSettings]),
        # Host and client hand --ca-file to both groups.
        ([*rtc.ENDS, Setting("ca-file", PATH, "", rtc_settings.IceSettings)], [rtc_settings.IceSettings]),
    ],
)
def test_every_field_has_a_setting_of_the_same_default(declared: tuple[Setting, ...], owners: list[type[Any]]) -> None:
    for owner in owners:
        settings = {s.field: s for s in declared if s.owner is not None and issubclass(owner, s.owner)}
        assert set(settings) == {each.name for each in fields(owner)} - COMPOSED
        for each in fields(owner):
            if each.name in settings and each.default is not MISSING and each.name != "stun_server":
                assert settings[each.name].default == each.default


def test_tables_are_replaced_and_the_rest_stays() -> None:
    document = "before\n\n.. options: TLS of rtunnel-server\n\nold\nrows\n\nafter\n"
    made = with_tables(document)
    assert made.startswith("before\n\n.. options: TLS of rtunnel-server\n\n===")
    assert "\n``--clients``      ``RTUNNEL_CLIENTS``      ``clients``      none    path   at once\n" in made
    assert made.endswith("==\n\nafter\n")
    assert with_tables(made) == made


def test_a_table_that_does_not_exist() -> None:
    with pytest.raises(KeyError, match="nobody"):
        with_tables(".. options: nobody\n\nold\n")
