// Frames that pages encrypt end to end: one page seals what its encoders give, the other opens it and decodes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChromium } from './support/chromium.js';
import { allRun, decodes } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

/** What WebRTC's samples leave readable: the frame header of VP8. */
const HEADERS = { key: 10, delta: 3 };
const KINDS = [
  ['VP8 with its headers readable', 'video/VP8', { clear: HEADERS }],
  ['VP8 as a whole', 'video/VP8', {}],
  ['VP9 as a whole', 'video/VP9', {}],
];

for (const [name, codec, encryption] of KINDS) {
  test(`encrypted: ${name}`, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'sealed', { encryption });
    await ann.publish({ codec });
    const bob = await chromium.join(t, server, 'bob', 'sealed', { encryption });
    await allRun(t, bob, await bob.consumeAll());
    const cat = await chromium.join(t, server, 'cat', 'sealed', { encryption });
    for (const consumer of await cat.consumeAll()) {
      if (consumer.kind === 'video') t.diagnostic(`cat, who joins later, decodes after ${await decodes(cat, consumer)} ms`);
    }
    const eve = await chromium.join(t, server, 'eve', 'sealed');
    const video = (await eve.consumeAll()).find(({ kind }) => kind === 'video');
    await sleep(3_000);
    const { packetsReceived, framesDecoded = 0 } = await eve.received(video.id);
    // Of about 45: a decoder takes noise behind a readable header for a picture now and then.
    assert.ok(packetsReceived > 20 && framesDecoded < 10, `without the key: ${framesDecoded} frames of ${packetsReceived} packets`);
  });
}

test('encryption is turned on in the middle of a call', async (t) => {
  const server = await startWeirgate(t);
  const ann = await chromium.join(t, server, 'ann', 'turned', { encryption: { on: false } });
  await ann.publish({ codec: 'video/VP9' });
  const bob = await chromium.join(t, server, 'bob', 'turned', { encryption: {} });
  const consumers = await bob.consumeAll();
  await allRun(t, bob, consumers);
  await ann.call('turnEncryption', true);
  await allRun(t, bob, consumers);
  const cat = await chromium.join(t, server, 'cat', 'turned', { encryption: {} });
  await allRun(t, cat, await cat.consumeAll());
});
