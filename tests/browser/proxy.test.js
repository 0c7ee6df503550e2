// A call through a proxy that adds TLS: Debian's nginx with the configuration of docs/DEPLOY.md.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { enterConsole } from './support/console.js';
import { backAfter } from './support/received.js';
import { freeTcpPort, startWeirgate } from './support/weirgate.js';

const chromium = await startChromium();
const missing = spawnSync('nginx', ['-v']).error ? 'nginx is not installed' : undefined;

/** The proxy of docs/DEPLOY.md at a free port, before `server`. Ends with the test. */
async function startNginx(t, server) {
  const port = await freeTcpPort();
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-nginx-'));
  const file = (name) => join(folder, name);
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=meet.example',
    '-keyout', file('key.pem'), '-out', file('certificate.pem'),
  ], { stdio: 'ignore' });
  const page = readFileSync(new URL('../../docs/DEPLOY.md', import.meta.url), 'utf8');
  const [, sample] = /```nginx\n([^`]+)```/.exec(page);
  const here = [
    ['listen 443 ssl', `listen 127.0.0.1:${port} ssl`],
    ['/etc/ssl/meet.example.pem', file('certificate.pem')],
    ['/etc/ssl/meet.example.key', file('key.pem')],
    ['http://127.0.0.1:4443', server.base],
  ];
  for (const [documented] of here) assert.ok(sample.includes(documented), `${documented} in ${sample}`);
  const settings = here.reduce((text, [documented, own]) => text.replaceAll(documented, own), sample);
  writeFileSync(file('nginx.conf'), `daemon off; pid ${file('pid')}; error_log stderr; events {} http { access_log off; ${settings} }`);
  const child = spawn('nginx', ['-p', folder, '-c', file('nginx.conf')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (log += text));
  const end = new Promise((resolve) => child.on('exit', resolve));
  t.after(async () => {
    child.kill();
    await end;
    rmSync(folder, { recursive: true });
  });
  const base = `https://127.0.0.1:${port}`;
  const answers = () => new Promise((resolve) => {
    get(`${base}/healthz`, { rejectUnauthorized: false }, (answer) => resolve(answer.resume().statusCode)).on('error', () => resolve(log));
  });
  await until('the proxy passes requests on', answers, (status) => status === 200);
  return base;
}

test('behind the documented proxy two pages see and hear each other', { skip: missing }, async (t) => {
  const base = await startNginx(t, await startWeirgate(t));
  const since = Date.now();
  const [ann, bob] = [await enterConsole(t, chromium, base, 'Ann'), await enterConsole(t, chromium, base, 'Bob')];
  assert.ok(await ann.evaluate(() => window.isSecureContext), 'a camera may be asked for');
  const waits = [await backAfter(ann, 'Ann', since), await backAfter(bob, 'Bob', since)];
  t.diagnostic(`seen and heard after ${waits} ms`);
});
