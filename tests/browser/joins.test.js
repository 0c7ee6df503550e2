// Joining a call that runs: a joiner that is served from the history must have its picture sooner than one that waits for
// the publisher's next keyframe, and must not be shown live pictures later than it for good.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChromium } from './support/chromium.js';
import { decodes } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();

/** What a busy machine adds to one round is none of ours: one that holds is enough. */
const ROUNDS_MAX = 3;
/** The youngest group of pictures that is replayed here is older than this: who kept to its timing would be so late. */
const GROUP_MS = 300;

const median = (all) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)];

async function counted(server, name) {
  const lines = (await server.metrics()).filter((line) => line.startsWith(`weirgate_${name}_total`));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

const KINDS = [
  ['VP8', 'video/VP8', { maxBitrate: 800_000 }],
  ['H264', 'video/H264', { maxBitrate: 800_000 }],
  ['VP9 SVC', 'video/VP9', { encodings: [{ scalabilityMode: 'L2T3_KEY', maxBitrate: 800_000 }] }],
  ['AV1 SVC', 'video/AV1', { encodings: [{ scalabilityMode: 'L2T2_KEY', maxBitrate: 500_000 }] }],
];

/** A join, `soon` ms after a keyframe or long after one, and what its first pictures were like, under the way it came to. */
async function joined(t, server, bob, watched, soon, ways) {
  const carol = await chromium.join(t, server, 'carol', 'joins');
  const seen = await carol.consume({ paused: true, producerId: watched.producerId });
  // Older than what a history is replayed from.
  await sleep(1_500);
  const before = await counted(server, 'replays');
  if (soon) {
    await bob.ask('request-key-frame', { consumerId: watched.id });
    await sleep(soon);
  }
  const { shown, settled, end } = await carol.call('timeline', seen.id, 4_500, 3_000);
  await carol.leave();
  const served = (await counted(server, 'replays')) - before;
  const age = (from) => median(shown.filter(([at]) => at >= from).map(([, age]) => age));
  // A browser that starves may show nothing for seconds.
  if (!shown.some(([at]) => at >= 3_000) || !settled || !end) return;
  // By what came to pass: a browser that starves has its keyframes late.
  ways[served ? 'history' : 'keyframe'].push({
    first: shown[0][0],
    live: shown.find(([, age]) => age < 300)?.[0],
    age: age(3_000),
    buffered: Math.round(
      (1_000 * (end.jitterBufferDelay - settled.jitterBufferDelay)) /
        (end.jitterBufferEmittedCount - settled.jitterBufferEmittedCount),
    ),
  });
}

/** What is wrong with the best of each way; undefined: nothing. */
function fault({ history, keyframe }) {
  if (!history.length || !keyframe.length) return 'both ways were not seen';
  const best = (joins, field) => Math.min(...joins.map((join) => join[field]));
  for (const field of ['age', 'first']) {
    const [served, waited] = [best(history, field), best(keyframe, field)];
    if (!(served < waited + GROUP_MS)) return `${field}: ${served} ms from the history, ${waited} ms by keyframe`;
  }
}

for (const [name, codec, options] of KINDS) {
  test(`${name}: who is served from the history sees live pictures as early as others`, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'joins');
    await ann.publish({ kinds: ['video'], source: 'clock', codec, width: 640, height: 480, rate: 15, ...options });
    const bob = await chromium.join(t, server, 'bob', 'joins');
    const watched = await bob.consume();
    await decodes(bob, watched);
    const ways = { history: [], keyframe: [] };
    let wrong;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      for (const soon of [true, false]) await joined(t, server, bob, watched, soon && 350 + 200 * round, ways);
      wrong = fault(ways);
      if (!wrong) break;
    }
    for (const [way, joins] of Object.entries(ways)) t.diagnostic(`${way}: ${JSON.stringify(joins)}`);
    assert.equal(wrong, undefined);
  });
}
