#!/usr/bin/env bash
# txredisapi 1.6.0: values of Redis that come together are delivered one by one, each in its own turn of the reactor.
#
# A client of Twisted gives all that one read has brought to its protocol at once, as LineReceiver does. txredisapi's
# receiver takes one value (not so a status or a number), and asks the reactor to call it again for the rest. So the
# last of 500 replies of one read waits for 500 turns; where turns have other work to do, that is seconds, and a
# time-out for replies is over although Redis has answered at once.
#
# Expected: a few turns for 500 commands that are sent together. Seen: about 500.
set -euo pipefail
command -v redis-server > /dev/null || { echo "needs redis-server" >&2; exit 2; }
python=${PYTHON:-python3}
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install txredisapi==1.6.0 twisted==26.10.0
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' --dir "$folder" > "$folder/log" &
server=$!
for _ in $(seq 100); do [ -S "$folder/redis.sock" ] && break; sleep 0.1; done
cat > "$folder/ask.py" <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
import txredisapi
from twisted.internet import defer, reactor

COMMANDS = 500
turns = 0
run = reactor.runUntilCurrent


def count():
    global turns
    turns += 1
    run()


reactor.runUntilCurrent = count


async def ask():
    redis = await txredisapi.UnixConnection(sys.argv[1], reconnect=False)
    await redis.set("key", "value")
    before = turns
    asked = [redis.get("key") for _ in range(COMMANDS)]
    await defer.gatherResults(asked)
    print(turns - before)
    await redis.disconnect()


defer.ensureDeferred(ask()).addBoth(lambda result: reactor.stop())
reactor.callLater(30, reactor.stop)
reactor.run()
PYTHON
turns=$("$folder/venv/bin/python" "$folder/ask.py" "$folder/redis.sock")
echo "txredisapi 1.6.0, Twisted 26.10.0: 500 replies took $turns turns of the reactor"
[ "$turns" -ge 400 ]
