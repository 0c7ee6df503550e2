// The console as a newcomer uses it.

import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();
const pictures = mkdtempSync(join(tmpdir(), 'weirgate-console-'));
const VIEW = { viewport: { width: 1200, height: 780 } };

const address = (server, parameters) => `${server.base}/?${new URLSearchParams(parameters)}`;

/** The page of one who filled the form by the address and clicked Join. */
async function enter(t, server, name, { source = 'pattern', channel = 'river', view = VIEW } = {}) {
  const page = await chromium.open(t, address(server, { name, channel, source }), view);
  await page.click('#join');
  await page.waitForSelector('#call:not([hidden])');
  return page;
}

const tile = (page, user) => page.locator(`.tile[data-user="${user}"]`);

/** The picture of `user` on this page moves: its video element shows new frames whose pixels differ. */
async function moves(page, user) {
  const look = () =>
    tile(page, user).locator('video').evaluate((video) => {
      if (!video.videoWidth) return null;
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [64, 36];
      const context = canvas.getContext('2d');
      context.drawImage(video, 0, 0, 64, 36);
      const { data } = context.getImageData(0, 0, 64, 36);
      return { time: video.currentTime, size: `${video.videoWidth}x${video.videoHeight}`, pixels: [...data].join() };
    });
  const [first] = await until(`${user} is seen`, look, Boolean);
  const [later] = await until(`${user} moves`, look, (now) => now.time > first.time && now.pixels !== first.pixels);
  return later.size;
}

const firstPicture = (page, user) =>
  page.evaluate((name) => {
    const at = (mark) => performance.getEntriesByName(mark)[0]?.startTime;
    return Math.round(at(`picture of ${name}`) - at('join'));
  }, user);

test('two pages join one channel and see each other move', async (t) => {
  const server = await startWeirgate(t);
  const ann = await enter(t, server, 'Ann');
  const alone = await ann.locator('#alone').isVisible();
  const bob = await enter(t, server, 'Bob');
  assert.ok(alone, 'who is alone is told how others join');
  assert.deepEqual([await moves(ann, 'Bob'), await moves(bob, 'Ann')], ['640x360', '640x360']);
  t.diagnostic(`Bob's first picture of Ann: ${await firstPicture(bob, 'Ann')} ms after he clicked Join`);
  const numbers = () => tile(bob, 'Ann').locator('.numbers').textContent();
  const [text] = await until('the numbers are shown', numbers, (now) => /640 × 360.*bit\/s.*% lost/.test(now));
  t.diagnostic(`Ann at Bob's: ${text}`);
  assert.equal(await ann.locator('#alone').isVisible(), false);
  assert.match(await ann.locator('#where').textContent(), /river · 2 people/);
  for (const [page, name] of [[ann, 'ann'], [bob, 'bob']]) {
    await page.screenshot({ path: join(pictures, `${name}.png`) });
    t.diagnostic(`screenshot: ${join(pictures, `${name}.png`)}`);
  }

  const verdict = () => tile(ann, 'Bob').locator('.verdict').textContent();
  await until('the verdict is shown', verdict, (text) => /^live · \d+ (s|min)$/.test(text));
  await bob.click('#camera');
  await bob.click('#microphone');
  await tile(ann, 'Bob').getByText('Picture is off').waitFor();
  await tile(ann, 'Bob').getByText('muted').waitFor();
  const off = /^switched off by the sender · (\d+) s$/;
  const [first] = await until('the cause is shown', verdict, (text) => off.test(text));
  const long = (text) => Number(text.match(off)?.[1]);
  await until('and for how long', verdict, (text) => long(text) >= long(first) + 3);
  await ann.screenshot({ path: join(pictures, 'off.png') });
  t.diagnostic(`screenshot: ${join(pictures, 'off.png')}`);
  await bob.click('#camera');
  await tile(ann, 'Bob').getByText('Picture is off').waitFor({ state: 'hidden' });
  await until('it flows again', verdict, (text) => /^live · \d s$/.test(text));
  await moves(ann, 'Bob');

  await bob.click('#leave');
  await tile(ann, 'Bob').waitFor({ state: 'detached' });
  await ann.locator('#alone').waitFor();
  assert.ok(await bob.locator('#lobby').isVisible());
  await bob.click('#join');
  await moves(ann, 'Bob');
  await moves(bob, 'Ann');
});

