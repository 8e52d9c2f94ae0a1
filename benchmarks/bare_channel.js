// One end of a data channel of libdatachannel, by npm's node-datachannel; see bare_channel.py. It is looked for where the
// tests have it: npm ci --prefix tests/peers/node

const { createInterface } = require("node:readline");
const { createRequire } = require("node:module");
const { join } = require("node:path");

const nodeDataChannel = createRequire(join(__dirname, "../tests/peers/node/run.js"))("node-datachannel");

const MESSAGE = Buffer.alloc(16384, "x");
const BUFFERED = 1 << 20;

const role = process.argv[2];
const connection = new nodeDataChannel.PeerConnection(role, { iceServers: [], maxMessageSize: 262144 });
let received = 0;

connection.onGatheringStateChange((state) => {
  if (state !== "complete") return;
  const { type, sdp } = connection.localDescription();
  console.log(JSON.stringify({ type, sdp }));
});

function fill(channel) {
  const more = () => {
    while (channel.isOpen() && channel.bufferedAmount() < BUFFERED) channel.sendMessageBinary(MESSAGE);
  };
  channel.setBufferedAmountLowThreshold(BUFFERED / 2);
  channel.onBufferedAmountLow(more);
  if (channel.isOpen()) more();
  else channel.onOpen(more);
}

let channel;
if (role === "receive") {
  channel = connection.createDataChannel("bare");
  channel.onMessage((message) => (received += message.length));
} else {
  connection.onDataChannel((opened) => fill((channel = opened)));
}

let described = false;
createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (!described) {
      described = true;
      const { type, sdp } = JSON.parse(line);
      // The sender waits for the receiver's checks. Else DTLS may begin before the receiver has read the fingerprint.
      connection.setRemoteDescription(role === "send" ? sdp.replace(/a=candidate:.*\r?\n/g, "") : sdp, type);
    } else {
      console.log(JSON.stringify([received, Number(process.hrtime.bigint()) / 1e9]));
    }
  })
  .on("close", () => process.exit(0));
