// Who speaks, by what Chromium says of its audio.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

/** Two with a voice, silent as yet, and one who hears both and has subscribed. */
async function meet(t, flags) {
  const server = await startWeirgate(t, { flags });
  const peers = [];
  for (const name of ['ann', 'bob', 'eve']) peers.push(await chromium.join(t, server, name, 'talk'));
  const [listener] = peers.splice(2);
  const speakers = peers;
  for (const peer of speakers) peer.producer = (await peer.publish({ kinds: ['audio'], source: 'voice' })).audio;
  await listener.call('ask', 'subscribe');
  for (const consumer of await listener.consumeAll()) {
    speakers.find(({ producer }) => producer === consumer.producerId).heard = consumer;
  }
  return { speakers, listener };
}

const told = async (peer, type) => {
  const all = await peer.page.evaluate(() => window.client.notifications);
  return all.filter((message) => message.type === type).map(({ data }) => data);
};

test('the active speaker changes with the voice', async (t) => {
  const { speakers, listener } = await meet(t);
  for (const [turn, speaker] of [...speakers, ...speakers].entries()) {
    for (const peer of speakers) await peer.call('speak', peer === speaker);
    const active = async () => (await told(listener, 'active-speaker')).map(({ producerId }) => producerId);
    const [all, ms] = await until(`${speaker.user} is active`, active, (ids) => ids.at(-1) === speaker.producer);
    assert.equal(all.length, turn + 1, 'one change a turn');
    t.diagnostic(`${speaker.user} after ${ms} ms`);
    const level = async () => (await told(listener, 'audio-levels')).at(-1)?.levels;
    const loud = (levels) => levels?.length === 1 && levels[0].producerId === speaker.producer && levels[0].volume > -30;
    const [levels] = await until(`${speaker.user} is loud`, level, loud);
    t.diagnostic(JSON.stringify(levels));
  }
});

test('of two voices the one that speaks is forwarded', async (t) => {
  const { speakers, listener } = await meet(t, ['--last-n', '1']);
  const packets = async () => {
    const stats = [];
    for (const { heard } of speakers) stats.push((await listener.received(heard.id))?.packetsReceived ?? 0);
    return stats;
  };
  for (const turn of [0, 1, 0, 1]) {
    for (const [at, peer] of speakers.entries()) await peer.call('speak', at === turn);
    const before = await packets();
    const grows = (now) => now[turn] >= before[turn] + 100;
    const [after] = await until(`${speakers[turn].user} is heard`, packets, grows);
    const other = after[1 - turn] - before[1 - turn];
    assert.ok(other < 50, `${other} packets of the other: those of the moment before the change`);
  }
  for (const { heard } of speakers) assert.equal((await listener.received(heard.id)).packetsLost, 0);
});