test('over TLS with a certificate of its own, two pages see each other move', async (t) => {
  const server = await startWeirgate(t, { flags: ['--tls', 'self-signed'] });
  // As who has clicked the browser's warning away.
  const view = { ...VIEW, ignoreHTTPSErrors: true };
  const ann = await enter(t, server, 'Ann', { view });
  const bob = await enter(t, server, 'Bob', { view });
  assert.ok(ann.url().startsWith('https://'), ann.url());
  await moves(ann, 'Bob');
  await moves(bob, 'Ann');
});

test('the sound of a camera page is heard', async (t) => {
  const server = await startWeirgate(t);
  const ann = await enter(t, server, 'Ann', { source: 'camera' });
  const bob = await enter(t, server, 'Bob');
  await moves(bob, 'Ann');
  await moves(ann, 'Bob');
  const heard = (page, user) =>
    tile(page, user).locator('video').evaluate(async (video) => {
      const meter = (video.meter ??= await (async () => {
        const context = new AudioContext();
        const analyser = context.createAnalyser();
        context.createMediaStreamSource(video.srcObject).connect(analyser);
        return analyser;
      })());
      const samples = new Float32Array(meter.fftSize);
      meter.getFloatTimeDomainData(samples);
      return Math.max(...samples.map(Math.abs));
    });
  for (const [page, user] of [[bob, 'Ann'], [ann, 'Bob']]) {
    const [level] = await until(`${user} is heard`, () => heard(page, user), (now) => now > 0.005);
    t.diagnostic(`${user}'s level: ${level.toFixed(3)}`);
  }
});

test('who speaks has a ring', async (t) => {
  const server = await startWeirgate(t);
  const bob = await enter(t, server, 'Bob');
  const ann = await chromium.open(t, address(server, { name: 'Ann', channel: 'river', source: 'camera' }), VIEW);
  await ann.evaluate(() => {
    navigator.mediaDevices.getUserMedia = async () => {
      const context = new AudioContext();
      const out = context.createMediaStreamDestination();
      // Like syllables: the console sends with DTX, and the encoder takes a steady tone for background.
      const [tone, swell] = [new OscillatorNode(context, { type: 'sawtooth', frequency: 180 }), new OscillatorNode(context, { frequency: 3 })];
      const volume = new GainNode(context, { gain: 0.3 });
      swell.connect(new GainNode(context, { gain: 0.3 })).connect(volume.gain);
      tone.connect(volume).connect(out);
      tone.start();
      swell.start();
      return out.stream;
    };
  });
  await ann.click('#join');
  for (const page of [bob, ann]) {
    await page.locator('.tile.speaking[data-user="Ann"]').waitFor();
    assert.equal(await tile(page, 'Bob').evaluate((element) => element.classList.contains('speaking')), false);
  }
  await ann.click('#microphone');
  for (const page of [bob, ann]) await page.locator('.tile.speaking[data-user="Ann"]').waitFor({ state: 'detached' });
  await ann.click('#microphone');
  for (const page of [bob, ann]) await page.locator('.tile.speaking[data-user="Ann"]').waitFor();

  await ann.click('#leave');
  await bob.locator('.tile.speaking[data-user="Ann"]').waitFor({ state: 'detached' });
});

test('a button says once what it does, and the focus has a place', async (t) => {
  const server = await startWeirgate(t);
  const page = await enter(t, server, 'Ann');
  const focused = () => page.evaluate(() => document.activeElement.id);
  assert.equal(await focused(), 'call');
  assert.equal(await page.locator('#call').getAttribute('aria-label'), 'Channel river');
  for (const [id, whenOn, whenOff] of [['microphone', 'Mute', 'Unmute'], ['camera', 'Picture off', 'Picture on']]) {
    // By its role and its whole name; a pressed state would make "Mute, pressed" of a button that mutes.
    for (const name of [whenOn, whenOff, whenOn]) {
      await page.getByRole('button', { name, exact: true }).waitFor();
      assert.equal(await page.locator(`#${id}`).getAttribute('aria-pressed'), null);
      await page.click(`#${id}`);
    }
    await page.getByRole('button', { name: whenOff, exact: true }).waitFor();
  }
  await page.click('#leave');
  assert.equal(await focused(), 'join');
});

