// Layers between real browsers: switches that are asked for, and those that a narrow or lossy way brings about.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBottleneck } from './support/bottleneck.js';
import { startChromium } from './support/chromium.js';
import { decodes, until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

/** Chromium sends a picture of 640x480 in two encodings at most. */
const SIMULCAST = [
  { rid: 'r0', scaleResolutionDownBy: 2, maxBitrate: 150_000 },
  { rid: 'r1', scaleResolutionDownBy: 1, maxBitrate: 700_000 },
];
/** From this size on in three. */
const LARGE = { width: 960, height: 540 };
const THREE = [
  { rid: 'r0', scaleResolutionDownBy: 4, maxBitrate: 100_000 },
  { rid: 'r1', scaleResolutionDownBy: 2, maxBitrate: 250_000 },
  { rid: 'r2', scaleResolutionDownBy: 1, maxBitrate: 900_000 },
];
/** Its upper layer is decoded by dependency descriptors alone. */
const AV1_SVC = { codec: 'video/AV1', encodings: [{ scalabilityMode: 'L2T2_KEY', maxBitrate: 500_000 }] };
const KINDS = [
  ['VP8 simulcast', { codec: 'video/VP8', encodings: SIMULCAST }, [[0, 320], [1, 640], [0, 320], [1, 640]]],
  [
    'VP8 simulcast of three',
    { codec: 'video/VP8', encodings: THREE, ...LARGE },
    [[0, 240], [2, 960], [1, 480], [0, 240], [2, 960]],
  ],
  ['H264 simulcast', { codec: 'video/H264', encodings: SIMULCAST }, [[0, 320], [1, 640], [0, 320], [1, 640]]],
  ...['VP9', 'AV1'].map((name) => [
    `${name} simulcast`,
    // Without a mode several encodings of VP9 are spatial layers to Chromium.
    { codec: `video/${name}`, encodings: SIMULCAST.map((encoding) => ({ ...encoding, scalabilityMode: 'L1T1' })) },
    [[0, 320], [1, 640], [0, 320], [1, 640]],
  ]),
  [
    'VP9 SVC',
    { codec: 'video/VP9', encodings: [{ scalabilityMode: 'L2T3_KEY', maxBitrate: 800_000 }] },
    [[0, 320], [1, 640], [0, 320], [1, 640]],
  ],
  ['AV1 SVC', AV1_SVC, [[0, 320], [1, 640], [0, 320], [1, 640]]],
  ...['VP9', 'AV1'].map((name) => [
    `${name} SVC of three`,
    { codec: `video/${name}`, encodings: [{ scalabilityMode: 'L3T3_KEY', maxBitrate: 1_200_000 }], ...LARGE },
    [[0, 240], [2, 960], [1, 480], [0, 240], [2, 960]],
  ]),
];
const PICTURE = { kinds: ['video'], width: 640, height: 480, rate: 15 };

/** A gap that a viewer calls a freeze, on a machine whose own stalls are none of ours. */
const FREEZE_MS = 1_500;

/** How soon a stream fits a way that became narrow, and has all of one that became wide. */
const DOWN_MS = 3_000;
const UP_MS = 15_000;

/** The longest time between two frames at 15/s that has no cause but jitter. */
const STEADY_MS = 200;

const wide = (peer, { id }, good) =>
  until(`${peer.user} sees another size`, () => peer.received(id), (stats) => good(stats?.frameWidth ?? 0));

for (const [name, options, steps] of KINDS) {
  test(`${name}: down and up again when asked`, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'layers');
    await ann.ask('subscribe');
    await ann.publish({ ...PICTURE, ...options });
    const bob = await chromium.join(t, server, 'bob', 'layers');
    await bob.ask('subscribe');
    const video = await bob.consume();
    await decodes(bob, video);
    const [, full] = steps.at(-1);
    await wide(bob, video, (width) => width === full);
    const before = await bob.received(video.id);
    await bob.call('longestGap', video.id);
    for (const [spatialLayer, width] of steps) {
      await bob.ask('set-preferred-layers', { consumerId: video.id, spatialLayer });
      const [, ms] = await wide(bob, video, (seen) => seen === width);
      const gap = await bob.call('longestGap', video.id);
      t.diagnostic(`${width} wide after ${ms} ms, longest time between two frames ${gap} ms`);
      assert.ok(gap < FREEZE_MS, `froze for ${gap} ms on the way to ${width}`);
    }
    const after = await bob.received(video.id);
    assert.equal(after.packetsLost, before.packetsLost, 'a switch leaves no gap');
    assert.ok((await bob.notified('consumer-layers-changed')).some(({ spatialLayer }) => spatialLayer === 0));
    // Nobody watches those above it any more: the publisher is told when that has lasted.
    await bob.ask('set-preferred-layers', { consumerId: video.id, spatialLayer: 0 });
    const last = (all) => all.at(-1)?.spatialLayers;
    const [told] = await until('ann is told what is watched', () => ann.notified('producer-layers'), (all) => last(all)?.slice(1).every((watched) => !watched));
    const layers = 1 + Math.max(...steps.map(([spatialLayer]) => spatialLayer));
    t.diagnostic(`producer-layers: ${JSON.stringify(told)}`);
    assert.deepEqual(last(told), Array.from({ length: layers }, (_, layer) => layer === 0));
  });
}

