// A detour on the way to the server's pages and WebSockets, whose connections a test can end.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Before the TCP port `to`; ends with the test `t`. */
export async function startDetour(t, to) {
  const open = new Set();
  const server = createServer((near) => {
    const far = connect(to, '127.0.0.1');
    for (const [one, other] of [[near, far], [far, near]]) {
      open.add(one);
      one.pipe(other);
      one.on('error', () => {});
      one.on('close', () => {
        open.delete(one);
        other.destroy();
      });
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => open.forEach((socket) => socket.destroy());
  t.after(() => {
    cut();
    server.close();
  });
  return {
    port: server.address().port,
    /** Ends what is open, as a proxy does that is started again. */
    cut,
    /** The same by RST, as a NAT or a firewall does. */
    reset: () => open.forEach((socket) => socket.resetAndDestroy()),
    /** Nothing passes any more on what is open, and neither end is told. */
    hush: () => open.forEach((socket) => socket.unpipe().pause()),
  };
}
