// A call whose network goes away and comes back: the cable of a browser in a network namespace of its own is pulled, and
// put back. By the frames and the sound that the pages on both sides have decoded.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBottleneck } from './support/bottleneck.js';
import { startChromium } from './support/chromium.js';
import { enterConsole } from './support/console.js';
import { startDetour } from './support/detour.js';
import { makeNetwork } from './support/network.js';
import { backAfter, longestDark, noteReceived } from './support/received.js';
import { startWeirgate } from './support/weirgate.js';

const network = makeNetwork();
const CLICKLESS = { flags: ['--autoplay-policy=no-user-gesture-required'] };
const chromium = await startChromium(CLICKLESS);
const inside = network.why ? null : await startChromium({ ...CLICKLESS, network });

const AWAY_S = [3, 10, 40];
/** So long Chromium goes on looking for a way by itself; then a page has to ask for restart-ice. */
const PLAIN_AWAY_S = 10;
/** Five times the goal. */
const BACK_MS = 5 * 5_000;

test('a call comes back with the network', { skip: network.why }, async (t) => {
  const server = await startWeirgate(t, { ip: network.server });
  const [ann, bob] = [await enterConsole(t, chromium, server.base, 'Ann'), await enterConsole(t, inside, server.base, 'Bob')];
  const dan = await inside.join(t, server, 'dan', 'river', { before: noteReceived });
  const { producers } = await dan.ask('get-producers');
  for (const { id } of producers.filter(({ user }) => user === 'Ann')) await dan.consume({ producerId: id });
  const pages = new Map(Object.entries({ 'Ann, outside': ann, 'Bob, inside': bob, 'Dan, inside, a plain page': dan.page }));
  for (const [name, page] of pages) await backAfter(page, name, 0);

  for (const seconds of AWAY_S) {
    if (seconds > PLAIN_AWAY_S && pages.delete('Dan, inside, a plain page')) await dan.leave();
    network.unplug();
    const down = Date.now();
    await sleep(1000 * seconds);
    network.plug();
    const since = Date.now();
    const back = await Promise.all([...pages].map(([name, page]) => backAfter(page, name, since, 2 * BACK_MS)));
    const dark = await longestDark(bob, down);
    t.diagnostic(`away for ${seconds} s; back after: ${[...pages.keys()].map((name, place) => `${name} ${back[place]} ms`).join('; ')}`);
    assert.ok(dark > 800 * seconds, `the cable was pulled, and the picture stood still for ${dark} ms`);
    assert.ok(Math.max(...back) <= BACK_MS, `back after ${back} ms, at most ${BACK_MS}`);
    // One outage after the other.
    await sleep(3000);
  }
});

/** Runs in a page before its own scripts: media goes to another port than the server says. */
const throughPort = (port) => ({
  content: `window.WebSocket = class extends window.WebSocket {
    set onmessage(take) {
      super.onmessage = ({ data }) => take({ data: data.replace(/"port":\\d+/g, '"port":${port}') });
    }
  };`,
});

test('a call goes on behind a NAT that forgets, and comes back without its socket where no peer outlives one', async (t) => {
  const server = await startWeirgate(t, { flags: ['--resume-grace', '0'] });
  const bottleneck = await startBottleneck(t, server.rtcPort);
  const detour = await startDetour(t, Number(new URL(server.base).port));
  const openBy = async (base, name, scripts) => {
    const page = await chromium.open(t, 'about:blank', { before: noteReceived });
    for (const script of scripts) await page.addInitScript(script);
    await page.goto(`${base}/?${new URLSearchParams({ name, channel: 'river', source: 'pattern' })}`);
    return page;
  };
  const ann = await openBy(server.base, 'Ann', []);
  const bob = await openBy(`http://127.0.0.1:${detour.port}`, 'Bob', [throughPort(bottleneck.port)]);
  const both = [['Ann', ann], ['Bob', bob]];
  for (const [, page] of both) await page.click('#join');
  for (const [, page] of both) await page.waitForSelector('#call:not([hidden])');
  const back = async (what, since) => {
    const took = await Promise.all(both.map(([name, page]) => backAfter(page, name, since, 2 * BACK_MS)));
    t.diagnostic(`${what}: Ann ${took[0]} ms, Bob ${took[1]} ms`);
    assert.ok(Math.max(...took) <= BACK_MS, `${what}: back after ${took} ms, at most ${BACK_MS}`);
  };
  for (const [name, page] of both) await backAfter(page, name, 0);
  /** Nothing has to begin anew, and what is on its way already is no sign: the longest stop tells. */
  const goesOn = async (what, since) => {
    // Five times the goal: the machine may be busy, and a page may have sent its check a moment before.
    await Promise.all(both.map(([name, page]) => backAfter(page, name, since, 5 * BACK_MS)));
    await sleep(5_000);
    const dark = await Promise.all(both.map(([, page]) => longestDark(page, since)));
    t.diagnostic(`${what}: the longest stop at Ann's ${dark[0]} ms, at Bob's ${dark[1]} ms`);
    assert.ok(dark.every((ms) => ms > 0 && ms <= 5 * BACK_MS), `${what}: a stop of ${dark} ms`);
  };
  const marked = () => ann.locator('.tile[data-user="Bob"][data-old]').count();
  const mark = () => ann.$$eval('.tile', (tiles) => tiles.forEach((tile) => tile.setAttribute('data-old', '')));

  await mark();
  const other = Date.now();
  bottleneck.rebind();
  await goesOn('the NAT gave other ports', other);
  assert.equal(await bob.locator('#call-notice').isVisible(), false);
  assert.equal(await marked(), 1, 'nobody had to join again');

  detour.cut();
  await ann.locator('.tile[data-user="Bob"][data-old]').waitFor({ state: 'detached', timeout: 60_000 });
  await back('the socket was cut', Date.now());

  // Nobody is told, and media flows: the old socket is given up after a while.
  await mark();
  detour.hush();
  await bob.getByText('The server does not answer').waitFor();
  await goesOn('the socket is silent', Date.now());
  assert.equal(await marked(), 1, 'what flows is not given up at once');
  await ann.locator('.tile[data-user="Bob"]:not([data-old])').waitFor({ timeout: 60_000 });
  await back('he joined over another one', Date.now());
});
