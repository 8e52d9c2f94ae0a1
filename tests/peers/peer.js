// The other end of the tests in this folder, for every engine with the browsers' interface: it does what commands say.
//
//   const peer = new Peer(RTCPeerConnection, configuration, sha256);
//   const value = await peer.do({ do: "open", label: "a", options: { ordered: false } });
//
// sha256() makes a digest with update(bytes) and async hex(). Channels whose labels begin with "echo" send back what
// comes.

const PATTERN = 1 << 20;
const HIGH_WATER = 1 << 20;

const pattern = new Uint8Array(2 * PATTERN);
for (let i = 0; i < PATTERN; i++) {
  pattern[i] = pattern[i + PATTERN] = (i * i * 31 + i * 7 + (i >> 8) * 13) % 256;
}

// Message number n of any stream; see content() in engines.py.
function content(number, size) {
  const begin = (number * 7919) % PATTERN;
  const message = pattern.slice(begin, begin + size);
  if (size >= 4) new DataView(message.buffer).setUint32(0, number);
  return message;
}

function until(look) {
  return new Promise((done) => {
    const again = () => (look() ? done() : setTimeout(again, 5));
    again();
  });
}

class Books {
  constructor(channel, digest) {
    this.channel = channel;
    this.digest = digest;
    this.count = this.bytes = this.texts = 0;
    this.numbers = [];
    this.closed = false;
    channel.binaryType = "arraybuffer";
    channel.onmessage = (event) => this.take(event.data);
    channel.onclose = () => (this.closed = true);
  }

  take(data) {
    const text = typeof data === "string";
    const bytes = text ? new TextEncoder().encode(data) : new Uint8Array(data);
    this.count += 1;
    this.bytes += bytes.length;
    this.texts += text ? 1 : 0;
    if (bytes.length >= 4 && this.numbers.length < 10000) {
      this.numbers.push(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0));
    }
    this.digest.update(bytes);
    // An empty message is sent as one.
    if (this.channel.label.startsWith("echo")) this.channel.send(text ? data : bytes);
  }

  async report() {
    const { count, bytes, texts, numbers } = this;
    const { ordered, maxRetransmits, maxPacketLifeTime, protocol } = this.channel;
    const sha256 = await this.digest.hex();
    return { count, bytes, texts, numbers, sha256, ordered, maxRetransmits, maxPacketLifeTime, protocol };
  }
}

export class Peer {
  constructor(RTCPeerConnection, configuration, sha256) {
    this.connection = new RTCPeerConnection(configuration);
    this.sha256 = sha256;
    this.books = new Map();
    this.connection.ondatachannel = (event) => this.add(event.channel);
  }

  add(channel) {
    this.books.set(channel.label, new Books(channel, this.sha256()));
    return channel;
  }

  async find(label) {
    await until(() => this.books.has(label));
    return this.books.get(label);
  }

  do(command) {
    return this["do_" + command.do](command);
  }

  async describe(description) {
    await this.connection.setLocalDescription(description);
    await until(() => this.connection.iceGatheringState === "complete");
    return this.connection.localDescription.sdp;
  }

  async do_offer({ label }) {
    this.add(this.connection.createDataChannel(label));
    return this.describe(await this.connection.createOffer());
  }

  async do_answer({ sdp }) {
    await this.connection.setRemoteDescription({ type: "offer", sdp });
    return this.describe(await this.connection.createAnswer());
  }

  async do_take({ sdp }) {
    await this.connection.setRemoteDescription({ type: "answer", sdp });
    return null;
  }

  async do_open({ label, options }) {
    const channel = this.add(this.connection.createDataChannel(label, options));
    await until(() => channel.readyState === "open");
    return null;
  }

  // Send messages of these sizes, so many times. An engine that keeps little is not given more than that.
  async do_send({ label, sizes, times, text }) {
    const { channel } = await this.find(label);
    await until(() => channel.readyState === "open");
    let number = 0;
    for (let time = 0; time < times; time++) {
      for (const size of sizes) {
        if (channel.bufferedAmount > HIGH_WATER) await until(() => channel.bufferedAmount < HIGH_WATER / 2);
        channel.send(text ? "ü" + "x".repeat(size) : content(number, size));
        number += 1;
      }
    }
    return number;
  }

  async do_close({ label }) {
    (await this.find(label)).channel.close();
    return null;
  }

  async do_received({ label, count }) {
    const books = await this.find(label);
    await until(() => books.count >= count);
    return books.report();
  }

  async do_closed({ label }) {
    const books = await this.find(label);
    await until(() => books.closed);
    return books.report();
  }

  async do_bye() {
    this.connection.close();
    return null;
  }
}
