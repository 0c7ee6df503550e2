// One Chromium for a test file, and pages in it that carry the test client.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--allow-loopback-in-peer-connection',
];

function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try {
      return execFileSync('which', [name], { encoding: 'utf8' }).trim();
    } catch {
      // The next name.
    }
  }
  throw new Error('no Chromium found: install it (apt-get install chromium), or name it in CHROMIUM');
}

async function serveTestPage() {
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

/** Call once at the top of a test file. */
export async function startChromium({ flags = [] } = {}) {
  const pages = await serveTestPage();
  const browser = await chromium.launch({ executablePath: executable(), args: [...FLAGS, ...flags] });
  after(async () => {
    await browser.close();
    pages.close();
  });

  async function open(t, url, options) {
    const context = await browser.newContext(options);
    t.after(() => context.close());
    const page = await context.newPage();
    page.on('pageerror', (error) => t.diagnostic(`error in a page: ${error.stack}`));
    page.on('console', (message) => {
      if (message.type() === 'error') t.diagnostic(`console of a page: ${message.text()}`);
    });
    await page.goto(url);
    return page;
  }

  return {
    version: browser.version(),
    open,
    /** A page with the strict five-message client, joined. */
    async join(t, server, user, channel, options) {
      const page = await open(t, `http://127.0.0.1:${pages.address().port}/`);
      await page.waitForFunction(() => window.Client);
      const url = `${server.socket}?${new URLSearchParams({ auth: user, channelId: channel })}`;
      await page.evaluate(async ([address, how]) => {
        window.client = await window.Client.join(address, how);
      }, [url, options]);
      return new Peer(page, user);
    },
  };
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
