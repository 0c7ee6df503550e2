// A narrow and lossy way to the server: a UDP relay that a page's candidates are pointed to. Each page's address gets a
// socket of its own towards the server, so that the server sees a client like any other.

import { createSocket } from 'node:dgram';
import { once } from 'node:events';

/** What waits longer than this for its turn is dropped, as a router's queue does it. */
const QUEUE_MS = 250;

/** One direction. `kbps`: none when undefined; `loss`: share of 1. */
class Way {
  kbps = undefined;
  loss = 0;
  passed = 0;
  dropped = 0;
  #freeAt = 0;

  send(bytes, deliver) {
    if (Math.random() < this.loss) {
      this.dropped++;
      return;
    }
    if (this.kbps === undefined) {
      this.passed++;
      deliver();
      return;
    }
    const now = performance.now();
    const leaves = Math.max(now, this.#freeAt) + (8 * bytes) / this.kbps;
    if (leaves - now > QUEUE_MS) {
      this.dropped++;
      return;
    }
    this.#freeAt = leaves;
    this.passed++;
    setTimeout(deliver, leaves - now);
  }
}

/** Before the UDP port `to`; ends with the test `t`. `down` is the way to the pages. */
export async function startBottleneck(t, to) {
  const front = createSocket('udp4').bind(0, '127.0.0.1');
  await once(front, 'listening');
  const [up, down] = [new Way(), new Way()];
  const clients = new Map();
  let ended = false;

  front.on('message', (datagram, { address, port }) => {
    const name = `${address}:${port}`;
    let socket = clients.get(name);
    if (!socket) {
      socket = createSocket('udp4').bind(0, '127.0.0.1');
      socket.on('message', (answer) => {
        down.send(answer.length, () => ended || front.send(answer, port, address));
      });
      clients.set(name, socket);
    }
    up.send(datagram.length, () => ended || socket.send(datagram, to, '127.0.0.1'));
  });
  t.after(() => {
    ended = true;
    for (const socket of [front, ...clients.values()]) socket.close();
  });
  /** As a router that has forgotten whose port is whose: the server sees every client at another one. */
  const rebind = () => {
    for (const socket of clients.values()) socket.close();
    clients.clear();
  };
  return { port: front.address().port, up, down, rebind };
}
