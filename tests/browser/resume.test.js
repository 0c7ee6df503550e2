// Calls whose TCP connections are killed while they run: by FIN, by RST, and by a hole in which nothing passes and nobody
// is told. By the frames that every browser has decoded, beside those of a peer whose connection stays. WEIRGATE_KILLS is
// the number of kills.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChromium } from './support/chromium.js';
import { allRun, until } from './support/check.js';
import { startDetour } from './support/detour.js';
import { longestDark, noteReceived } from './support/received.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

const KILLS = Number(process.env.WEIRGATE_KILLS ?? 5);
const BETWEEN_MS = 1_500;
/** Noticing a hole takes three seconds; five times the goal. */
const BACK_MS = 5 * 4_000;
/** A page that shares its cores with others may be held up for longer than it usually has. */
const GRACE = ['--resume-grace', '60s'];

/** The consumers of a page by the user whose they are, with what has come so far. */
async function counts(peer, users) {
  const { producers } = await peer.ask('get-producers');
  const of = new Map(producers.map(({ id, user, kind }) => [id, `${user} ${kind}`]));
  const consumers = await peer.page.evaluate(() => [...window.client.consumers.values()].map(({ id, producerId }) => [id, producerId]));
  const all = {};
  for (const [id, producerId] of consumers) {
    const stats = await peer.received(id);
    const { framesDecoded = 0, freezeCount = 0, framesDropped = 0, packetsLost, packetsReceived, timestamp } = stats;
    all[of.get(producerId)] = { id, framesDecoded, freezeCount, framesDropped, packetsLost, packetsReceived, timestamp };
  }
  assert.equal(Object.keys(all).length, users.length * 2, `${peer.user} has what all others send: ${JSON.stringify(all)}`);
  return all;
}

/** What a page has sent so far, by kind. */
async function sent(peer) {
  const of = async (kind) => {
    const { framesSent = 0, packetsSent, timestamp } = await peer.sent(kind);
    return { framesSent, packetsSent, timestamp };
  };
  return { audio: await of('audio'), video: await of('video') };
}

/** What came between two counts. */
function grown(before, after) {
  const seconds = (after.timestamp - before.timestamp) / 1000;
  const of = (name) => after[name] - before[name];
  return {
    framesPerSecond: Math.round((10 * of('framesDecoded')) / seconds) / 10,
    packetsPerSecond: Math.round(of('packetsReceived') / seconds),
    freezes: of('freezeCount'), dropped: of('framesDropped'), lost: of('packetsLost'), same: before.id === after.id,
  };
}

test(`a peer whose connection is killed ${KILLS} times in a call is missed by nobody and misses nothing`, async (t) => {
  const server = await startWeirgate(t, { flags: GRACE });
  const detour = await startDetour(t, Number(new URL(server.base).port));
  const behind = { ...server, socket: `ws://127.0.0.1:${detour.port}/socket` };
  const peers = {
    alice: await chromium.join(t, behind, 'alice', 'river', { returns: true }),
    bob: await chromium.join(t, server, 'bob', 'river'),
    carol: await chromium.join(t, server, 'carol', 'river'),
  };
  const names = Object.keys(peers);
  for (const peer of Object.values(peers)) {
    await peer.call('follow');
    await peer.publish({ width: 160, height: 90, rate: 10 });
  }
  const others = (name) => names.filter((other) => other !== name);
  const videos = async (peer) => (await peer.page.evaluate(() => window.client.consumers.size)) === 4;
  for (const peer of Object.values(peers)) {
    await until(`${peer.user} consumes all`, () => videos(peer), Boolean);
    const made = await peer.page.evaluate(() => [...window.client.consumers.values()].map(({ id, kind }) => ({ id, kind })));
    await allRun(t, peer, made);
  }
  await sleep(2_000);
  const all = () => Promise.all(names.map((name) => counts(peers[name], others(name))));
  const allSent = () => Promise.all(names.map((name) => sent(peers[name])));
  const [before, beforeSent] = [await all(), await allSent()];
  const manners = ['reset', 'cut', 'reset', 'hush'];
  const returning = () => peers.alice.page.evaluate(() => {
    const { back, tries, broken } = window.client.returning;
    return { back, tries, broken };
  });
  const took = [];
  for (let kill = 0; kill < KILLS; kill++) {
    const manner = manners[kill % manners.length];
    detour[manner]();
    const [, ms] = await until(`alice is back after a ${manner}`, returning, ({ back, broken }) => back > kill && !broken, BACK_MS);
    took.push(`${manner} ${ms} ms`);
    // She can ask, and is answered.
    assert.ok((await peers.alice.ask('get-producers')).producers.length === 4);
    await sleep(BETWEEN_MS * Math.random());
  }
  await sleep(1_000);
  const [after, afterSent] = [await all(), await allSent()];
  t.diagnostic(`back after: ${took.join(', ')}; ${JSON.stringify(await returning())}`);
  const seen = {};
  for (const [place, name] of names.entries()) {
    for (const [of, stats] of Object.entries(after[place])) {
      seen[`${name} of ${of}`] = grown(before[place][of], stats);
    }
  }
  for (const [what, result] of Object.entries(seen)) t.diagnostic(`${what}: ${JSON.stringify(result)}`);
  const isControl = (what) => !what.includes('alice');
  for (const kind of ['audio', 'video']) {
    const [rate, unit] = kind === 'video' ? ['framesPerSecond', 'framesSent'] : ['packetsPerSecond', 'packetsSent'];
    // A browser on a busy machine sends less than it should.
    const source = (name) => {
      const [first, last] = [beforeSent, afterSent].map((all) => all[names.indexOf(name)][kind]);
      return (last[unit] - first[unit]) / ((last.timestamp - first.timestamp) / 1000);
    };
    const results = Object.entries(seen).filter(([what]) => what.endsWith(kind));
    const control = results.filter(([what]) => isControl(what)).map(([, result]) => result);
    const least = Math.min(...control.map((result) => result[rate]));
    const most = (name) => Math.max(...control.map((result) => result[name]));
    for (const [what, result] of results) {
      assert.ok(result.same, `${what}: another consumer`);
      assert.ok(result.lost <= most('lost'), `${what}: packets were lost: ${JSON.stringify(result)}`);
      // On a busy machine browsers stall by themselves.
      assert.ok(result.freezes <= 2 * most('freezes'), `${what}: it froze: ${JSON.stringify(result)}`);
      const possible = Math.min(least, source(what.split(' ')[2]));
      assert.ok(result[rate] >= 0.95 * possible, `${what}: ${result[rate]}, beside ${least}, possible ${possible}`);
    }
  }
  for (const peer of Object.values(peers)) {
    assert.deepEqual(await peer.notified('peer-left'), [], `${peer.user} saw somebody go`);
    assert.deepEqual(await peer.notified('producer-closed'), []);
  }
  const away = await peers.bob.notified('peer-away');
  assert.ok(away.length <= took.filter((one) => one.startsWith('hush')).length, 'away only where nothing told her of the break');
  const metrics = (await server.metrics()).filter((line) => /resumes|sockets_closed|peers_away/.test(line));
  t.diagnostic(metrics.join('; '));
});

