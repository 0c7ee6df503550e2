// The modules that docs/APP.md lists, as they stand there, in a page that uses them: tokens, a connection that is cut,
// chat and moderation.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { build } from 'esbuild';
import { until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { startDetour } from './support/detour.js';
import { startWeirgate } from './support/weirgate.js';

/** Three pages encode and decode on the machine's cores. */
const STARTS_WITHIN_MS = 60_000;
const SECRET = 'a secret of this test, of 32 bytes or more';

const resolveDir = fileURLToPath(new URL('.', import.meta.url));
const app = await readFile(new URL('../../docs/APP.md', import.meta.url), 'utf8');
const listings = new Map([...app.matchAll(/^```js (\S+)\n(.*?)^```$/gms)].map(([, name, text]) => [name, text]));

/** One text of `entry` and all that it imports, the document's listings among it. */
async function bundle(entry, platform) {
  const listed = {
    name: 'listed',
    setup(build) {
      build.onResolve({ filter: /^\.\/\w+\.js$/ }, ({ path, importer, namespace }) =>
        // Packages have files of such names too.
        importer === '<stdin>' || namespace === 'listed' ? { path: path.slice(2), namespace: 'listed' } : undefined);
      build.onLoad({ filter: /./, namespace: 'listed' }, ({ path }) => ({ contents: listings.get(path), resolveDir }));
    },
  };
  const stdin = { contents: entry, resolveDir };
  const { outputFiles } = await build({ stdin, plugins: [listed], bundle: true, platform, format: 'esm', write: false });
  return outputFiles[0].text;
}

const { tokenFor } = await import(`data:text/javascript,${encodeURIComponent(await bundle(listings.get('token.js'), 'node'))}`);
const script = await bundle(`
  import { joinCall } from './call.js';
  window.seen = { people: [], chat: [], muted: [], tracks: 0, end: null };
  window.enter = async (server, channel, token, rate) => {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 320, height: 240, frameRate: rate } });
    const elements = new Map();
    window.call = await joinCall({
      server, channel, token, stream,
      onPeople: (people) => (seen.people = people),
      onTrack(track) {
        const element = Object.assign(document.createElement(track.kind), { autoplay: true });
        element.srcObject = new MediaStream([track]);
        document.body.append(element);
        elements.set(track.id, element);
      },
      onTrackEnded: (track) => elements.get(track.id).remove(),
      onChat: (from, text) => seen.chat.push([from, text]),
      onMuted: (kind, muted) => seen.muted.push([kind, muted]),
      onEnd: ({ code, message }) => (seen.end = { code, message }),
    });
  };`, 'browser');

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

test('tokens, resume, chat and moderation by the modules of docs/APP.md', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-app-'));
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'secret'), SECRET);
  const server = await startWeirgate(t, { flags: ['--auth', 'token', '--auth-key', join(folder, 'secret')] });
  const site = createServer((request, response) => {
    const isScript = request.url === '/bundle.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(isScript ? script : '<!doctype html><body><script type="module" src="bundle.js"></script>');
  }).listen(0, '127.0.0.1');
  await once(site, 'listening');
  t.after(() => site.close());
  const detour = await startDetour(t, Number(new URL(server.base).port));

  const direct = server.base.replace('http', 'ws');
  async function open(id, name, { moderates = false, by = direct } = {}) {
    const page = await chromium.open(t, `http://127.0.0.1:${site.address().port}/`);
    await page.waitForFunction(() => window.enter);
    page.token = await tokenFor(SECRET, { id, name }, 'standup', moderates);
    page.came = page.evaluate(([server, token]) => window.enter(server, 'standup', token, 15).then(() => null, ({ code }) => code), [by, page.token]);
    return page;
  }
  const seen = (page) => page.evaluate(() => window.seen);
  const playing = (page) => page.evaluate(() =>
    [...document.querySelectorAll('audio, video')].filter(({ tagName, currentTime, videoWidth }) =>
      currentTime > 0 && (tagName === 'AUDIO' || videoWidth > 0)).length);
  const peerOf = async (page, name) => (await seen(page)).people.find((person) => person.name === name)?.id;

  const ann = await open('1', 'Ann', { moderates: true });
  const bob = await open('2', 'Bob', { by: `ws://127.0.0.1:${detour.port}` });
  assert.deepEqual([await ann.came, await bob.came], [null, null]);
  for (const page of [ann, bob]) await until('both see and hear', () => playing(page), (count) => count === 2, STARTS_WITHIN_MS);
  assert.deepEqual((await seen(bob)).people.map(({ user, name }) => [user, name]), [['1', 'Ann']]);

  // Bob's connection is cut while both talk.
  const before = await peerOf(ann, 'Bob');
  detour.cut();
  await bob.evaluate(() => window.call.say('sent into a cut connection'));
  await ann.evaluate(() => window.call.say('sent to who has no connection'));
  await until('the words arrive', () => seen(ann), ({ chat }) => chat.length === 1);
  await until('so do the others', () => seen(bob), ({ chat }) => chat.length === 1);
  assert.deepEqual((await seen(ann)).chat, [['Bob', 'sent into a cut connection']]);
  assert.deepEqual((await seen(bob)).chat, [['Ann', 'sent to who has no connection']]);
  assert.equal(await peerOf(ann, 'Bob'), before, 'the same peer');
  assert.deepEqual([(await seen(bob)).end, await playing(bob), await playing(ann)], [null, 2, 2]);

  // Who may not moderate cannot, who may does.
  assert.equal(await bob.evaluate((id) => window.call.mute(id).then(() => null, ({ code }) => code), await peerOf(bob, 'Ann')), 'forbidden');
  await ann.evaluate((id) => window.call.mute(id), before);
  await until('Bob is told', () => seen(bob), ({ muted }) => muted.length === 1);
  await ann.evaluate((id) => window.call.unmute(id), before);
  await until('and of the end', () => seen(bob), ({ muted }) => muted.length === 2);
  assert.deepEqual((await seen(bob)).muted, [['audio', true], ['audio', false]]);

  // A locked channel keeps who comes waiting.
  await ann.evaluate(() => window.call.lock(true));
  const carol = await open('3', 'Carol');
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  assert.deepEqual((await seen(carol)).people, []);
  await ann.evaluate(() => window.call.lock(false));
  assert.equal(await carol.came, null);
  await until('Carol sees and hears both', () => playing(carol), (count) => count === 4, STARTS_WITHIN_MS);

  await ann.evaluate((id) => window.call.remove(id, 'enough', 60), before);
  const { end } = (await until('Bob is told why', () => seen(bob), ({ end }) => end))[0];
  assert.equal(end.code, 'banned');
  const again = await open('2', 'Bob');
  assert.equal(await again.came, 'banned');
  await until('Carol sees Ann alone', () => playing(carol), (count) => count === 2);
  const log = server.log();
  for (const page of [ann, bob, carol]) assert.ok(!log.includes(page.token), 'no token is logged');
});