/** As the W3C's example lists them, the largest first; mediasoup-client gives them rids by their places. */
const LISTED_DOWNWARDS = SIMULCAST.map(({ rid, ...encoding }) => encoding).reverse();

/** Bits a millisecond. */
async function rate(peer, { id }, ms = 3_000) {
  const before = await peer.received(id);
  await sleep(ms);
  const after = await peer.received(id);
  return (8 * (after.bytesReceived - before.bytesReceived)) / (after.timestamp - before.timestamp);
}

for (const [codec, unscaled] of [['VP8', false], ['VP8', true], ['H264', true], ['VP9', true], ['AV1', true]]) {
  test(`${codec}, listed from high to low${unscaled ? ', without a word of their sizes' : ''}: layer 0 is the smallest`, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'downwards');
    await ann.ask('subscribe');
    const encodings = LISTED_DOWNWARDS.map((encoding) => ({ ...encoding, scalabilityMode: 'L1T1' }));
    await ann.publish({ ...PICTURE, codec: `video/${codec}`, encodings, unscaled });
    const bob = await chromium.join(t, server, 'bob', 'downwards');
    await bob.ask('subscribe');
    const video = await bob.consume();
    await wide(bob, video, (width) => width === 640);
    const layer = async () => (await bob.notified('consumer-layers-changed')).at(-1)?.spatialLayer;
    await until('bob is told of the upper layer', layer, (spatial) => spatial === 1);
    const full = await rate(bob, video);
    await bob.ask('set-preferred-layers', { consumerId: video.id, spatialLayer: 0 });
    await wide(bob, video, (width) => width === 320);
    await until('bob is told of the lower layer', layer, (spatial) => spatial === 0);
    const small = await rate(bob, video);
    t.diagnostic(`without a limit ${Math.round(full)} kbit/s, layer 0 ${Math.round(small)}`);
    assert.ok(small * 1.5 < full, `layer 0 takes ${small}, all of it ${full} kbit/s`);
    // A page that stops what nobody watches stops the right one.
    const last = (told) => told.at(-1)?.encodings;
    const [told] = await until('ann is told what is watched', () => ann.notified('producer-layers'), (all) => last(all)?.some(({ wanted }) => !wanted));
    assert.deepEqual(last(told), [{ rid: 'r0', spatialLayer: 1, wanted: false }, { rid: 'r1', spatialLayer: 0, wanted: true }]);
    await ann.call('sendWanted', 'video', last(told));
    const { framesDecoded } = await bob.received(video.id);
    await until('bob sees it go on', () => bob.received(video.id), (stats) => stats.framesDecoded >= framesDecoded + 45);
    assert.equal((await bob.received(video.id)).frameWidth, 320);
  });
}

