// Calls over two machines: two servers with nats-server between them, a page at each. By the frames that the pages decode.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { allRun, until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { BINARY, freeTcpPort, startWeirgate } from './support/weirgate.js';

const missing = spawnSync('nats-server', ['--version']).error ? 'nats-server is not installed' : undefined;
const chromium = missing ? null : await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });

/** An engine; ends with the test. */
async function startEngine(t) {
  const port = await freeTcpPort();
  const child = spawn('nats-server', ['-a', '127.0.0.1', '-p', String(port)], { stdio: 'ignore' });
  const end = new Promise((resolve) => child.on('exit', resolve));
  t.after(async () => {
    child.kill();
    await end;
  });
  const answers = () => new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });
  await until('the engine listens', answers, Boolean);
  return `nats://127.0.0.1:${port}`;
}

async function startCluster(t, names) {
  const engine = await startEngine(t);
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-cluster-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const key = join(folder, 'key');
  const made = spawnSync(BINARY, ['cluster-key'], { encoding: 'utf8' });
  assert.equal(made.status, 0, made.stderr);
  writeFileSync(key, made.stdout, { mode: 0o600 });
  const nodes = [];
  for (const name of names) {
    const flags = ['--cluster', engine, '--cluster-key', key, '--node-name', name];
    nodes.push(await startWeirgate(t, { flags }));
  }
  const alive = new RegExp(`weirgate_cluster_nodes\\{state="alive"\\} ${names.length}$`);
  for (const node of nodes) {
    await until('its start text', async () => node.log().includes('  stop  '), Boolean);
    await until('it sees the others', node.metrics, (lines) => lines.some((line) => alive.test(line)));
  }
  return nodes;
}

test('a page at each of two nodes: two ways, and who leaves is gone', { skip: missing }, async (t) => {
  const [here, there] = await startCluster(t, ['a', 'b']);
  const ann = await chromium.join(t, here, 'ann', 'bridge');
  const bob = await chromium.join(t, there, 'bob', 'bridge');
  await Promise.all([ann.publish(), bob.publish()]);
  // Those of others.
  const producers = async (peer) => (await peer.ask('get-producers')).producers.length;
  for (const peer of [ann, bob]) await until(`${peer.user} is told of all`, () => producers(peer), (count) => count === 2);
  const [annHas, bobHas] = await Promise.all([ann.consumeAll(), bob.consumeAll()]);
  assert.deepEqual([annHas.length, bobHas.length], [2, 2]);
  await Promise.all([allRun(t, ann, annHas), allRun(t, bob, bobHas)]);
  // A third one comes later, to the same node as Bob, and has both.
  const cid = await chromium.join(t, there, 'cid', 'bridge');
  const cidHas = await cid.consumeAll();
  assert.equal(cidHas.length, 4);
  await allRun(t, cid, cidHas);
  await ann.page.close();
  await until('Ann is gone', () => producers(bob), (count) => count === 0);
});
