// The client that README.md lists, as it stands there but for the server's port and the user's name.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { build } from 'esbuild';
import { until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { startWeirgate } from './support/weirgate.js';

/** Three pages encode 640x480 and decode it twice, all on the machine's cores. */
const STARTS_WITHIN_MS = 120_000;

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });
const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
const [module, page] = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, listing]) => listing);

/** The text with one place changed, which has to be there. */
function changed(text, from, to) {
  assert.ok(text.includes(from), `README.md's page no longer says ${from}`);
  return text.replace(from, to);
}

async function bundle(server, user) {
  const contents = changed(changed(page, 'ws://localhost:4443', server.base.replace('http', 'ws')), "'alice'", `'${user}'`);
  const resolveDir = fileURLToPath(new URL('.', import.meta.url));
  const listed = {
    name: 'listed',
    setup(build) {
      build.onResolve({ filter: /^\.\/weirgate\.js$/ }, () => ({ path: 'weirgate.js', namespace: 'listed' }));
      build.onLoad({ filter: /./, namespace: 'listed' }, () => ({ contents: module, resolveDir }));
    },
  };
  const { outputFiles } = await build({
    stdin: { contents, resolveDir }, plugins: [listed], bundle: true, format: 'esm', write: false,
  });
  return outputFiles[0].text;
}

async function open(t, server, user) {
  const script = await bundle(server, user);
  const site = createServer((request, response) => {
    const isScript = request.url === '/bundle.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(isScript ? script : '<!doctype html><body><script type="module" src="bundle.js"></script>');
  }).listen(0, '127.0.0.1');
  await once(site, 'listening');
  t.after(() => site.close());
  return chromium.open(t, `http://127.0.0.1:${site.address().port}/`);
}

/** How many elements of the page play: sound that runs, pictures that have a size. */
const playing = (tab) => tab.evaluate(() =>
  [...document.querySelectorAll('audio, video')].filter(({ tagName, currentTime, videoWidth }) =>
    currentTime > 0 && (tagName === 'AUDIO' || videoWidth > 0)).length);

const all = (count) => (seen) => seen.every((n) => n === count);
const shown = (tab) => tab.locator('audio, video').count();

test('the client of the README shows who was there and who comes later, and who leaves is gone', async (t) => {
  const server = await startWeirgate(t);
  const ann = await open(t, server, 'ann');
  const bob = await open(t, server, 'bob');
  const of = (tabs, count) => Promise.all(tabs.map(count));
  await until('both see and hear the other', () => of([ann, bob], playing), all(2), STARTS_WITHIN_MS);
  const carol = await open(t, server, 'carol');
  await until('all three do', () => of([ann, bob, carol], playing), all(4), STARTS_WITHIN_MS);
  await bob.goto('about:blank');
  await until('who leaves is gone', () => of([ann, carol], shown), all(2), STARTS_WITHIN_MS);
});
