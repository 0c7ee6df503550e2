// Who leaves and comes back is seen as soon as at the first time, however long the watcher was alone meanwhile: in the
// console and in a plain page that subscribes. By the frames that the watcher's browser has decoded. WEIRGATE_RETURNS is
// the number of returns of each kind of watcher.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChromium } from './support/chromium.js';
import { until } from './support/check.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();

const RETURNS = Number(process.env.WEIRGATE_RETURNS ?? 2);
const ALONE_MS = [2_000, 40_000];
/** A return within this time is right, whatever the first join took; five times the goal. */
const GOAL_MS = 5 * 1_000;
const AS_THE_FIRST = 3;
const NEVER_MS = 20_000;
/** How long they see each other before one leaves. */
const TOGETHER_MS = 3_000;

/**
 * Runs in a watcher's page before its own scripts: of each video that is announced to it, when that was and when the
 * first frame of it was decoded.
 */
function notePictures() {
  window.pictures = [];
  window.WebSocket = class extends window.WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener('message', ({ data }) => {
        const { type, data: producer } = JSON.parse(data);
        if (type === 'new-producer' && producer.kind === 'video') window.pictures.push({ told: performance.now() });
      });
    }
  };
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...given) {
      super(...given);
      this.addEventListener('track', ({ receiver, track }) => track.kind === 'video' && note(receiver));
    }
  };
  async function note(receiver) {
    const picture = window.pictures.at(-1);
    while (receiver.track.readyState === 'live') {
      const stats = [...(await receiver.getStats()).values()].find(({ type }) => type === 'inbound-rtp');
      if (stats?.framesDecoded > 0) {
        picture.shown = performance.now();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Milliseconds from the announcement of the nth video to its first decoded frame; null: it was never seen. */
async function picture(page, nth) {
  const look = () => page.evaluate((at) => window.pictures[at] ?? null, nth);
  const shown = await until('', look, (seen) => seen?.shown, NEVER_MS).catch(() => null);
  return shown && Math.round(shown[0].shown - shown[0].told);
}

const half = (all) => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)];

/** `enter()` lets Alice in, and gives what lets her leave again. */
async function returns(t, page, enter) {
  const took = [];
  for (let nth = 0; nth <= RETURNS; nth++) {
    const leave = await enter();
    const ms = await picture(page, nth);
    took.push(ms);
    await sleep(TOGETHER_MS);
    await leave();
    // Spread over all of it, in no order.
    const part = RETURNS > 2 ? ((nth * 7) % RETURNS) / (RETURNS - 1) : nth / 5;
    const alone = Math.round(ALONE_MS[0] + part * (ALONE_MS[1] - ALONE_MS[0]));
    t.diagnostic(`${nth ? 'return' : 'first join'}: ${ms} ms${nth < RETURNS ? `; then ${alone} ms alone` : ''}`);
    if (nth < RETURNS) await sleep(alone);
  }
  const [first, ...later] = took;
  const seen = later.filter((ms) => ms !== null);
  t.diagnostic(`first ${first} ms; ${seen.length} of ${RETURNS} seen, in ${half(seen)} ms, at worst ${Math.max(...seen)} ms`);
  assert.ok(first !== null, 'the first join was not seen');
  const limit = Math.max(AS_THE_FIRST * first, GOAL_MS);
  assert.ok(later.every((ms) => ms !== null && ms <= limit), `a return took longer than ${limit} ms: ${later}`);
}

for (const sends of [true, false]) {
  test(`in a console that ${sends ? 'sends, too' : 'only watches'}`, async (t) => {
    const server = await startWeirgate(t);
    const open = async (name, source, before) => {
      const parameters = new URLSearchParams({ name, channel: 'river', source });
      const page = await chromium.open(t, `${server.base}/?${parameters}`, { before });
      await page.click('#join');
      await page.waitForSelector('#call:not([hidden])');
      return page;
    };
    const bob = await open('Bob', sends ? 'camera' : 'watch', notePictures);
    let alice;
    await returns(t, bob, async () => {
      if (alice) await alice.click('#join');
      alice ??= await open('Alice', 'camera');
      return () => alice.click('#leave');
    });
  });

  test(`in a plain page that ${sends ? 'sends, too' : 'only watches'}`, async (t) => {
    const server = await startWeirgate(t);
    const bob = await chromium.join(t, server, 'bob', 'river', { before: notePictures });
    await bob.call('follow');
    if (sends) await bob.publish({ width: 640, height: 360, rate: 24 });
    await returns(t, bob.page, async () => {
      const alice = await chromium.join(t, server, 'alice', 'river');
      await alice.call('follow');
      await alice.publish({ width: 640, height: 360, rate: 24 });
      return () => alice.leave();
    });
  });
}
