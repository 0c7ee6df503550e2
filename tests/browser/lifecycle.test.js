// What starts, stops and ends while a call runs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChromium } from './support/chromium.js';
import { decodes, runsSmoothly, until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

/** Nothing more comes: the count of decoded frames stands still for a second. */
async function standsStill(peer, { id }) {
  let last = -1;
  await until(`${peer.user} gets no more frames`, async () => {
    const before = last;
    await sleep(1000);
    last = (await peer.received(id)).framesDecoded;
    return { before, last };
  }, ({ before, last: now }) => before === now);
}

const notification = (peer, type) =>
  peer.page.evaluate((wanted) => window.client.notifications.find((message) => message.type === wanted)?.data, type);

test('a peer leaves: the others are told, and its tracks end', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'leave');
  const bob = await chromium.join(t, server, 'bob', 'leave');
  const cid = await chromium.join(t, server, 'cid', 'leave');
  await ann.publish({ kinds: ['video'] });
  await bob.call('ask', 'subscribe');
  const consumer = await bob.consume();
  const plain = await cid.consume();
  await runsSmoothly(bob, consumer);
  await decodes(cid, plain);
  await ann.leave();
  const [closed, ms] = await until('bob is told', () => notification(bob, 'consumer-closed'), Boolean);
  assert.equal(closed.id, consumer.id);
  const [left] = await until('bob is told', () => notification(bob, 'peer-left'), Boolean);
  assert.equal(left.user, 'ann');
  assert.equal(await bob.call('closeConsumer', consumer.id), 'ended');
  await standsStill(cid, plain);
  assert.equal((await cid.consume()).code, 'no-producer');
  assert.equal((await cid.page.evaluate(() => window.client.notifications)).length, 0, 'who never subscribed is told nothing');
  t.diagnostic(`told after ${ms} ms`);
});

test('a consumer pauses and resumes', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'pause');
  const bob = await chromium.join(t, server, 'bob', 'pause');
  await ann.publish({ kinds: ['video'] });
  const consumer = await bob.consume();
  await runsSmoothly(bob, consumer);
  await bob.call('ask', 'pause-consumer', { consumerId: consumer.id });
  await standsStill(bob, consumer);
  const before = await bob.received(consumer.id);
  await bob.call('ask', 'resume-consumer', { consumerId: consumer.id });
  const ms = await decodes(bob, consumer, before.framesDecoded + 1);
  const after = await runsSmoothly(bob, consumer);
  const now = await bob.received(consumer.id);
  assert.equal(now.packetsLost, before.packetsLost, 'the pause leaves no gap in the sequence numbers');
  t.diagnostic(`first frame ${ms} ms after resume-consumer; NACK ${now.nackCount}, PLI ${now.pliCount}; ${JSON.stringify(after)}`);
});

test('a consumer made paused starts with resume-consumer', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'paused');
  const bob = await chromium.join(t, server, 'bob', 'paused');
  await ann.publish({ kinds: ['video'] });
  const consumer = await bob.consume({ paused: true });
  await sleep(1500);
  assert.equal((await bob.received(consumer.id))?.packetsReceived ?? 0, 0);
  await bob.call('ask', 'resume-consumer', { consumerId: consumer.id });
  const ms = await decodes(bob, consumer, 1);
  await runsSmoothly(bob, consumer);
  t.diagnostic(`first frame ${ms} ms after resume-consumer; PLI ${(await bob.received(consumer.id)).pliCount}`);
});

test('a producer pauses and resumes', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'producer');
  const bob = await chromium.join(t, server, 'bob', 'producer');
  const { video: producerId } = await ann.publish({ kinds: ['video'] });
  await bob.call('ask', 'subscribe');
  const consumer = await bob.consume();
  await runsSmoothly(bob, consumer);
  await ann.call('ask', 'pause-producer', { producerId });
  const [told] = await until('bob is told', () => notification(bob, 'producer-paused'), Boolean);
  assert.equal(told.id, producerId);
  await standsStill(bob, consumer);
  const before = await bob.received(consumer.id);
  await ann.call('ask', 'resume-producer', { producerId });
  await until('bob is told', () => notification(bob, 'producer-resumed'), Boolean);
  const ms = await decodes(bob, consumer, before.framesDecoded + 1);
  await runsSmoothly(bob, consumer);
  const now = await bob.received(consumer.id);
  assert.equal(now.packetsLost, before.packetsLost, 'the pause leaves no gap in the sequence numbers');
  t.diagnostic(`first frame ${ms} ms after resume-producer`);
});

test('a camera goes off and on again with the five messages alone', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'toggle');
  const bob = await chromium.join(t, server, 'bob', 'toggle');
  const sent = [(await ann.publish()).video];
  const consumers = await bob.consumeAll();
  const sound = consumers.find(({ kind }) => kind === 'audio');
  let picture = consumers.find(({ kind }) => kind === 'video');
  await runsSmoothly(bob, picture);
  for (let round = 0; round < 3; round++) {
    await ann.call('unpublish', 'video');
    await standsStill(bob, picture);
    const { video } = await ann.publish({ kinds: ['video'] });
    assert.ok(!sent.includes(video));
    sent.push(video);
    picture = await bob.consume();
    assert.equal(picture.producerId, video, 'what is left to consume is the new producer');
    const ms = await decodes(bob, picture, 1);
    const result = await runsSmoothly(bob, picture);
    t.diagnostic(`round ${round + 1}: first frame ${ms} ms after consume; ${JSON.stringify(result)}`);
    assert.equal((await bob.consume()).code, 'no-producer');
  }
  const heard = await bob.received(sound.id);
  assert.ok(heard.packetsLost <= heard.packetsReceived / 100 && heard.totalAudioEnergy > 0, 'the sound went on');
});

test('a publisher comes back with a new page', async (t) => {
  const server = await startWeirgate(t);
  const bob = await chromium.join(t, server, 'bob', 'back');
  for (let round = 0; round < 2; round++) {
    const ann = await chromium.join(t, server, 'ann', 'back');
    const { video } = await ann.publish({ kinds: ['video'] });
    const consumer = await bob.consume();
    assert.equal(consumer.producerId, video);
    await runsSmoothly(bob, consumer);
    await ann.leave();
    await standsStill(bob, consumer);
  }
});
