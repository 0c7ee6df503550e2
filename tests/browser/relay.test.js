// A client whose network lets no UDP through to the server: it comes by a TURN server over TCP, Debian's coturn with the
// configuration of docs/DEPLOY.md. By what the pages on both sides decode, and by the candidates that the browser chose.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { enterConsole } from './support/console.js';
import { makeNetwork } from './support/network.js';
import { backAfter } from './support/received.js';
import { freeTcpPort, startWeirgate } from './support/weirgate.js';

const network = makeNetwork();
const coturn = spawnSync('turnserver', ['--version']).error ? 'coturn is not installed' : undefined;
const CLICKLESS = { flags: ['--autoplay-policy=no-user-gesture-required'] };
const chromium = await startChromium(CLICKLESS);
const inside = network.why ? null : await startChromium({ ...CLICKLESS, network });

/** The TURN server of docs/DEPLOY.md, at this address and another port. Ends with the test. */
async function startCoturn(t, secret) {
  const port = await freeTcpPort();
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-coturn-'));
  const page = readFileSync(new URL('../../docs/DEPLOY.md', import.meta.url), 'utf8');
  const [, sample] = /```ini turnserver.conf\n([^`]+)```/.exec(page);
  const settings = sample
    .replace('static-auth-secret=THE_SECRET', `static-auth-secret=${secret}`)
    .replace('listening-port=3478', `listening-port=${port}`)
    .replaceAll('203.0.113.7', network.server);
  assert.ok(settings.includes(secret) && settings.includes(`=${port}`) && settings.includes(network.server), sample);
  // What the machine around the test asks for.
  const here = `listening-ip=${network.server}\nrelay-ip=${network.server}\npidfile=${folder}/pid\nuserdb=${folder}/db\nlog-file=stdout\n`;
  writeFileSync(join(folder, 'turnserver.conf'), settings + here);
  const child = spawn('turnserver', ['-c', join(folder, 'turnserver.conf')], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (log += text));
  const end = new Promise((resolve) => child.on('exit', resolve));
  t.after(async () => {
    child.kill();
    await end;
    rmSync(folder, { recursive: true });
  });
  const answers = () => new Promise((resolve) => {
    const socket = createConnection(port, network.server, () => resolve(true)).on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });
  await until('coturn listens', answers, Boolean);
  return { port, folder, log: () => log };
}

const decoded = (page) => page.evaluate(() => window.grown.length);

test('who may not send UDP to the server comes by TURN over TCP', { skip: network.why ?? coturn }, async (t) => {
  const secret = 'a secret of this test';
  const { port, folder, log } = await startCoturn(t, secret);
  const file = join(folder, 'secret');
  writeFileSync(file, `${secret}\n`);
  const turn = ['--ice-server', `turn:${network.server}:${port}?transport=tcp`, '--ice-server-secret', file];

  await t.test('without a TURN server there is no way', async (t) => {
    const server = await startWeirgate(t, { ip: network.server });
    network.forbidUdp(server.rtcPort);
    const ann = await enterConsole(t, chromium, server.base, 'Ann');
    const bob = await enterConsole(t, inside, server.base, 'Bob');
    await sleep(5_000);
    assert.deepEqual([await decoded(ann), await decoded(bob)], [0, 0]);
  });

  await t.test('with one both see and hear', async (t) => {
    const server = await startWeirgate(t, { ip: network.server, flags: turn });
    network.forbidUdp(server.rtcPort);
    const since = Date.now();
    const ann = await enterConsole(t, chromium, server.base, 'Ann');
    const bob = await enterConsole(t, inside, server.base, 'Bob');
    const waits = [await backAfter(ann, 'Ann', since, 20_000), await backAfter(bob, 'Bob', since, 20_000)];
    const pairs = await bob.evaluate(async () => {
      const chosen = [];
      for (const connection of window.connections) {
        const stats = await connection.getStats();
        for (const { type, selectedCandidatePairId: id } of stats.values()) {
          if (type !== 'transport' || !id) continue;
          const { candidateType, relayProtocol } = stats.get(stats.get(id).localCandidateId);
          chosen.push([candidateType, relayProtocol]);
        }
      }
      return chosen;
    });
    t.diagnostic(`seen and heard after ${waits} ms, by ${JSON.stringify(pairs)}`);
    assert.deepEqual(pairs, [['relay', 'tcp'], ['relay', 'tcp']]);
    assert.ok(!server.log().includes(secret) && !log().includes('ERROR'), log());
  });
});
