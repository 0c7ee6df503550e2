// What can be measured: a weirgate with flags, the mediasoup server of ./server, and the floor bench. Each starts its
// process, waits until it serves, and ends it by its own id. Called by run.mjs; knows no table and no goal.

import { execFile, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { access, constants, readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const ROOT = here('../..');
const WEIRGATE = process.env.WEIRGATE_BIN ?? here('../../target/release/weirgate');
const STARTS_WITHIN_MS = 20_000;

async function freePort(socket, bind) {
  await once(bind(socket), 'listening');
  const { port } = socket.address();
  socket.close();
  return port;
}
const freeTcpPort = () => freePort(createServer(), (server) => server.listen(0, '127.0.0.1'));
const freeUdpPort = () => freePort(createSocket('udp4'), (socket) => socket.bind(0, '127.0.0.1'));

/** A child process that is told to end, and waited for, by `stop`; all it said is in `said()`. */
function start(command, args, options = {}) {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (some) => (text += some));
  const gone = { how: null };
  const end = new Promise((resolve) => {
    child.on('error', (error) => resolve(`it could not be started: ${error.message}`));
    child.on('exit', (code, signal) => resolve(`it ended with ${signal ?? code}`));
  }).then((how) => (gone.how = how));
  const stop = () => {
    if (!gone.how) child.kill('SIGTERM');
    return end;
  };
  return { child, gone, end, stop, said: () => text };
}

/** Waits until `ready` gives something, while the process lives. */
async function serving(name, process, ready) {
  const deadline = Date.now() + STARTS_WITHIN_MS;
  for (;;) {
    const found = !process.gone.how && (await ready());
    if (found) return found;
    if (process.gone.how || Date.now() > deadline) {
      await process.stop();
      throw new Error(`${name} does not serve: ${process.gone.how}\n${process.said()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

/** Starts a server, sends it the load, ends it. `serve` gives { url, pid, more }; `more` reads what else is told. */
const target = (name, what, serve) => ({
  name,
  what,
  async measure(load, options) {
    const server = await serve();
    try {
      return { ...(await generate(server, load, options)), ...(await server.more()) };
    } finally {
      await server.stop();
    }
  },
});

/**
 * All of the process runs on `cpus` (as taskset and --cores take them). `words` are flags, before them another binary
 * where it is not the tree's release build.
 */
export function weirgate(name, words, cpus) {
  const [binary, given] = words[0] && !words[0].startsWith('-') ? [words[0], words.slice(1)] : [WEIRGATE, words];
  const flags = given.includes('--cores') ? given : ['--cores', cpus, ...given];
  const where = flags[flags.indexOf('--cores') + 1];
  return target(name, [binary.replace(ROOT, ''), ...flags].join(' '), async () => {
    const [port, admin, media] = [await freeTcpPort(), await freeTcpPort(), await freeUdpPort()];
    const at = (port) => `127.0.0.1:${port}`;
    const listen = ['--listen', at(port), '--admin-listen', at(admin), '--rtc-listen', at(media), '--log', 'warn'];
    const server = start('taskset', ['-c', where, binary, ...listen, ...flags]);
    const base = `http://${at(port)}`;
    await serving(name, server, () => fetch(`${base}/healthz`).then((answer) => answer.ok, () => false));
    const more = async () => ({ sentByShard: await sentByShard(`http://${at(admin)}`) });
    return { url: `ws://${at(port)}/socket`, pid: server.child.pid, more, stop: server.stop };
  });
}

/** Datagrams that each shard has sent. */
async function sentByShard(admin) {
  const metrics = await (await fetch(`${admin}/metrics`)).text();
  return [...metrics.matchAll(/^weirgate_sent_packets_total\{shard="\d+"\} (\d+)$/gm)].map(([, count]) => Number(count));
}

const SERVER = here('server/server.mjs');
const WORKER =
  process.env.MEDIASOUP_WORKER_BIN ?? here('server/node_modules/mediasoup/worker/out/Release/mediasoup-worker');

/** What mediasoup lacks to run here; null when nothing. */
export async function mediasoupLacks() {
  const is = (path, mode) => access(path, mode).then(() => true, () => false);
  if (!(await is(here('server/node_modules/mediasoup')))) return 'its packages: npm ci --prefix benches/compare/server';
  if (await is(WORKER, constants.X_OK)) return null;
  return `its worker (${WORKER}): see benches/compare/README.md`;
}

/** The worker and node, on `cpus` as all of weirgate is. The CPU time that counts is the worker's. */
export const mediasoup = (name, cpus) =>
  target(name, 'benches/compare/server, one worker', async () => {
    const env = { ...process.env, MEDIASOUP_WORKER_BIN: WORKER };
    const server = start('taskset', ['-c', cpus, process.execPath, SERVER], { env });
    const told = () => /^\{.*\}$/m.exec(server.said());
    const { url, worker, node, versions } = JSON.parse((await serving(name, server, told))[0]);
    const more = async () => ({ versions, nodeCpuMs: await cpuMillis(node) });
    return { url, pid: worker, more, stop: server.stop };
  });

/** CPU time of all living threads of a process. */
async function cpuMillis(pid) {
  const threads = await readdir(`/proc/${pid}/task`);
  const texts = await Promise.all(threads.map((id) => readFile(`/proc/${pid}/task/${id}/schedstat`, 'utf8')));
  return texts.reduce((sum, text) => sum + Number(text.split(' ')[0]), 0) / 1e6;
}

/** Figures of recorded.json. */
export async function recorded(name) {
  const { server, machine, loads } = JSON.parse(await readFile(here('recorded.json'), 'utf8'));
  return { name, recorded: true, what: `not measured in this run: ${server}; ${machine}`, measure: (load) => loads[load] };
}

const run = promisify(execFile);

/** What a program of this tree prints, when it ends with one of `codes`. */
async function jsonOf(command, args, codes = [0]) {
  const ended = await run(command, args, { cwd: ROOT }).catch((error) => error);
  if (ended instanceof Error && !codes.includes(ended.code)) throw ended;
  return JSON.parse(ended.stdout);
}

/**
 * What one load costs a server: CPU time in ns a delivered packet, delays in µs, loss and cpus as shares of 1. Exit code
 * 3 is a report too: packets were lost, and the figures say how many.
 */
async function generate({ url, pid }, load, { seconds, warmup, 'load-cpu': cpu }) {
  const time = ['--warmup', String(warmup), '--duration', String(seconds)];
  const args = ['load', '--url', url, '--preset', load, '--pid', String(pid), '--cpu', cpu, ...time, '--json', '-'];
  const { measured, setup } = await jsonOf(WEIRGATE, args, [0, 3]);
  if (!measured) throw new Error(`nothing was measured: ${setup.first_failure}`);
  return {
    cpuNs: measured.server_cpu_ns_per_packet,
    p50: measured.delay_us.p50,
    p99: measured.delay_us.p99,
    loss: measured.loss_percent / 100,
    packetsPerSecond: measured.delivered_packets_per_second,
    serverCpu: measured.server_cpu_share,
    generatorCpu: measured.generator_cpu_share,
    wrongPackets: Object.values(measured.wrong_packets).reduce((sum, count) => sum + count, 0),
  };
}

/** The floor bench; it pins its own two threads to cpus 0 and 1. */
export const floor = (name) => ({
  name,
  what: 'cargo bench --bench floor',
  async measure(load, { seconds }) {
    const args = ['--load', load, '--seconds', String(seconds), '--runs', '1', '--json'];
    const report = await jsonOf('cargo', ['bench', '--quiet', '--bench', 'floor', '--', ...args]);
    return { cpuNs: report.cpuNanosPerPacket, p50: report.delayMicrosP50, p99: report.delayMicrosP99, loss: report.loss };
  },
});
