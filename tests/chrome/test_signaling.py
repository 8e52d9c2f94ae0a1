"""Two ends that know nothing of us, and our signaling server between them."""

from __future__ import annotations

from collections.abc import Callable

from tests.chrome.ends import Ends
from tests.process.services import Service, fetch, page

Serve = Callable[..., Service]


def test_with_the_token(ends: Ends, serve: Serve) -> None:
    ends.start_signaling("--valid-tokens=other,secret")
    ends.start_host("chrome", serve(GET=page("for those who know")).address, "--token=secret")
    ends.start_client("chrome", "--token=secret")
    assert fetch(ends.local) == "for those who know"
