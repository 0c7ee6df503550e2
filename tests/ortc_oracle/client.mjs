// mediasoup-client's Device on its own fake handler, driven line by line over stdin and stdout: each line is a JSON
// request, answered by one line, { value } or { error }. Called by tests/ortc_client.rs.
//
//   { op: 'load', name, native, routerCapabilities }  -> { rtpCapabilities, canProduce: { audio, video } }
//   { op: 'produce', name, kind, codec, encodings }   -> { kind, rtpParameters }
//   { op: 'consume', name, consumer }                 -> { kind, codec }
//   { op: 'offer', consumer }                         -> { sdp }, what the client shows a browser

import { createInterface } from 'node:readline';
import { FakeMediaStreamTrack } from 'fake-mediastreamtrack';
import { Device } from 'mediasoup-client';
import { FakeHandler } from 'mediasoup-client/handlers/FakeHandler';
import { RemoteSdp } from 'mediasoup-client/handlers/sdp/RemoteSdp';
import * as fakeParameters from 'mediasoup-client/fakeParameters';

const devices = new Map();

const operations = {
  async load({ name, native, routerCapabilities }) {
    const handlerFactory = FakeHandler.createFactory({
      generateNativeRtpCapabilities: () => structuredClone(native),
      generateLocalDtlsParameters: fakeParameters.generateLocalDtlsParameters,
    });
    const device = new Device({ handlerFactory });
    await device.load({ routerRtpCapabilities: routerCapabilities });
    const remote = () => fakeParameters.generateTransportRemoteParameters();
    const send = device.createSendTransport(remote());
    const receive = device.createRecvTransport(remote());
    for (const transport of [send, receive]) {
      transport.on('connect', (_parameters, done) => done());
    }
    devices.set(name, { device, send, receive });
    const canProduce = { audio: device.canProduce('audio'), video: device.canProduce('video') };
    return { rtpCapabilities: device.recvRtpCapabilities ?? device.rtpCapabilities, canProduce };
  },

  async produce({ name, kind, codec, encodings }) {
    const { send } = devices.get(name);
    let request;
    send.once('produce', (parameters, done) => {
      request = structuredClone({ kind: parameters.kind, rtpParameters: parameters.rtpParameters });
      done({ id: `${name}-${kind}` });
    });
    await send.produce({ track: new FakeMediaStreamTrack({ kind }), codec, encodings });
    return request;
  },

  async consume({ name, consumer }) {
    const { receive } = devices.get(name);
    const made = await receive.consume(consumer);
    return { kind: made.kind, codec: made.rtpParameters.codecs[0].mimeType };
  },

  async offer({ consumer }) {
    const { iceParameters, iceCandidates, dtlsParameters } = fakeParameters.generateTransportRemoteParameters();
    const remote = new RemoteSdp({ iceParameters, iceCandidates, dtlsParameters });
    const { id, kind, rtpParameters } = consumer;
    remote.receive({
      mid: rtpParameters.mid, kind, offerRtpParameters: rtpParameters, streamId: 'stream', trackId: id,
    });
    return { sdp: remote.getSdp() };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { value: await operations[request.op](request) };
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
