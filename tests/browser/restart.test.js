// The console when its server dies and is started again at once, as systemd does it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();
/** What it is to take: from the end of the old process to the other's picture. */
const GOAL_MS = 3_000;

async function enter(t, server, name) {
  const page = await chromium.open(t, `${server.base}/?${new URLSearchParams({ name, channel: 'river', source: 'pattern' })}`);
  await page.click('#join');
  await page.waitForSelector('#call:not([hidden])');
  return page;
}

/** Until a tile of `user` that was not marked before shows a picture that moves. */
const shows = (page, user) =>
  page.waitForFunction(
    (name) => {
      const video = document.querySelector(`.tile[data-user="${name}"]:not([data-old]) video`);
      return video?.videoWidth > 0 && video.getVideoPlaybackQuality().totalVideoFrames > 5;
    },
    user,
    { polling: 50, timeout: 60_000 },
  );

const markOld = (page) => page.$$eval('.tile', (tiles) => tiles.forEach((tile) => tile.setAttribute('data-old', '')));

test('a page of the console is back after kill -9 and a new start', async (t) => {
  const first = await startWeirgate(t);
  const [, port] = first.base.match(/:(\d+)$/);
  const [, rtc] = first.log().match(/UDP [\d.]+:(\d+)/);
  const ann = await enter(t, first, 'Ann');
  const begun = Date.now();
  const bob = await enter(t, first, 'Bob');
  await Promise.all([shows(ann, 'Bob'), shows(bob, 'Ann')]);
  const joined = Date.now() - begun;

  await Promise.all([ann, bob].map(markOld));
  await first.kill();
  const killed = Date.now();
  await startWeirgate(t, { ports: [port, rtc] });
  const started = Date.now() - killed;
  await Promise.all([shows(ann, 'Bob'), shows(bob, 'Ann')]);
  const back = Date.now() - killed;
  t.diagnostic(`back ${back} ms after kill -9, the server after ${started} ms; a first join took ${joined} ms`);
  assert.equal(await ann.getByText('Trying again').isVisible(), false);
  // The server's own start is not the console's. On a busy machine the first join of the same run is the measure.
  const most = Math.max(5 * GOAL_MS, 2 * joined);
  assert.ok(back - started <= most, `${back - started} ms after its start, at most ${most}`);
});
