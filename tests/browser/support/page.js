// The page that carries the test client, and the test's hold on it in whichever browser it is open.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export async function serveTestPage() {
  const entry = fileURLToPath(new URL('../page/client.js', import.meta.url));
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, format: 'esm', write: false });
  const server = createServer((request, response) => {
    const script = request.url === '/client.js';
    response.setHeader('content-type', script ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(script ? outputFiles[0].text : '<!doctype html><title>test</title><script type=module src=/client.js></script>');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/** Joins in a page that was opened at `serveTestPage`'s address. */
export async function joinIn(page, server, user, channel, options) {
  await page.waitForFunction(() => window.Client);
  const url = `${server.socket}?${new URLSearchParams({ auth: user, channelId: channel })}`;
  await page.evaluate(async ([address, how]) => {
    window.client = await window.Client.join(address, how);
  }, [url, options]);
  return new Peer(page, user);
}

/** The test's hold on a page's client: every method runs there. */
class Peer {
  constructor(page, user) {
    this.page = page;
    this.user = user;
  }

  call(method, ...given) {
    return this.page.evaluate(([name, parameters]) => window.client[name](...parameters), [method, given]);
  }

  publish(options) {
    return this.call('publish', options);
  }

  /** {id, producerId, kind}, or {code} when the server refuses. */
  consume(options) {
    return this.call('consume', options);
  }

  /** All there is to consume, as the five messages tell it: until nothing is left. */
  async consumeAll() {
    const consumers = [];
    for (;;) {
      const consumer = await this.consume();
      if (consumer.code === 'no-producer') return consumers;
      if (consumer.code) throw new Error(`${this.user}: ${consumer.code}: ${consumer.message}`);
      consumers.push(consumer);
    }
  }

  /** A request beyond the five messages; gives back its data. */
  ask(type, data) {
    return this.call('ask', type, data);
  }

  /** What the server has told by itself, of one type. */
  async notified(wanted) {
    const all = await this.page.evaluate(() => window.client.notifications);
    return all.filter(({ type }) => type === wanted).map(({ data }) => data);
  }

  received(id) {
    return this.call('received', id);
  }

  sent(kind) {
    return this.call('sent', kind);
  }

  leave() {
    return this.page.close();
  }
}
