// Every video codec that the server offers, from Chromium's encoder to Chromium's decoder.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { allRun } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

for (const codec of ['video/VP8', 'video/VP9', 'video/H264', 'video/AV1']) {
  test(codec, async (t) => {
    const server = await startWeirgate(t);
    const ann = await chromium.join(t, server, 'ann', 'codec');
    const sends = await ann.page.evaluate(() => window.videoCodecs());
    if (!sends.some((name) => name.toLowerCase() === codec.toLowerCase())) {
      t.skip(`Chromium ${chromium.version} encodes no ${codec}: it offers ${[...new Set(sends)].join(', ')}`);
      return;
    }
    await ann.publish({ codec });
    // Who turns a picture is agreed with the publisher, for viewers too who cannot.
    const extensions = await ann.call('extensions', 'video');
    assert.ok(extensions.some((uri) => uri.endsWith(':sdes:mid')), JSON.stringify(extensions));
    assert.ok(!extensions.some((uri) => uri.includes('orientation')), JSON.stringify(extensions));
    const bob = await chromium.join(t, server, 'bob', 'codec');
    const consumers = await bob.consumeAll();
    assert.equal(consumers.length, 2);
    await allRun(t, bob, consumers);
    const video = consumers.find(({ kind }) => kind === 'video');
    assert.equal((await bob.received(video.id)).codec.toLowerCase(), codec.toLowerCase());
  });
}
