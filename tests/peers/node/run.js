// An engine of npm as a peer: node run.js node-datachannel. Commands and answers are lines of JSON.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { Peer } from "../peer.js";

const ENGINES = {
  "node-datachannel": async () => (await import("node-datachannel/polyfill")).RTCPeerConnection,
  werift: async () => (await import("werift")).RTCPeerConnection,
};

function sha256() {
  const hash = createHash("sha256");
  return { update: (bytes) => hash.update(bytes), hex: async () => hash.copy().digest("hex") };
}

const peer = new Peer(await ENGINES[process.argv[2]](), { iceServers: [] }, sha256);

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = { id: command.id, value: await peer.do(command) };
    } catch (error) {
      answer = { id: command.id, error: String(error?.stack ?? error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  })
  .on("close", () => process.exit(0));