test('a reload keeps the channel in the address, and the name', async (t) => {
  const server = await startWeirgate(t);
  const page = await chromium.open(t, server.base, VIEW);
  await page.fill('#name', 'Ann');
  await page.fill('#channel', 'the river');
  await page.check('[value=pattern]');
  await page.click('#join');
  await page.waitForSelector('#call:not([hidden])');
  assert.equal(new URL(page.url()).searchParams.get('channel'), 'the river');
  await page.reload();
  const form = () => page.evaluate(() => ['name', 'channel'].map((id) => document.getElementById(id).value));
  assert.deepEqual(await form(), ['Ann', 'the river']);
  assert.ok(await page.isChecked('[value=pattern]'));
  await page.click('#join');
  await moves(page, 'Ann');
  // A guest's address joins by itself; its reload shows the form.
  await page.goto(address(server, { name: 'Guest', channel: 'river', source: 'pattern', join: '1' }));
  await page.waitForSelector('#call:not([hidden])');
  await page.reload();
  await page.waitForSelector('#lobby:not([hidden])');
  assert.deepEqual(await form(), ['Guest', 'river']);
});

test('who has no camera just watches', async (t) => {
  const server = await startWeirgate(t);
  const ann = await enter(t, server, 'Ann');
  const bob = await enter(t, server, 'Bob', { source: 'watch' });
  await moves(bob, 'Ann');
  await tile(bob, 'Bob').getByText('You only watch').waitFor();
  await tile(ann, 'Bob').getByText('Sends nothing yet').waitFor();
  assert.deepEqual([await bob.isVisible('#microphone'), await bob.isVisible('#camera')], [false, false]);

  const cid = await chromium.open(t, address(server, { name: 'Cid', channel: 'river', source: 'camera' }), VIEW);
  await cid.evaluate(() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('none', 'NotFoundError'));
  });
  await cid.click('#join');
  await cid.getByRole('button', { name: 'Just watch' }).click();
  await moves(cid, 'Ann');
});

test('a camera that is off shows no light, and comes back', async (t) => {
  const server = await startWeirgate(t);
  const bob = await enter(t, server, 'Bob');
  const ann = await chromium.open(t, address(server, { name: 'Ann', channel: 'river', source: 'camera' }), VIEW);
  await ann.evaluate(() => {
    window.given = [];
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
      if (window.denied) throw new DOMException('in use', 'NotReadableError');
      const stream = await ask(wanted);
      window.given.push(...stream.getTracks());
      return stream;
    };
  });
  await ann.click('#join');
  await moves(bob, 'Ann');
  const live = (kind) => ann.evaluate((of) => window.given.filter((track) => track.kind === of && track.readyState === 'live').length, kind);
  for (let round = 0; round < 2; round++) {
    await ann.click('#camera');
    await tile(bob, 'Ann').getByText('Picture is off').waitFor();
    await until('the camera is given back', () => live('video'), (count) => count === 0);
    assert.equal(await live('audio'), 1);
    await ann.click('#camera');
    await tile(bob, 'Ann').getByText('Picture is off').waitFor({ state: 'hidden' });
    await moves(bob, 'Ann');
    await moves(ann, 'Ann');
    assert.equal(await live('video'), 1);
  }
  // Another program took it meanwhile: it stays off, in words, and the next click tries again.
  await ann.click('#camera');
  await until('the camera is given back', () => live('video'), (count) => count === 0);
  await ann.evaluate(() => { window.denied = true; });
  await ann.click('#camera');
  await ann.getByText('Another program uses the camera').waitFor();
  await ann.getByRole('button', { name: 'Camera on' }).waitFor();
  await ann.evaluate(() => { window.denied = false; });
  await ann.click('#camera');
  await moves(bob, 'Ann');
  await ann.click('#leave');
  await until('everything is given back', async () => await live('video') + await live('audio'), (count) => count === 0);
});

