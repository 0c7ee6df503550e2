// What mediasoup's own ORTC makes of the cases on stdin: { routerCapabilities, cases: [{ kind, rtpParameters,
// rtpCapabilities }] }. Answers with an array, one result a case. Called by tests/ortc_differential.rs.

import { json } from 'node:stream/consumers';
import * as ortc from 'mediasoup/ortc';

const { routerCapabilities, cases } = await json(process.stdin);

function attempt(action) {
  try {
    return { value: action() };
  } catch (error) {
    return { error: String(error.message) };
  }
}

// The steps that a mediasoup transport takes in produce(), without its worker.
function produce(kind, rtpParameters) {
  ortc.validateAndNormalizeRtpParameters(rtpParameters);
  if (rtpParameters.encodings.length === 0) {
    rtpParameters.encodings = [{}];
  }
  const mapping = ortc.getProducerRtpParametersMapping(rtpParameters, routerCapabilities);
  return { mapping, consumable: ortc.getConsumableRtpParameters(kind, rtpParameters, routerCapabilities, mapping) };
}

// And in consume().
function consume(kind, consumableRtpParameters, rtpCapabilities) {
  const enableRtx = kind === 'video';
  return ortc.getConsumerRtpParameters({
    consumableRtpParameters, remoteRtpCapabilities: rtpCapabilities, pipe: false, enableRtx,
  });
}

ortc.validateAndNormalizeRtpCapabilities(routerCapabilities);

const results = cases.map(({ kind, rtpParameters, rtpCapabilities }) => {
  const producer = attempt(() => produce(kind, rtpParameters));
  const capabilities = attempt(() => ortc.validateAndNormalizeRtpCapabilities(rtpCapabilities) ?? true);
  const result = { producer: { error: producer.error, mapping: producer.value?.mapping }, capabilities };
  if (producer.value && capabilities.value) {
    const { consumable } = producer.value;
    result.canConsume = ortc.canConsume(consumable, rtpCapabilities);
    result.consumer = attempt(() => consume(kind, consumable, rtpCapabilities));
  }
  return result;
});

// What mediasoup would offer for our media codecs.
const mediaCodecs = routerCapabilities.codecs.filter((codec) => !codec.mimeType.endsWith('/rtx'));
const capabilities = ortc.generateRouterRtpCapabilities(structuredClone(mediaCodecs));

process.stdout.write(JSON.stringify({ results, capabilities }));