test('behind 300 kbit/s audio stays whole and video goes down, and up again when the way is wide', async (t) => {
  const server = await startWeirgate(t);
  const bottleneck = await startBottleneck(t, server.rtcPort);
  const ann = await chromium.join(t, server, 'ann', 'narrow');
  await ann.publish({ ...PICTURE, kinds: ['audio', 'video'], codec: 'video/VP8', encodings: SIMULCAST });
  const bob = await chromium.join(t, server, 'bob', 'narrow', { receiveThrough: bottleneck.port });
  await bob.ask('subscribe');
  const consumers = await bob.consumeAll();
  const video = consumers.find(({ kind }) => kind === 'video');
  const audio = consumers.find(({ kind }) => kind === 'audio');
  await wide(bob, video, (width) => width === 640);
  await sleep(3_000);
  const last = (all) => all.at(-1);
  const layers = async () => (await bob.notified('consumer-layers-changed')).map(({ spatialLayer, temporalLayer }) => [spatialLayer, temporalLayer]);
  const isLower = ([spatial, temporal], [of, best]) => spatial === null || spatial < of || (spatial === of && temporal < best);
  const best = last(await layers());

  const heard = await bob.received(audio.id);
  await bob.call('longestGap', video.id);
  bottleneck.down.kbps = 300;
  const [, down] = await until('bob is told of lower layers', layers, (all) => isLower(last(all), best));
  await sleep(6_000);
  const gap = await bob.call('longestGap', video.id);
  const then = await bob.received(audio.id);
  const [lost, came] = [then.packetsLost - heard.packetsLost, then.packetsReceived - heard.packetsReceived];
  t.diagnostic(`down after ${down} ms; audio: ${came} came, ${lost} lost; longest time between two frames ${gap} ms; layers ${JSON.stringify(await layers())}`);
  assert.ok(down <= DOWN_MS, `down after ${down} ms`);
  assert.ok(lost <= came / 50, `audio lost ${lost} beside ${came}`);

  bottleneck.down.kbps = undefined;
  const [, up] = await until('bob is told of the best layers', layers, (all) => String(last(all)) === String(best));
  t.diagnostic(`up after ${up} ms`);
  assert.ok(up <= UP_MS, `up after ${up} ms`);
  await wide(bob, video, (width) => width === 640);
});

test('a shared screen of one picture a second keeps its layer, and changes it when asked', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'slides');
  await ann.ask('subscribe');
  await ann.publish({ ...PICTURE, source: 'clock', screen: true, rate: 1, codec: 'video/VP8', encodings: SIMULCAST });
  const bob = await chromium.join(t, server, 'bob', 'slides');
  await bob.ask('subscribe');
  const video = await bob.consume();
  await decodes(bob, video);
  await wide(bob, video, (width) => width === 640);
  const layers = async () => (await bob.notified('consumer-layers-changed')).map(({ spatialLayer }) => spatialLayer);
  const [told] = await until('bob is told of the upper layer', layers, (all) => all.at(-1) === 1);
  const before = await bob.received(video.id);
  const verdicts = new Set();
  for (let second = 0; second < 20; second++) {
    await sleep(1_000);
    const { verdict } = await bob.ask('get-stats', { consumerId: video.id });
    verdicts.add(verdict.state);
  }
  const after = await bob.received(video.id);
  const grown = (name) => after[name] - before[name];
  t.diagnostic(`in 20 s ${grown('framesDecoded')} frames, ${grown('keyFramesDecoded')} keyframes, ${grown('pliCount')} PLIs, ${grown('packetsLost')} packets lost; ${[...verdicts]}`);
  assert.equal(after.frameWidth, 640);
  assert.deepEqual((await layers()).slice(told.length).filter((layer) => layer !== 1), [], 'a still picture is no dead layer');
  assert.ok(grown('framesDecoded') >= 15 && grown('framesDecoded') <= 60, `${grown('framesDecoded')} frames in 20 s`);
  assert.ok(grown('keyFramesDecoded') <= 2, `${grown('keyFramesDecoded')} keyframes in 20 s`);
  assert.deepEqual([...verdicts], ['flowing']);
  for (const [spatialLayer, width] of [[0, 320], [1, 640]]) {
    await bob.ask('set-preferred-layers', { consumerId: video.id, spatialLayer });
    const [, ms] = await wide(bob, video, (seen) => seen === width);
    t.diagnostic(`${width} wide after ${ms} ms`);
  }
});

