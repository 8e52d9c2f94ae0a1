"""What an end announces beside its session description."""

from __future__ import annotations

from typing import Any

import pytest

from rtunnel.wire.webrtc.signaling import OFFER, Description, Extension, description_payload, read_description

HEDGE = ("Classic-McEliece-6688128", "FrodoKEM-1344-AES")


def _read(**extension: object) -> Extension | None:
    payload = {"sdp": {"type": OFFER, "sdp": "v=0"}, "rtunnel": {"version": 1, "initial_credit": 1, **extension}}
    return read_description(OFFER, payload).extension


def test_all_of_it() -> None:
    extension = Extension(65536, ice_restart=True, seal=True, invitation="7", hedge=HEDGE)
    payload: Any = description_payload(OFFER, Description("v=0", extension))
    assert payload["rtunnel"]["hedge"] == list(HEDGE)
    assert read_description(OFFER, payload).extension == extension


def test_without_hedges_nothing_is_said_of_them() -> None:
    payload: Any = description_payload(OFFER, Description("v=0", Extension(65536, seal=True)))
    assert payload["rtunnel"] == {"version": 1, "initial_credit": 65536, "ice_restart": False, "seal": 1}
    assert _read(seal=1) == Extension(1, seal=True)


@pytest.mark.parametrize("hedge", [None, HEDGE[0], 5, {}, [5], ["a", None], ["x" * 65], ["x"] * 17, [["x"]]])
def test_odd_hedges_are_none(hedge: object) -> None:
    assert _read(seal=1, hedge=hedge) == Extension(1, seal=True)


def test_names_that_would_spoil_a_log() -> None:
    found = _read(hedge=["a\nb", "x" * 64])
    assert found is not None
    assert found.hedge == ("a?b", "x" * 64)