test('a console whose connection is killed goes on with the same tiles', async (t) => {
  const server = await startWeirgate(t, { flags: GRACE });
  const detour = await startDetour(t, Number(new URL(server.base).port));
  const open = async (base, name) => {
    const parameters = new URLSearchParams({ name, channel: 'river', source: 'pattern' });
    const page = await chromium.open(t, `${base}/?${parameters}`, { before: noteReceived });
    await page.click('#join');
    await page.waitForSelector('#call:not([hidden])');
    return page;
  };
  const ann = await open(server.base, 'Ann');
  const bob = await open(`http://127.0.0.1:${detour.port}`, 'Bob');
  const both = [ann, bob];
  const pictures = (page) => page.evaluate(() => window.grown.filter(([, what]) => what === 'picture').length);
  for (const page of both) await until('a picture', () => pictures(page), (count) => count > 5);
  const quiet = Date.now();
  await sleep(5_000);
  const usual = Math.max(...await Promise.all(both.map((page) => longestDark(page, quiet))));
  for (const page of both) await page.$$eval('.tile', (tiles) => tiles.forEach((tile) => tile.setAttribute('data-old', '')));
  const since = Date.now();
  for (const manner of ['reset', 'hush', 'cut']) {
    const resumed = async () => (await server.metrics()).filter((line) => /resumes_total.*(resumed|taken-over)/.test(line));
    const sum = (lines) => lines.reduce((all, line) => all + Number(line.split(' ').at(-1)), 0);
    const before = sum(await resumed());
    detour[manner]();
    const [, ms] = await until(`Bob is back after a ${manner}`, resumed, (lines) => sum(lines) > before, BACK_MS);
    t.diagnostic(`${manner}: back after ${ms} ms`);
    await bob.click('#microphone');
    await ann.locator('.tile[data-user="Bob"] .badge.off').filter({ hasText: 'muted' }).waitFor();
    await bob.click('#microphone');
    await ann.locator('.tile[data-user="Bob"] .badge.off').filter({ hasText: 'muted' }).waitFor({ state: 'detached' });
  }
  for (const page of both) {
    assert.equal(await page.locator('.tile[data-old]').count(), 2, 'the same tiles');
    assert.equal(await page.locator('.tile').count(), 2);
    const dark = await longestDark(page, since);
    t.diagnostic(`the longest time without a picture: ${dark} ms, before that ${usual} ms`);
    assert.ok(dark > 0 && dark <= Math.max(2_000, 5 * usual), `dark for ${dark} ms, before that ${usual} ms`);
  }
});
