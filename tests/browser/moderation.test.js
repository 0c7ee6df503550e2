// A moderator in a call of three: mutes, removes and bans, as the others and who it is about see it.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodes, isHeard, runsSmoothly, until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });
const SECRET = 'a secret of more than 32 bytes, for tests alone';

function token(user, moderate) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const grants = { join: true, publish: true, subscribe: true, moderate };
  const claims = { sub: user, channel: 'room', exp: Math.floor(Date.now() / 1000) + 600, grants };
  const signed = `${part({ alg: 'HS256' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

async function place(t) {
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-moderation-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const key = join(folder, 'key');
  writeFileSync(key, SECRET);
  return startWeirgate(t, { flags: ['--auth', 'token', '--auth-key', key] });
}

/** A peer that came by a token and has subscribed, with its id. */
async function comes(t, server, user, moderate = false) {
  const peer = await chromium.join(t, server, token(user, moderate), 'room');
  peer.user = user;
  ({ peerId: peer.id } = await peer.ask('subscribe'));
  return peer;
}

const told = async (peer, type) => {
  const [all] = await until(`${peer.user} is told ${type}`, () => peer.notified(type), (found) => found.length > 0);
  return all.at(-1);
};

/** No further frame within a second, though the sender goes on. */
async function standsStill(peer, { id }) {
  const frames = async () => (await peer.received(id)).framesDecoded;
  await sleep(500);
  const before = await frames();
  await sleep(1000);
  assert.equal(await frames(), before, `${peer.user} still gets frames`);
}

test('a moderator mutes, removes and bans', async (t) => {
  const server = await place(t);
  const mod = await comes(t, server, 'mod', true);
  const ann = await comes(t, server, 'ann');
  const bob = await comes(t, server, 'bob');
  await ann.publish({ width: 320, height: 240 });
  const seen = await bob.consumeAll();
  const [picture] = seen.filter(({ kind }) => kind === 'video');
  const [sound] = seen.filter(({ kind }) => kind === 'audio');
  await runsSmoothly(bob, picture);
  await isHeard(bob, sound);

  await mod.ask('mute-producer', { producerId: picture.producerId });
  assert.equal((await told(ann, 'producer-muted')).by, mod.id);
  const paused = await told(bob, 'producer-paused');
  assert.deepEqual([paused.id, paused.muted, paused.by], [picture.producerId, true, mod.id]);
  await standsStill(bob, picture);
  // Whatever its owner asks.
  await ann.ask('resume-producer', { producerId: picture.producerId });
  await standsStill(bob, picture);
  const before = await bob.received(picture.id);
  await mod.ask('unmute-producer', { producerId: picture.producerId });
  const ms = await decodes(bob, picture, before.framesDecoded + 1);
  await runsSmoothly(bob, picture);
  const after = await bob.received(picture.id);
  assert.equal(after.packetsLost, before.packetsLost, 'the mute leaves no gap in the sequence numbers');
  t.diagnostic(`first frame ${ms} ms after unmute-producer; NACK ${after.nackCount}, PLI ${after.pliCount}`);

  await mod.ask('send-message', { data: { text: 'last warning' } });
  assert.deepEqual(await told(ann, 'message'), { from: mod.id, data: { text: 'last warning' } });

  for (const [banSeconds, code] of [[undefined, 'removed'], [60, 'banned']]) {
    const mallory = await comes(t, server, 'mallory');
    await mallory.publish({ kinds: ['video'] });
    const [news] = await until('bob hears of it', async () => (await bob.notified('new-producer')).at(-1), (last) => last?.user === 'mallory');
    const seen = await bob.consume({ producerId: news.id });
    await decodes(bob, seen);
    await mod.ask('remove-peer', { peerId: mallory.id, reason: 'be kind', banSeconds });
    assert.equal((await told(mallory, 'error')).code, code);
    assert.deepEqual(await told(mallory, 'closed'), { code: 4403 });
    const left = await told(bob, 'peer-left');
    assert.deepEqual([left.id, left.reason, left.message], [mallory.id, code, 'be kind']);
    await mallory.leave();
  }
  const refused = await ann.page.evaluate((address) => new Promise((resolve) => {
    const heard = [];
    const socket = new WebSocket(address);
    socket.onmessage = ({ data }) => heard.push(JSON.parse(data).data.code);
    socket.onclose = ({ code }) => resolve([...heard, code]);
  }), `${server.socket}?${new URLSearchParams({ auth: token('mallory'), channelId: 'room' })}`);
  assert.deepEqual(refused, ['banned', 4403]);
  await runsSmoothly(bob, picture);
  await isHeard(bob, sound);
});

test('in the console a moderator mutes, locks, lets in and removes, and everybody can chat', async (t) => {
  const server = await place(t);
  // Whose sound nobody mutes sends nothing: five pictures are a load for the machine.
  const enter = async (user, moderate, wait = true) => {
    const source = user === 'ann' ? 'pattern' : 'watch';
    const form = { auth: token(user, moderate), channel: 'room', source, join: '1' };
    const page = await chromium.open(t, `${server.base}/?${new URLSearchParams(form)}`, { viewport: { width: 1100, height: 700 } });
    if (wait) await page.waitForSelector('#call:not([hidden])');
    return page;
  };
  const shows = (page, selector, wanted) =>
    until(`${selector} shows ${wanted}`, () => page.textContent(selector), (text) => wanted.test(text));
  const mod = await enter('mod', true);
  assert.ok(await mod.isVisible('#own-token') && !(await mod.isVisible('#guest')), 'a guest would have no token');
  const ann = await enter('ann', false);
  const tile = (page, user) => page.locator(`.tile[data-user="${user}"]`);
  await tile(ann, 'mod').waitFor();
  assert.ok(!(await ann.isVisible('#moderation')) && !(await tile(ann, 'mod').locator('.acts').isVisible()));

  await tile(mod, 'ann').getByRole('button', { name: 'Mute' }).click();
  await shows(ann, '#call-notice', /A moderator has muted your audio/);
  await tile(mod, 'ann').locator('.badge.off', { hasText: 'muted' }).waitFor();
  await tile(mod, 'ann').getByRole('button', { name: 'Unmute' }).click();
  await until('ann may speak again', () => ann.isVisible('#call-notice'), (visible) => !visible);
  await tile(mod, 'ann').locator('.badge.off').waitFor({ state: 'detached' });
  await tile(mod, 'ann').getByRole('button', { name: 'Mute', exact: true }).waitFor();

  await ann.click('#talk');
  await ann.fill('#say', 'good <b>morning</b>');
  await ann.press('#say', 'Enter');
  await shows(ann, '#said', /^You good <b>morning<\/b>$/);
  assert.equal(await ann.inputValue('#say'), '');
  await shows(mod, '#talk', /^Chat \(1\)$/);
  await mod.click('#talk');
  await shows(mod, '#said', /^ann good <b>morning<\/b>$/);
  await shows(mod, '#talk', /^Chat$/);

  await mod.click('#lock');
  await shows(mod, '#lock', /^Unlock$/);
  const bob = await enter('bob', false, false);
  await shows(bob, '#lobby-notice', /A moderator has to let you in/);
  await shows(mod, '#waits', /^bob would like to come in$/);
  const eve = await enter('eve', false, false);
  await shows(mod, '#waits', /^bob and 1 more would/);
  await eve.getByRole('button', { name: 'Do not wait' }).click();
  await shows(eve, '#lobby-notice', /You did not wait/);
  await shows(mod, '#waits', /^bob would/);
  await mod.click('#let-in');
  await bob.waitForSelector('#call:not([hidden])');
  await shows(mod, '#waits', /^$/);
  const fay = await enter('fay', false, false);
  await shows(mod, '#waits', /^fay would/);
  await mod.click('#turn-away');
  await shows(fay, '#lobby-notice', /You are out/);
  await mod.click('#lock');
  await shows(mod, '#lock', /^Lock$/);

  await tile(mod, 'bob').getByRole('button', { name: 'Remove' }).click();
  await shows(bob, '#lobby-notice', /You are out/);
  await tile(mod, 'bob').waitFor({ state: 'detached' });

  // What the operator gives and takes shows at once.
  const [, admin] = /^ +admin +(\S+)\/metrics$/m.exec(server.log());
  const { peers } = await (await fetch(`${admin}/v1/channels/room/peers`)).json();
  const grant = (user, moderate) => {
    const { id } = peers.find((peer) => peer.user === user);
    const [headers, body] = [{ 'Content-Type': 'application/json' }, JSON.stringify({ grants: { moderate } })];
    return fetch(`${admin}/v1/channels/room/peers/${id}`, { method: 'PATCH', headers, body });
  };
  await grant('mod', false);
  await mod.waitForSelector('#moderation', { state: 'hidden' });
  assert.ok(!(await tile(mod, 'ann').locator('.acts').isVisible()));
  await grant('ann', true);
  await tile(ann, 'mod').getByRole('button', { name: 'Mute' }).waitFor();
});

test('the console waits to be let in, shows names, and does not come again when it is put out', async (t) => {
  const server = await place(t);
  const mod = await comes(t, server, 'mod', true);
  await mod.ask('rename', { name: 'The Moderator' });
  await mod.ask('set-channel', { locked: true, waiting: true });
  const form = { auth: token('ann'), name: 'ann', channel: 'room', source: 'pattern', join: '1' };
  const page = await chromium.open(t, `${server.base}/?${new URLSearchParams(form)}`);
  const shows = (selector, wanted) =>
    until(`${selector} shows ${wanted}`, () => page.textContent(selector), (text) => wanted.test(text));
  await shows('#lobby-notice', /A moderator has to let you in/);
  const waiting = await told(mod, 'peer-waiting');
  assert.equal(waiting.user, 'ann');
  await mod.ask('admit-peer', { peerId: waiting.id });
  await shows('#tiles', /The Moderator/);
  await mod.ask('rename', { name: 'M.' });
  await shows('#tiles', /M\./);
  const pictures = await mod.consumeAll();
  const [picture] = pictures.filter(({ kind }) => kind === 'video');
  await decodes(mod, picture);
  await mod.ask('mute-producer', { producerId: picture.producerId });
  await shows('#call-notice', /A moderator has muted your video/);
  await mod.ask('remove-peer', { peerId: waiting.id, reason: 'be kind' });
  await shows('#lobby-notice', /be kind/);
  await mod.ask('set-channel', { locked: false });
  // Longer than the longest wait of one that tries again.
  await sleep(4000);
  assert.equal((await mod.notified('peer-joined')).length, 1, 'it did not come again');
  assert.ok(await page.isVisible('#join-form'));
});
