// End-to-end encryption of encoded frames, as pages do it with RTCRtpScriptTransform: the worker and what it is attached
// to. The cipher is a key stream that anybody could guess; what matters is that the server cannot read it.

/** Runs in the worker. A frame is sealed behind its first bytes, and ends with its seed and a mark. */
function work() {
  const MARK = 0x5ea1ed00;
  const TRAILER = 8;

  function cipher(bytes, seed) {
    let state = seed;
    for (let at = 0; at < bytes.length; at++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      bytes[at] ^= state;
    }
  }

  function seal(frame, { clear, on }) {
    if (!on) return;
    const plain = new Uint8Array(frame.data);
    const sealed = new Uint8Array(plain.length + TRAILER);
    sealed.set(plain);
    const seed = 1 + Math.floor(Math.random() * 0xffff_fffe);
    cipher(sealed.subarray(clear?.[frame.type] ?? 0, plain.length), seed);
    const trailer = new DataView(sealed.buffer, plain.length);
    trailer.setUint32(0, seed);
    trailer.setUint32(4, MARK);
    frame.data = sealed.buffer;
  }

  function open(frame, { clear }) {
    const sealed = new Uint8Array(frame.data);
    const end = sealed.length - TRAILER;
    if (end < 0) return;
    const trailer = new DataView(frame.data, end);
    if (trailer.getUint32(4) !== MARK) return;
    const plain = sealed.slice(0, end);
    // Of a frame whose type is hidden, the browser that receives it knows no type either.
    cipher(plain.subarray(clear?.[frame.type] ?? 0), trailer.getUint32(0));
    frame.data = plain.buffer;
  }

  onrtctransform = ({ transformer: { readable, writable, options } }) => {
    const how = { ...options, on: options.on ?? true };
    options.port.onmessage = ({ data }) => {
      how.on = data;
    };
    const transform = (frame, controller) => {
      if (how.seals) seal(frame, how);
      else open(frame, how);
      controller.enqueue(frame);
    };
    readable.pipeThrough(new TransformStream({ transform })).pipeTo(writable);
  };
}

export class Encryption {
  #worker = new Worker(URL.createObjectURL(new Blob([`(${work})()`], { type: 'text/javascript' })));
  #senders = [];

  /** `clear`: bytes that stay readable of a video frame, by its type. */
  constructor({ clear, on } = {}) {
    this.clear = clear;
    this.on = on;
  }

  #transform(kind, seals) {
    const { port1, port2 } = new MessageChannel();
    const clear = kind === 'video' ? this.clear : undefined;
    const transform = new RTCRtpScriptTransform(this.#worker, { seals, clear, on: this.on, port: port2 }, [port2]);
    return [transform, port1];
  }

  attachSender(sender) {
    const [transform, port] = this.#transform(sender.track.kind, true);
    sender.transform = transform;
    this.#senders.push(port);
  }

  attachReceiver(receiver) {
    [receiver.transform] = this.#transform(receiver.track.kind, false);
  }

  /** Whether frames are sealed from now on. */
  turn(on) {
    for (const port of this.#senders) port.postMessage(on);
  }
}
