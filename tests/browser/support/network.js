// A network namespace with one cable to the rest of the machine, which a test can pull. Needs root, ip and network
// namespaces; says why where one is missing.

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';

const ip = (...given) => execFileSync('ip', given, { stdio: ['ignore', 'pipe', 'pipe'] });

/** Call once at the top of a test file. Gives { why } where it cannot be made. */
export function makeNetwork() {
  const name = `weirgate${process.pid}`;
  // Of the block for benchmarks of networks (RFC 2544): nobody's own.
  const [server, outside, inside] = [1, 2, 3].map((last) => `198.18.${process.pid % 256}.${last}`);
  const [end, other] = [`wg${process.pid}a`, `wg${process.pid}b`];
  const within = (...given) => ip('-n', name, ...given);
  try {
    ip('netns', 'add', name);
  } catch (error) {
    return { why: `no network namespace can be made: ${error.stderr ?? error.message}` };
  }
  const folder = mkdtempSync(join(tmpdir(), 'weirgate-network-'));
  // Not that of the cable's end, which comes and goes with the cable.
  ip('address', 'add', `${server}/32`, 'dev', 'lo');
  after(() => {
    ip('address', 'del', `${server}/32`, 'dev', 'lo');
    ip('netns', 'del', name);
    rmSync(folder, { recursive: true });
  });
  ip('link', 'add', end, 'type', 'veth', 'peer', 'name', other, 'netns', name);
  ip('address', 'add', `${outside}/24`, 'dev', end);
  ip('link', 'set', end, 'up');
  within('address', 'add', `${inside}/24`, 'dev', other);
  within('link', 'set', 'lo', 'up');
  const plug = () => {
    within('link', 'set', other, 'up');
    within('route', 'replace', 'default', 'via', outside);
  };
  plug();

  return {
    /** An address of this side for a server, which those inside reach through the cable. */
    server,
    plug,
    /** What those inside send to this UDP port of the server does not leave; the last one counts. */
    forbidUdp: (port) => {
      const rule = ['priority', '10', 'to', `${server}/32`, 'ipproto', 'udp'];
      try {
        within('rule', 'del', 'priority', '10');
      } catch {
        // The first one.
      }
      within('rule', 'add', ...rule, 'dport', `${port}`, 'prohibit');
    },
    unplug: () => within('link', 'set', other, 'down'),
    /** The path of a script that runs `program` inside. */
    script: (program) => {
      const path = join(folder, 'inside');
      writeFileSync(path, `#!/bin/sh\nexec ip netns exec ${name} ${program} "$@"\n`);
      chmodSync(path, 0o755);
      return path;
    },
  };
}
