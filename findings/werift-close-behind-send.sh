#!/usr/bin/env bash
# werift 0.25.2: close() of a data channel right behind send() drops messages; of a message of 10,000 bytes all of it.
#
# close() begins a closing procedure, which first sends what the channel has still queued (W3C's WebRTC), and then
# resets the stream (RFC 8831, section 6.7). With aiortc and libdatachannel a program may send its answer and close.
# werift asks for the reset at once and names the last chunk that has been sent by then, so the peer closes its end
# there. What is queued behind it, two megabytes or the rest of one message, is lost without an error, although
# bufferedAmount has counted it.
#
# Expected: all messages arrive, whether or not the program waits for bufferedAmount to be 0. Seen: only if it waits.
set -euo pipefail
command -v npm > /dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --prefix "$folder" --no-audit --no-fund --loglevel error werift@0.25.2 > /dev/null
cat > "$folder/close.cjs" <<'NODE'
const { version } = require(`${__dirname}/node_modules/werift/package.json`);
const { RTCPeerConnection } = require("werift");

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** How many of these messages have arrived when the other end's channel closes. */
async function arrived(count, size, waits) {
  const [one, other] = [0, 1].map(() => new RTCPeerConnection({ iceServers: [] }));
  let messages = 0;
  const closed = new Promise((resolve) => {
    other.onDataChannel.subscribe((channel) => {
      channel.onMessage.subscribe((message) => (messages += message.length === size));
      channel.stateChanged.subscribe((state) => state === "closed" && resolve());
    });
  });
  const channel = one.createDataChannel("answers");
  const opened = new Promise((resolve) => channel.stateChanged.subscribe((state) => state === "open" && resolve()));
  await one.setLocalDescription(await one.createOffer());
  await other.setRemoteDescription(one.localDescription);
  await other.setLocalDescription(await other.createAnswer());
  await one.setRemoteDescription(other.localDescription);
  await opened;
  await pause(0.3);
  for (let number = 0; number < count; number++) channel.send(Buffer.alloc(size));
  const buffered = channel.bufferedAmount;
  while (waits && channel.bufferedAmount > 0) await pause(0.05);
  channel.close();
  await closed;
  await pause(0.5);
  await Promise.all([one.close(), other.close()]);
  console.log(`${count} of ${size} bytes, ${buffered} buffered, ${waits ? "waits" : "closes"}: ${messages} arrived`);
  return messages;
}

async function main() {
  console.log("werift", version, "node", process.version);
  const seen = [];
  for (const [count, size] of [[1, 10_000], [200, 10_000]])
    for (const waits of [true, false]) seen.push((await arrived(count, size, waits)) === count);
  const asSeen = String(seen) === "true,false,true,false";
  if (!asSeen) console.error("changed: see what is new");
  process.exit(asSeen ? 0 : 1);
}

setTimeout(() => process.exit(3), 50_000);
main();
NODE
node "$folder/close.cjs"
