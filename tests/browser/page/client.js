// The strict five-message client: mediasoup-client and nothing but what signalling-seed tells: no requestId, no ids,
// replies matched to requests in order. Requests beyond the five are sent only by tests that are about them.

import { Device } from 'mediasoup-client';
import { Encryption } from './encryption.js';
import { Returning } from './returning.js';

const NOTIFICATIONS = new Set([
  'peer-joined', 'peer-left', 'peer-away', 'peer-back', 'new-producer', 'producer-closed', 'producer-paused', 'producer-resumed',
  'consumer-closed', 'consumer-paused', 'consumer-resumed', 'transport-state', 'consumer-layers-changed',
  'producer-layers', 'audio-levels', 'active-speaker', 'last-n-changed', 'producer-muted', 'producer-unmuted',
  'peer-updated', 'peer-waiting', 'waiting-ended', 'waiting', 'admitted', 'channel-changed', 'grants-changed', 'message',
  'messages-missed',
]);

window.Client = class Client {
  waiting = [];
  notifications = [];
  producers = new Map();
  consumers = new Map();
  watched = new Map();

  /**
   * `receiveThrough`: the port that stands before the server's, on the way to this page; `encryption`: how frames are
   * encrypted end to end, if they are; `returns`: it comes back when its socket breaks.
   */
  static async join(address, { receiveThrough, encryption, returns } = {}) {
    const client = new Client();
    client.receiveThrough = receiveThrough;
    client.encryption = encryption && new Encryption(encryption);
    client.socket = new WebSocket(address);
    await new Promise((resolve, reject) => {
      client.socket.onopen = resolve;
      client.socket.onerror = () => reject(new Error('the socket was refused'));
    });
    client.socket.onmessage = ({ data }) => client.take(JSON.parse(data));
    client.socket.onclose = ({ code }) => client.notifications.push({ type: 'closed', data: { code } });
    if (returns) client.returning = await Returning.begin(client);
    client.device = await Device.factory();
    await client.device.load({ routerRtpCapabilities: await client.ask('get-rtp-capabilities') });
    return client;
  }

  take(message) {
    this.returning?.took(message);
    // The last word to a client that has to go answers no request.
    const last = message.type === 'error' && message.data.request === null;
    if (last || NOTIFICATIONS.has(message.type)) {
      this.notifications.push(message);
      this.follows?.(message);
      return;
    }
    const { resolve, reject } = this.waiting.shift();
    if (message.type !== 'error') resolve(message.data);
    else reject(Object.assign(new Error(message.data.message), { code: message.data.code }));
  }

  isNews(type) {
    return NOTIFICATIONS.has(type);
  }

  ask(type, data) {
    return new Promise((resolve, reject) => {
      const text = JSON.stringify(data === undefined ? { type } : { type, data });
      this.waiting.push({ resolve, reject, text });
      if (!this.returning?.broken) this.socket.send(text);
    });
  }

  async transport(direction) {
    const parameters = await this.ask('create-transport');
    if (direction === 'recv' && this.receiveThrough) {
      for (const candidate of parameters.iceCandidates) candidate.port = this.receiveThrough;
    }
    const transport =
      direction === 'send' ? this.device.createSendTransport(parameters) : this.device.createRecvTransport(parameters);
    transport.on('connect', ({ dtlsParameters }, done, failed) => {
      this.ask('connect-transport', { dtlsParameters }).then(done, failed);
    });
    transport.on('produce', ({ kind, rtpParameters }, done, failed) => {
      const told = this.unscaled ? withoutSizes(rtpParameters) : rtpParameters;
      this.ask('produce', { kind, rtpParameters: told }).then(done, failed);
    });
    return transport;
  }

  /**
   * `source`: 'camera', 'noise' (a picture that no encoder makes small), 'clock' (which `timeline` reads) or 'voice' (a
   * sound; see `speak`). `screen`: what is sent is a shared screen to the browser. `unscaled`: the server is not told how
   * large the encodings are.
   */
  async publish({ kinds = ['audio', 'video'], codec, source = 'camera', screen = false, width = 320, height = 240, rate = 15, maxBitrate, encodings: layered, unscaled = false } = {}) {
    this.sender ??= await this.transport('send');
    this.unscaled = unscaled;
    if (source === 'voice') this.voice = voice();
    const stream = source === 'noise'
      ? noise(width, height, rate)
      : source === 'clock'
      ? clock(width, height, rate)
      : source === 'voice'
      ? this.voice.stream
      : await navigator.mediaDevices.getUserMedia({
          audio: kinds.includes('audio'),
          video: kinds.includes('video') && { width, height, frameRate: rate },
        });
    const made = {};
    for (const track of stream.getTracks()) {
      const wanted = codec && track.kind === 'video'
        ? this.device.sendRtpCapabilities.codecs.find(({ mimeType }) => mimeType.toLowerCase() === codec.toLowerCase())
        : undefined;
      if (codec && track.kind === 'video' && !wanted) throw new Error(`this browser sends no ${codec}`);
      if (screen && track.kind === 'video') track.contentHint = 'detail';
      const encodings = track.kind === 'video' ? layered ?? (maxBitrate && [{ maxBitrate }]) : undefined;
      const onRtpSender = (sender) => this.encryption?.attachSender(sender);
      const producer = await this.sender.produce({ track, codec: wanted, encodings, onRtpSender });
      this.producers.set(track.kind, producer);
      made[track.kind] = producer.id;
    }
    return made;
  }

  /** As a page does that sends nothing that nobody wants: the encodings of a `producer-layers`. */
  async sendWanted(kind, encodings) {
    const sender = this.producers.get(kind).rtpSender;
    const parameters = sender.getParameters();
    for (const [place, { wanted }] of encodings.entries()) parameters.encodings[place].active = wanted;
    await sender.setParameters(parameters);
  }

  /** The header extensions that this browser sends. */
  extensions(kind) {
    return this.producers.get(kind).rtpSender.getParameters().headerExtensions.map(({ uri }) => uri);
  }

  speak(aloud) {
    this.voice.gain.value = aloud ? 0.5 : 0;
  }

  turnEncryption(on) {
    this.encryption.turn(on);
  }

  /** As a page with a camera button does that knows only the five messages: nobody is told. */
  unpublish(kind) {
    this.producers.get(kind).close();
    this.producers.delete(kind);
  }

  /** `withoutExtension`: a part of the name of one that this page is to say it does not know. */
  async consume({ withoutExtension, ...further } = {}) {
    this.receiver ??= await this.transport('recv');
    const { codecs, headerExtensions } = this.device.recvRtpCapabilities;
    const known = ({ uri }) => !withoutExtension || !uri.includes(withoutExtension);
    const rtpCapabilities = { codecs, headerExtensions: headerExtensions.filter(known) };
    let parameters;
    try {
      parameters = await this.ask('consume', { rtpCapabilities, ...further });
    } catch (error) {
      return { code: error.code, message: error.message };
    }
    const { id, producerId, kind, rtpParameters } = parameters;
    const onRtpReceiver = (receiver) => this.encryption?.attachReceiver(receiver);
    const consumer = await this.receiver.consume({ id, producerId, kind, rtpParameters, onRtpReceiver });
    this.consumers.set(id, consumer);
    if (kind === 'video') this.watch(id, consumer.track);
    const element = document.createElement(kind);
    element.autoplay = true;
    element.srcObject = new MediaStream([consumer.track]);
    document.body.append(element);
    return { id, producerId, kind };
  }

  /** Consumes all that is there and whatever comes, and closes what ends, as a page that subscribes does it. */
  async follow() {
    let last = Promise.resolve();
    const take = (producerId) => {
      last = last.then(() => this.consume({ producerId }));
    };
    this.follows = ({ type, data }) => {
      if (type === 'new-producer') take(data.id);
      if (type === 'consumer-closed') this.consumers.get(data.id)?.close();
    };
    const { peers } = await this.ask('subscribe');
    for (const { id } of peers.flatMap(({ producers }) => producers)) take(id);
    await last;
  }

  /** Notes the longest time between two decoded frames since the last call of `longestGap`. */
  async watch(id, track) {
    if (!window.MediaStreamTrackProcessor) return; // Firefox has it in workers alone.
    const frames = new MediaStreamTrackProcessor({ track }).readable.getReader();
    const watched = { longest: 0, last: undefined };
    this.watched.set(id, watched);
    for (;;) {
      const { value, done } = await frames.read();
      if (done) return;
      value.close();
      const now = performance.now();
      if (watched.last !== undefined) watched.longest = Math.max(watched.longest, now - watched.last);
      watched.last = now;
    }
  }

  longestGap(id) {
    const watched = this.watched.get(id);
    const longest = Math.max(watched.longest, watched.last === undefined ? 0 : performance.now() - watched.last);
    watched.longest = 0;
    return Math.round(longest);
  }

  /**
   * Of a consumer of a 'clock' that was made paused: it is resumed, and each picture of the next `ms` is noted as
   * [milliseconds since then, its age when it was shown]. With the statistics from `settled` ms on.
   */
  async timeline(id, ms, settled) {
    const consumer = this.consumers.get(id);
    const frames = new MediaStreamTrackProcessor({ track: consumer.track }).readable.getReader();
    const start = Date.now();
    const shown = [];
    const ends = new Promise((resolve) => setTimeout(resolve, ms, { done: true }));
    const statistics = new Promise((resolve) => setTimeout(() => resolve(this.received(id)), settled));
    await this.ask('resume-consumer', { consumerId: id });
    for (;;) {
      const { value, done } = await Promise.race([frames.read(), ends]);
      if (done) break;
      const now = Date.now();
      const drawn = await readClock(value);
      value.close();
      shown.push([now - start, (now - drawn) & CLOCK_MASK]);
    }
    return { shown, settled: await statistics, end: await this.received(id) };
  }

  closeConsumer(id) {
    const consumer = this.consumers.get(id);
    consumer.close();
    return consumer.track.readyState;
  }

  async received(id) {
    const report = await this.consumers.get(id).getStats();
    for (const stat of report.values()) {
      if (stat.type !== 'inbound-rtp') continue;
      return { ...stat, codec: report.get(stat.codecId)?.mimeType };
    }
    return null;
  }

  async sent(kind) {
    const report = await this.producers.get(kind).getStats();
    const found = [...report.values()].find(({ type }) => type === 'outbound-rtp');
    const pair = [...report.values()].find(({ type, nominated }) => type === 'candidate-pair' && nominated);
    const remote = [...report.values()].find(({ type }) => type === 'remote-inbound-rtp');
    return found && {
      ...found,
      codec: report.get(found.codecId)?.mimeType,
      availableOutgoingBitrate: pair?.availableOutgoingBitrate,
      fractionLost: remote?.fractionLost,
      roundTripTime: remote?.roundTripTime,
    };
  }
};

