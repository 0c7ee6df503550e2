// A small mediasoup server that speaks the five messages of docs/PROTOCOL.md, with requestId and the optional ids where
// a client gives them: all that a load needs. One worker, one router a channel. Started by ../targets.mjs; ../README.md
// says why each setting is what it is.
//
//   node server.mjs [PORT]
//
// Prints one JSON line once it listens: { url, worker, node, versions }; the first two numbers are process ids.

import { once } from 'node:events';
import { createServer } from 'node:http';
import * as mediasoup from 'mediasoup';
import { WebSocketServer } from 'ws';

const IP = '127.0.0.1';

// The codecs of the loads, under the payload types that ours gives them.
const MEDIA_CODECS = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48_000, channels: 2, preferredPayloadType: 96 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90_000, preferredPayloadType: 100 },
];

// What ours asks for: a burst to 100 receivers must not be lost in the kernel.
const SOCKET_BUFFER_BYTES = 8 * 1024 * 1024;

// Far above what a receiver of the loads is sent, so that no estimate holds a packet back.
const OUTGOING_BITRATE = 10_000_000;

/** What a request did wrong; anything else that is thrown is mediasoup's, and told as `unsupported`. */
class Refusal extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const worker = await mediasoup.createWorker({ logLevel: 'error' });
worker.on('died', (error) => {
  console.error(`the worker died: ${error}`);
  process.exit(1);
});
const webRtcServer = await worker.createWebRtcServer({
  listenInfos: [{ protocol: 'udp', ip: IP, sendBufferSize: SOCKET_BUFFER_BYTES, recvBufferSize: SOCKET_BUFFER_BYTES }],
});

/** By id; made by the first peer, gone with the last. `producers` keeps the order in which they came. */
const channels = new Map();

function enter(peer, id) {
  if (!channels.has(id)) {
    const router = worker.createRouter({ mediaCodecs: MEDIA_CODECS });
    channels.set(id, { id, router, peers: new Set(), producers: new Map() });
  }
  peer.channel = channels.get(id);
  peer.channel.peers.add(peer);
}

async function leave(peer) {
  const { channel } = peer;
  channel.peers.delete(peer);
  for (const transport of peer.transports.values()) transport.close();
  for (const [id, { owner }] of channel.producers) if (owner === peer) channel.producers.delete(id);
  if (channel.peers.size === 0) {
    channels.delete(channel.id);
    (await channel.router).close();
  }
}

/** The transport a request names, else the newest made for `direction`, else the newest. */
function transportFor(peer, id, direction) {
  const all = [...peer.transports.values()];
  const meant = all.findLast((transport) => transport.appData.direction === direction) ?? all.at(-1);
  const found = id ? peer.transports.get(id) : meant;
  if (found) return found;
  throw id ? new Refusal('not-found', `no transport ${id}`) : new Refusal('wrong-step', 'create-transport comes first');
}

