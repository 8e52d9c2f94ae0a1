#!/usr/bin/env bash
# aioice 0.13: an agent that is told "end of candidates" without a candidate never finds a path, although its peer's
# checks arrive and it answers them.
#
# An offer may hold no candidate that the other end can use: browsers hide their addresses behind .local names, which
# often cannot be looked up. The peer's own checks then make a peer-reflexive candidate (RFC 8445, section 7.3.1.3), and
# RFC 8863 asks agents to wait for that instead of failing. aioice drops all of its components when the candidates end
# and there are none, and so it never nominates the pair. The peer's end connects.
#
# Expected: both connect, as they do if the end of candidates is never told. Seen: one raises ConnectionError.
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install aioice==0.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import importlib.metadata
import sys

import aioice


async def outcome(connection):
    try:
        await asyncio.wait_for(connection.connect(), 15)
    except (ConnectionError, TimeoutError) as error:
        return type(error).__name__
    return "connected"


async def meet(tell_the_end):
    """What becomes of an agent that knows all candidates of the other, and of the other, which knows none."""
    knows, other = aioice.Connection(ice_controlling=True), aioice.Connection(ice_controlling=False)
    for connection in (knows, other):
        await connection.gather_candidates()
    for one, two in ((knows, other), (other, knows)):
        one.remote_username, one.remote_password = two.local_username, two.local_password
    for candidate in [*other.local_candidates, None]:
        await knows.add_remote_candidate(candidate)
    if tell_the_end:
        await other.add_remote_candidate(None)
    waiting = asyncio.ensure_future(outcome(other))
    await asyncio.sleep(0.5)
    seen = await outcome(knows), await waiting
    await asyncio.gather(knows.close(), other.close())
    return seen


print("aioice", importlib.metadata.version("aioice"))
seen = {end: asyncio.run(meet(end)) for end in (False, True)}
print("the end is not told:", *seen[False])
print("the end is told:", *seen[True])
as_seen = seen[False] == ("connected", "connected") and seen[True][1] == "ConnectionError"
sys.exit(0 if as_seen else "changed: see what is new")
PYTHON