test('restart-ice is tried again until one is under way', async (t) => {
  const server = await startWeirgate(t);
  const ann = await enter(t, server, 'Ann');
  const page = await chromium.open(t, address(server, { name: 'Bob', channel: 'river', source: 'watch' }), VIEW);
  await page.evaluate(() => {
    window.connections = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(...settings) {
        super(...settings);
        window.connections.push(this);
      }
    };
    // The server refuses the first two: they name no transport.
    window.restarts = 0;
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (text) {
      const message = JSON.parse(text);
      if (message.type === 'restart-ice' && ++window.restarts <= 2) message.data.transportId = 5;
      send.call(this, JSON.stringify(message));
    };
  });
  await page.click('#join');
  await moves(page, 'Ann');
  await page.evaluate(() => {
    window.broken = window.connections.find((connection) => connection.connectionState === 'connected');
    Object.defineProperty(window.broken, 'connectionState', { value: 'failed', configurable: true });
    window.broken.dispatchEvent(new Event('connectionstatechange'));
  });
  await page.getByText('Media could not be brought back').waitFor();
  await until('a third one is sent', () => page.evaluate(() => window.restarts), (count) => count === 3);
  await page.evaluate(() => {
    delete window.broken.connectionState;
    window.broken.dispatchEvent(new Event('connectionstatechange'));
  });
  await page.locator('#call-notice').waitFor({ state: 'hidden' });
  await moves(page, 'Ann');
  await moves(ann, 'Ann');
});

test('the address alone joins: join=1', async (t) => {
  const server = await startWeirgate(t);
  const ann = await enter(t, server, 'Ann');
  await chromium.open(t, address(server, { name: 'Guest', channel: 'river', source: 'pattern', join: '1' }), VIEW);
  await moves(ann, 'Guest');
  // Who sends nothing has a tile without a picture: the page is loaded all the same, which opening it waits for.
  await chromium.open(t, address(server, { name: 'Watcher', channel: 'river', source: 'watch', join: '1' }), VIEW);
  await tile(ann, 'Watcher').waitFor();
});

test('a server that went away is named, and the call comes back with it', async (t) => {
  const first = await startWeirgate(t);
  const [, port] = first.base.match(/:(\d+)$/);
  const [, rtc] = first.log().match(/UDP [\d.]+:(\d+)/);
  const ann = await enter(t, first, 'Ann');
  const bob = await enter(t, first, 'Bob');
  await moves(ann, 'Bob');
  await first.kill();
  await ann.getByText('Trying again').waitFor();
  await ann.screenshot({ path: join(pictures, 'lost.png') });
  await startWeirgate(t, { ports: [port, rtc] });
  await ann.getByText('Trying again').waitFor({ state: 'hidden' });
  await moves(ann, 'Bob');
  await moves(bob, 'Ann');
});

test('mistakes are answered in words', async (t) => {
  const server = await startWeirgate(t);
  const page = await chromium.open(t, server.base, VIEW);
  await page.click('#join');
  await page.getByText('Tell the others your name.').waitFor();
  await page.screenshot({ path: join(pictures, 'mistake.png') });

  // A camera that is not allowed.
  await page.addInitScript(() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
  });
  await page.goto(address(server, { name: 'Ann', channel: 'river' }));
  await page.click('#join');
  await page.getByText('was not allowed to use the camera').waitFor();
  await page.screenshot({ path: join(pictures, 'camera.png') });
  await page.click('#lobby-notice button');
  await page.waitForSelector('#call:not([hidden])');
  await moves(page, 'Ann');
});

test('over plain http from another machine the test pattern is offered', async (t) => {
  const own = Object.values(networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal);
  if (!own) {
    t.skip('this machine has no address but loopback');
    return;
  }
  const server = await startWeirgate(t, { ip: '0.0.0.0' });
  const there = { ...server, base: server.base.replace('127.0.0.1', own.address) };
  // Without a secure context mediasoup-client goes by the user agent, which must not be a headless one's.
  const userAgent = `Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${chromium.version} Safari/537.36`;
  const view = { ...VIEW, userAgent };
  const ann = await chromium.open(t, address(there, { name: 'Ann', channel: 'river', source: 'camera' }), view);
  await ann.getByText('Browsers give a camera only to https pages').waitFor();
  await ann.screenshot({ path: join(pictures, 'plain-http.png') });
  await ann.click('#join');
  await ann.waitForSelector('#call:not([hidden])');
  const bob = await enter(t, there, 'Bob', { view });
  await moves(ann, 'Bob');
  await moves(bob, 'Ann');
});