/** Each takes the peer and the request's data, and gives the reply's type and data. */
const requests = {
  async 'get-rtp-capabilities'(peer) {
    return ['rtp-capabilities', (await peer.channel.router).rtpCapabilities];
  },

  async 'create-transport'(peer, { direction }) {
    const transport = await (await peer.channel.router).createWebRtcTransport({
      webRtcServer,
      enableTcp: false,
      initialAvailableOutgoingBitrate: OUTGOING_BITRATE,
      appData: { direction, announced: false },
    });
    peer.transports.set(transport.id, transport);
    const { id, iceParameters, iceCandidates, dtlsParameters } = transport;
    return ['transport-params', { id, iceParameters, iceCandidates, dtlsParameters }];
  },

  async 'connect-transport'(peer, { transportId, dtlsParameters }) {
    const waiting = [...peer.transports.values()].filter((transport) => !transport.appData.announced);
    const transports = transportId ? [transportFor(peer, transportId)] : waiting;
    if (transports.length === 0) throw new Refusal('wrong-step', 'no transport waits to be connected');
    for (const transport of transports) {
      transport.appData.announced = true;
      await transport.connect({ dtlsParameters });
    }
    return ['transport-connected', transportId && { id: transportId }];
  },

  async produce(peer, { transportId, kind, rtpParameters }) {
    const producer = await transportFor(peer, transportId, 'send').produce({ kind, rtpParameters });
    peer.channel.producers.set(producer.id, { producer, owner: peer });
    return ['producer-id', { id: producer.id }];
  },

  async consume(peer, { transportId, producerId, rtpCapabilities }) {
    const router = await peer.channel.router;
    const left = (id) => !peer.consumed.has(id) && router.canConsume({ producerId: id, rtpCapabilities });
    const wanted = ({ producer: { id }, owner }) => owner !== peer && (producerId ? id === producerId : left(id));
    const found = [...peer.channel.producers.values()].find(wanted);
    if (!found) throw new Refusal(producerId ? 'not-found' : 'no-producer', 'there is no such producer');
    const transport = transportFor(peer, transportId, 'recv');
    const consumer = await transport.consume({ producerId: found.producer.id, rtpCapabilities });
    peer.consumed.add(found.producer.id);
    const { id, kind, rtpParameters, type, producerPaused, paused } = consumer;
    const place = { transportId: transport.id, peerId: found.owner.id };
    const state = { type, producerPaused, paused, appData: null };
    return ['consumer-params', { id, producerId: consumer.producerId, kind, rtpParameters, ...state, ...place }];
  },
};

/** The message that a text holds. */
function read(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch (error) {
    throw new Refusal('bad-json', `the message is not JSON: ${error.message}`);
  }
  if (message === null || typeof message !== 'object' || Array.isArray(message)) {
    throw new Refusal('bad-json', 'the message must be a JSON object with a "type"');
  }
  return message;
}

async function answer(peer, text) {
  let message = {};
  try {
    message = read(text);
    const { type, data } = message;
    if (typeof type !== 'string') throw new Refusal('bad-field', 'type: a string wanted');
    if (!Object.hasOwn(requests, type)) throw new Refusal('unknown-type', `this server does not know ${type}`);
    if (typeof (data ?? {}) !== 'object') throw new Refusal('bad-field', 'data: an object wanted');
    const [replyType, reply] = await requests[type](peer, data ?? {});
    peer.tell(replyType, reply, message.requestId);
  } catch (error) {
    const code = error instanceof Refusal ? error.code : 'unsupported';
    peer.tell('error', { code, message: error.message, request: message.type ?? null }, message.requestId);
  }
}

let peersSeen = 0;

function serve(socket, channelId) {
  const peer = {
    id: `peer-${(peersSeen += 1)}`,
    transports: new Map(),
    consumed: new Set(),
    tell: (type, data, requestId) => socket.send(JSON.stringify({ type, requestId, data })),
  };
  enter(peer, channelId);
  // One after the other: replies come in the order of the requests.
  let last = Promise.resolve();
  socket.on('message', (text) => {
    last = last.then(() => answer(peer, text));
  });
  socket.on('close', () => leave(peer));
}

const http = createServer((_, response) => response.writeHead(404).end());
const sockets = new WebSocketServer({ noServer: true });
http.on('upgrade', (request, stream, head) => {
  const { pathname, searchParams } = new URL(request.url, 'ws://localhost');
  const channelId = searchParams.get('channelId');
  if (pathname !== '/socket' || !searchParams.get('auth') || !channelId) {
    stream.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    return;
  }
  sockets.handleUpgrade(request, stream, head, (socket) => serve(socket, channelId));
});
await once(http.listen(Number(process.argv[2] ?? 0), IP), 'listening');
process.once('SIGTERM', () => {
  worker.close();
  process.exit(0);
});

const url = `ws://${IP}:${http.address().port}/socket`;
const versions = { mediasoup: mediasoup.version, node: process.versions.node };
console.log(JSON.stringify({ url, worker: worker.pid, node: process.pid, versions }));