window.videoCodecs = () => RTCRtpSender.getCapabilities('video').codecs.map(({ mimeType }) => mimeType);

/** Silent until its gain is raised. */
function voice() {
  const context = new AudioContext();
  const tone = new OscillatorNode(context, { frequency: 220 });
  const volume = new GainNode(context, { gain: 0 });
  const out = context.createMediaStreamDestination();
  tone.connect(volume).connect(out);
  tone.start();
  return { stream: out.stream, gain: volume.gain };
}

/** A row of squares over the picture, white where the bit of the time in milliseconds is set. */
const CLOCK_BITS = 20;
const CLOCK_MASK = 2 ** CLOCK_BITS - 1;

function clock(width, height, rate) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d');
  const side = width / CLOCK_BITS;
  setInterval(() => {
    const now = Date.now() & CLOCK_MASK;
    context.fillStyle = `hsl(${(now / 10) % 360} 80% 50%)`;
    context.fillRect((now / 5) % width, side + ((now / 7) % (height - side)), 80, 80);
    for (let bit = 0; bit < CLOCK_BITS; bit++) {
      context.fillStyle = (now >> bit) & 1 ? 'white' : 'black';
      context.fillRect(bit * side, 0, side, side);
    }
  }, 1000 / rate);
  return canvas.captureStream(rate);
}

async function readClock(frame) {
  const { width, height } = frame.visibleRect;
  const bytes = new Uint8Array(frame.allocationSize());
  const [{ offset, stride }] = await frame.copyTo(bytes);
  const side = width / CLOCK_BITS;
  let time = 0;
  for (let bit = 0; bit < CLOCK_BITS; bit++) {
    const [x, y] = [Math.floor((bit + 0.5) * side), Math.min(Math.floor(side / 2), height - 1)];
    if (bytes[offset + y * stride + x] > 127) time |= 1 << bit;
  }
  return time;
}

function withoutSizes(rtpParameters) {
  const encodings = rtpParameters.encodings.map(({ scaleResolutionDownBy, maxBitrate, ...rest }) => rest);
  return { ...rtpParameters, encodings };
}

function noise(width, height, rate) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  const tile = context.createImageData(width, height);
  setInterval(() => {
    const words = new Uint32Array(tile.data.buffer);
    for (let place = 0; place < words.length; place++) words[place] = 0xff000000 | (Math.random() * 0x1000000);
    context.putImageData(tile, 0, 0);
  }, 1000 / rate);
  return canvas.captureStream(rate);
}
