// Starts the server under test on free ports, and ends it by its own process id.

import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { get } from 'node:https';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

export const BINARY = process.env.WEIRGATE_BIN ?? fileURLToPath(new URL('../../../target/debug/weirgate', import.meta.url));
const STARTS_WITHIN_MS = 30_000;

export async function freeTcpPort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function freeUdpPort() {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  await once(socket, 'close');
  return port;
}

/** True: it answers at this address, whoever signed its certificate. */
async function isHealthy(base) {
  if (base.startsWith('http:')) return (await fetch(`${base}/healthz`).catch(() => null))?.ok;
  return new Promise((resolve) => {
    const request = get(`${base}/healthz`, { rejectUnauthorized: false }, (answer) => {
      answer.resume();
      resolve(answer.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}

/** `ip` is where it listens, on `ports` [TCP, UDP] or any free ones. With the flag --tls or --tls-cert it speaks TLS there. Ends with the test `t`, and fails it when the server did not end cleanly. */
export async function startWeirgate(t, { ip = '127.0.0.1', ports, flags = [] } = {}) {
  const [port, rtcPort] = ports ?? [await freeTcpPort(), await freeUdpPort()];
  const listen = ['--listen', `${ip}:${port}`, '--admin-listen', '127.0.0.1:0', '--rtc-listen', `${ip}:${rtcPort}`];
  // A variable that looks like a setting and is none is warned of.
  const { WEIRGATE_BIN: _, ...env } = process.env;
  const child = spawn(BINARY, [...listen, ...flags], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      log += text;
    });
  }
  let ended = null;
  const end = new Promise((resolve) => {
    child.on('error', (error) => resolve({ error }));
    child.on('exit', (code, signal) => resolve({ code, signal }));
  }).then((how) => {
    ended = how;
    return how;
  });
  const host = ip === '0.0.0.0' ? '127.0.0.1' : ip;
  const secure = flags.some((flag) => ['--tls', '--tls-cert'].includes(flag)) ? 's' : '';
  const base = `http${secure}://${host}:${port}`;
  const server = {
    base,
    socket: `ws${secure}://${host}:${port}/socket`,
    rtcPort,
    log: () => log,
    /** The lines of /metrics, less those that are 0. */
    metrics: async () => {
      const [, admin] = /^ +admin +(\S+)$/m.exec(log);
      const lines = (await (await fetch(admin)).text()).split('\n');
      return lines.filter((line) => line && !line.startsWith('#') && !line.endsWith(' 0'));
    },
    /** As a crash would. */
    kill: async () => {
      child.kill('SIGKILL');
      await end;
    },
  };
  t.after(async () => {
    const failed = t.passed === false || t.error;
    const metrics = failed && !ended ? await server.metrics().catch((error) => [String(error)]) : [];
    const killed = ended?.signal === 'SIGKILL';
    if (!ended) child.kill('SIGTERM');
    const how = await end;
    if (failed) t.diagnostic(`the server said:\n${log}\n${metrics.join('\n')}`);
    if (!killed && how.code !== 0) throw new Error(`the server did not end cleanly: ${JSON.stringify(how)}\n${log}`);
    if (/panick/i.test(log)) throw new Error(`the server panicked:\n${log}`);
  });
  const deadline = Date.now() + STARTS_WITHIN_MS;
  for (;;) {
    if (ended) throw new Error(`${BINARY} did not start: ${ended.error ?? JSON.stringify(ended)}\n${log}`);
    if (await isHealthy(base)) return server;
    if (Date.now() > deadline) throw new Error(`${BINARY} does not answer on ${base}\n${log}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
