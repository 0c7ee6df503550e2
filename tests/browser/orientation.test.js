// Pictures that a publisher turns, before viewers who may not know how: they come upright.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodes, until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { startFirefox } from './support/firefox.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();
const firefox = await startFirefox();

test('a picture that lies on its side is sent upright, to Chromium and to Firefox', async (t) => {
  const server = await startWeirgate(t, { ip: '0.0.0.0' });
  const ann = await chromium.join(t, server, 'ann', 'turned');
  await ann.publish({ kinds: ['video'], source: 'turned', codec: 'video/VP8', width: 640, height: 480 });
  const extensions = await ann.call('extensions', 'video');
  assert.ok(extensions.some((uri) => uri.endsWith(':sdes:mid')), JSON.stringify(extensions));
  assert.ok(!extensions.some((uri) => uri.includes('orientation')), JSON.stringify(extensions));
  for (const [name, browser] of [['bob', chromium], ['fox', firefox]]) {
    const peer = await browser.join(t, server, name, 'turned');
    const video = await peer.consume();
    await decodes(peer, video, 15);
    const upright = ({ frameWidth, frameHeight }) => frameHeight > frameWidth;
    const [{ frameWidth, frameHeight }] = await until(`${name} sees it upright`, () => peer.received(video.id), upright);
    t.diagnostic(`${name}: ${frameWidth}x${frameHeight}`);
  }
});
