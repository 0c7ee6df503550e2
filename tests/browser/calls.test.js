// Calls of strict five-message clients.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { allRun, decodes, runsSmoothly, until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

test('one way: audio and video', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'one-way');
  const bob = await chromium.join(t, server, 'bob', 'one-way');
  await ann.publish();
  const consumers = await bob.consumeAll();
  assert.deepEqual(consumers.map(({ kind }) => kind), ['audio', 'video']);
  await allRun(t, bob, consumers);
});

test('two ways: audio and video', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'two-way');
  const bob = await chromium.join(t, server, 'bob', 'two-way');
  await Promise.all([ann.publish(), bob.publish()]);
  const [annHas, bobHas] = await Promise.all([ann.consumeAll(), bob.consumeAll()]);
  assert.deepEqual([annHas.length, bobHas.length], [2, 2]);
  await Promise.all([allRun(t, ann, annHas), allRun(t, bob, bobHas)]);
});

test('on the wildcard address: two ways', async (t) => {
  const server = await startWeirgate(t, { ip: '0.0.0.0' });
  const ann = await chromium.join(t, server, 'ann', 'wildcard');
  const bob = await chromium.join(t, server, 'bob', 'wildcard');
  await Promise.all([ann.publish(), bob.publish()]);
  const [annHas, bobHas] = await Promise.all([ann.consumeAll(), bob.consumeAll()]);
  await Promise.all([allRun(t, ann, annHas), allRun(t, bob, bobHas)]);
});

test('four peers in one channel', async (t) => {
  const server = await startWeirgate(t);
  const peers = [];
  for (const name of ['ann', 'bob', 'cid', 'dot']) peers.push(await chromium.join(t, server, name, 'four'));
  for (const peer of peers) await peer.publish({ width: 160, height: 120, rate: 10 });
  const all = [];
  for (const peer of peers) {
    const consumers = await peer.consumeAll();
    assert.equal(consumers.length, 6, `${peer.user} consumes audio and video of three others`);
    assert.equal(new Set(consumers.map(({ producerId }) => producerId)).size, 6);
    all.push([peer, consumers]);
  }
  await Promise.all(all.map(([peer, consumers]) => allRun(t, peer, consumers)));
});

test('channels are isolated', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'red');
  const bob = await chromium.join(t, server, 'bob', 'blue');
  const annSends = await ann.publish({ kinds: ['video'] });
  assert.equal((await bob.consume()).code, 'no-producer');
  assert.equal((await bob.consume({ producerId: annSends.video })).code, 'not-found');

  const cid = await chromium.join(t, server, 'cid', 'red');
  const dot = await chromium.join(t, server, 'dot', 'blue');
  const bobSends = await bob.publish({ kinds: ['video'] });
  const cidHas = await cid.consumeAll();
  const dotHas = await dot.consumeAll();
  assert.deepEqual(cidHas.map(({ producerId }) => producerId), [annSends.video]);
  assert.deepEqual(dotHas.map(({ producerId }) => producerId), [bobSends.video]);
  await Promise.all([allRun(t, cid, cidHas), allRun(t, dot, dotHas)]);
});

test('a late joiner sees a picture soon', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'late');
  await ann.publish({ kinds: ['video'] });
  const bob = await chromium.join(t, server, 'bob', 'late');
  await runsSmoothly(bob, await bob.consume(), 75);
  const before = await ann.sent('video');
  const cid = await chromium.join(t, server, 'cid', 'late');
  const consumer = await cid.consume();
  const ms = await decodes(cid, consumer, 1);
  const after = await ann.sent('video');
  const [, untilSmooth] = [await runsSmoothly(cid, consumer), await cid.received(consumer.id)];
  t.diagnostic(
    `first frame ${ms} ms after the reply to consume; keyframes that the source made for it: ` +
      `${after.keyFramesEncoded - before.keyFramesEncoded}; PLI sent by the joiner: ${untilSmooth.pliCount}`,
  );
});

test('a second consume on a connected transport decodes', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'second');
  const bob = await chromium.join(t, server, 'bob', 'second');
  const cid = await chromium.join(t, server, 'cid', 'second');
  await ann.publish({ kinds: ['video'] });
  const first = await cid.consume();
  await runsSmoothly(cid, first);
  const sent = await bob.publish({ kinds: ['video'] });
  await until('bob sends', () => bob.sent('video'), (stats) => stats?.framesEncoded > 10);
  const second = await cid.consume();
  assert.equal(second.producerId, sent.video);
  const ms = await decodes(cid, second, 1);
  t.diagnostic(`first frame ${ms} ms after consume; PLI: ${(await cid.received(second.id)).pliCount}`);
  await runsSmoothly(cid, second);
  await runsSmoothly(cid, first);
});

test('the encoder ramps up to its full rate', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'ramp');
  const bob = await chromium.join(t, server, 'bob', 'ramp');
  const maxBitrate = 1_500_000;
  await ann.publish({ source: 'noise', width: 480, height: 270, rate: 15, maxBitrate });
  const consumer = await bob.consume();
  const [early] = await until('ann sends', () => ann.sent('video'), (stats) => stats?.framesEncoded > 5);
  const full = (stats) => stats?.targetBitrate >= 0.97 * maxBitrate;
  const [, ms] = await until('the target reaches its maximum', () => ann.sent('video'), full, 60_000);
  const before = await ann.sent('video');
  const [after] = await until('two seconds on', () => ann.sent('video'), (stats) => stats.timestamp > before.timestamp + 3000);
  const rate = (8000 * (after.bytesSent - before.bytesSent)) / (after.timestamp - before.timestamp);
  t.diagnostic(
    `target ${early.targetBitrate} bit/s at first, ${after.targetBitrate} after ${ms} ms; sent ${Math.round(rate)} bit/s; ` +
      `estimate of the way ${after.availableOutgoingBitrate} bit/s; limited by ${after.qualityLimitationReason}`,
  );
  assert.ok(rate > 0.7 * maxBitrate, `${Math.round(rate)} bit/s sent of ${maxBitrate}`);
  const received = await bob.received(consumer.id);
  assert.ok(received.packetsLost <= received.packetsReceived / 100, `lost: ${received.packetsLost} of ${received.packetsReceived}`);
});
