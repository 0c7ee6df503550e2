// A call over https with tokens, between Chromium and Firefox, and what an outsider sees. Tokens are made as an
// application makes them, with node's own cryptography.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, createHmac, generateKeyPairSync, randomBytes, sign, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startChromium } from './support/chromium.js';
import { until } from './support/check.js';
import { startFirefox } from './support/firefox.js';
import { startWeirgate } from './support/weirgate.js';

const folder = mkdtempSync(join(tmpdir(), 'weirgate-identity-'));
after(() => rmSync(folder, { recursive: true }));
const file = (name) => join(folder, name);
const openssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });

/** Firefox has no media over loopback with a page that is served there. */
const own = Object.values(networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal)?.address;
const skip = own ? undefined : 'this machine has no address but loopback';

/** A certificate authority of this test, and a certificate of it for this machine's addresses. */
function makeCertificates() {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=Test CA');
  openssl('req', ...key, '-keyout', 'key.pem', '-out', 'request.pem', '-subj', '/CN=127.0.0.1');
  writeFileSync(file('names'), `subjectAltName=IP:127.0.0.1,IP:${own ?? '127.0.0.1'}\n`);
  openssl('x509', '-req', '-in', 'request.pem', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial',
    '-out', 'leaf.pem', '-days', '2', '-extfile', 'names');
  writeFileSync(file('chain.pem'), readFileSync(file('leaf.pem'), 'utf8') + readFileSync(file('ca.pem'), 'utf8'));
  const spki = new X509Certificate(readFileSync(file('ca.pem'))).publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(spki).digest('base64');
}

const authority = makeCertificates();
// Chromium trusts this authority's key alone; Firefox is driven as somebody who goes past its warning.
const chromium = await startChromium({ flags: [`--ignore-certificate-errors-spki-list=${authority}`] });
const firefox = await startFirefox({ acceptInsecureCerts: true });

const secret = randomBytes(32).toString('hex');
const { privateKey, publicKey } = generateKeyPairSync('ed25519');
writeFileSync(file('secret'), secret);
writeFileSync(file('ed25519.pem'), publicKey.export({ type: 'spki', format: 'pem' }));

const SIGN = {
  HS256: (text) => createHmac('sha256', secret).update(text).digest('base64url'),
  EdDSA: (text) => sign(null, Buffer.from(text), privateKey).toString('base64url'),
};
const GRANTS = { join: true, publish: true, subscribe: true };

function token(sub, { alg = 'HS256', seconds = 60, channel = 'river', grants = GRANTS, ...more } = {}) {
  const claims = { sub, channel, grants, exp: Math.floor(Date.now() / 1000) + seconds, ...more };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg, typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${SIGN[alg](text)}`;
}

async function start(t) {
  const server = await startWeirgate(t, {
    ip: '0.0.0.0',
    flags: ['--tls-cert', file('chain.pem'), '--tls-key', file('key.pem'), '--auth', 'token', '--auth-leeway', '0',
      '--auth-key', file('secret'), '--auth-key', file('ed25519.pem')],
  });
  return { ...server, base: server.base.replace('127.0.0.1', own) };
}

/** The page of one who came to this address and clicked Join. */
async function enter(t, browser, server, auth, source = 'pattern') {
  const given = { name: 'whoever', channel: 'river', source, ...(auth && { auth }) };
  const page = await browser.open(t, `${server.base}/?${new URLSearchParams(given)}`);
  await page.waitForSelector('#join');
  await page.evaluate(() => document.querySelector('#join').click());
  return page;
}

/** The picture of `user`, by its display name, on this page moves: its video element shows new frames whose pixels differ. */
async function moves(page, user) {
  const look = () =>
    page.evaluate((name) => {
      const video = document.querySelector(`.tile[data-user="${name}"] video`);
      if (!video?.videoWidth) return null;
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [64, 36];
      const context = canvas.getContext('2d');
      context.drawImage(video, 0, 0, 64, 36);
      return { time: video.currentTime, pixels: [...context.getImageData(0, 0, 64, 36).data].join() };
    }, user);
  const [first] = await until(`${user} is seen`, look, Boolean);
  await until(`${user} moves`, look, (now) => now.time > first.time && now.pixels !== first.pixels);
}

const notice = (page, id) => page.evaluate((name) => document.getElementById(name).textContent, id);

test('a call over https with tokens, Chromium and Firefox', { skip }, async (t) => {
  const server = await start(t);
  const [anna, berta] = [token('anna', { name: 'Anna A.' }), token('berta', { alg: 'EdDSA', channel: ['lobby', 'r*r'] })];
  const inChromium = await enter(t, chromium, server, anna);
  const inFirefox = await enter(t, firefox, server, berta);
  assert.ok(inChromium.url().startsWith('https://') && (await inChromium.evaluate(() => window.isSecureContext)));
  await moves(inChromium, 'berta');
  await moves(inFirefox, 'Anna A.');
  const shown = (await inFirefox.evaluate(() => document.body.innerText)) + server.log();
  for (const part of [...anna.split('.'), ...berta.split('.')]) assert.ok(!shown.includes(part), 'a token is shown');
});

test('an outsider is told why, in both', { skip }, async (t) => {
  const server = await start(t);
  for (const [auth, words] of [
    [null, /You are not let in: .*\?auth=TOKEN/],
    ['not a token', /You are not let in: .*no JWT/],
    [`${token('anna').slice(0, -4)}AAAA`, /You are not let in: .*signature/],
    [token('anna', { seconds: -1 }), /Your time here is over/],
    [token('anna', { channel: 'lake' }), /You may not do this: .*channel/],
    [token('anna', { grants: { publish: true, subscribe: true } }), /You may not do this: .*join/],
  ]) {
    for (const browser of auth ? [chromium] : [chromium, firefox]) {
      const page = await enter(t, browser, server, auth, 'watch');
      await until(`it reads ${words}`, () => notice(page, 'lobby-notice'), (text) => words.test(text));
    }
  }
});

test('who may not send is told so, and watches with the same token', async (t) => {
  const server = await startWeirgate(t, { flags: ['--auth', 'token', '--auth-key', file('secret')] });
  await enter(t, chromium, server, token('anna'));
  const page = await enter(t, chromium, server, token('berta', { grants: { join: true, subscribe: true } }));
  await until('it reads why', () => notice(page, 'lobby-notice'), (text) => /publish/.test(text));
  assert.equal(await notice(page, 'where'), '', 'it is in no channel');
  await page.check('[value=watch]');
  await page.click('#join');
  await moves(page, 'anna');
});

test('who came for a few seconds is told when they are over', { skip }, async (t) => {
  const server = await start(t);
  for (const browser of [chromium, firefox]) {
    const page = await enter(t, browser, server, token('anna', { seconds: 6 }), 'watch');
    await until('the call is shown', () => page.evaluate(() => !document.getElementById('call').hidden), Boolean);
    await until('its end is told', () => notice(page, 'lobby-notice'), (text) => /expired/.test(text));
  }
});