test('AV1 SVC: who knows no dependency descriptors is given the layer that needs none', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'plain');
  await ann.publish({ ...PICTURE, ...AV1_SVC });
  const bob = await chromium.join(t, server, 'bob', 'plain');
  const video = await bob.consume({ withoutExtension: 'dependency-descriptor' });
  await decodes(bob, video, 45);
  assert.equal((await bob.received(video.id)).frameWidth, 320);
});

/** What is sent; for each receiver, the share of it that is lost and the longest time between two frames that is good enough. */
const LOSSES = [
  ['VP8', { maxBitrate: 500_000 }, [[0.05, 500], [0.1, 1_500]]],
  ['AV1 SVC', AV1_SVC, [[0.05, 500]]],
];
/** A machine that has no time for its server or its browser is given it anew so often. */
const TRIES_MAX = 3;

/** Requests to resend that the server had no time for. */
async function refusals(server) {
  const line = (await server.metrics()).find((metric) => metric.includes('"nack_behind"'));
  return line ? Number(line.split(' ').at(-1)) : 0;
}

for (const [name, options, ways] of LOSSES) {
  test(`${name}: ${ways.map(([loss]) => `${loss * 100} %`).join(' and ')} loss for 30 s`, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'lossy');
    await ann.publish({ ...PICTURE, ...options });
    const receivers = [];
    for (const [loss, freezeMs] of ways) {
      const bottleneck = await startBottleneck(t, server.rtcPort);
      const bob = await chromium.join(t, server, `bob${receivers.length}`, 'lossy', { receiveThrough: bottleneck.port });
      receivers.push({ loss, freezeMs, down: bottleneck.down, peer: bob, video: await bob.consume() });
    }
    // The same pictures without loss: what stalls here is the machine.
    const carol = await chromium.join(t, server, 'carol', 'lossy');
    const beside = { peer: carol, video: await carol.consume() };
    const everyone = [...receivers, beside];
    for (const { peer, video } of everyone) await decodes(peer, video, 30);
    for (const receiver of receivers) receiver.down.loss = receiver.loss;
    const gaps = () => Promise.all(everyone.map(({ peer, video }) => peer.call('longestGap', video.id)));
    const counts = () => Promise.all(everyone.map(({ peer, video }) => peer.received(video.id)));
    for (let tries = 1; ; tries++) {
      await gaps();
      const [before, refused, dropped] = [await counts(), await refusals(server), receivers.map(({ down }) => down.dropped)];
      await sleep(30_000);
      const [longest, after] = [await gaps(), await counts()];
      const grown = (at, name) => after[at][name] - before[at][name];
      const [without, all] = [longest.at(-1), grown(receivers.length, 'framesDecoded')];
      const busy = (await refusals(server)) - refused;
      const stalled = Math.max(0, without - STEADY_MS);
      const wrong = receivers.flatMap(({ loss, freezeMs, down }, at) => {
        const said = `${loss * 100} %: longest time between two frames ${longest[at]} ms, without loss ${without} ms; ${grown(at, 'framesDecoded')} of ${all} frames`;
        t.diagnostic(`${said}, ${grown(at, 'freezeCount')} freezes, ${grown(at, 'nackCount')} NACKs, ${busy} not answered, ${grown(at, 'pliCount')} PLIs, ${down.dropped - dropped[at]} datagrams lost on the way`);
        assert.ok(down.dropped > dropped[at], 'nothing was lost');
        return longest[at] <= freezeMs + stalled && grown(at, 'framesDecoded') >= 0.8 * all ? [] : [said];
      });
      if (!wrong.length) break;
      const excused = (busy > 0 || without > STEADY_MS) && tries < TRIES_MAX;
      assert.ok(excused, wrong.join('; '));
    }
  });
}
