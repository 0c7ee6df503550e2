// One Chromium for a test file, and pages in it that carry the test client.

import { execFileSync } from 'node:child_process';
import { after } from 'node:test';
import { chromium } from 'playwright-core';
import { joinIn, serveTestPage } from './page.js';

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

/** Call once at the top of a test file. `network`: where it lives, of support/network.js. */
export async function startChromium({ flags = [], network } = {}) {
  const pages = await serveTestPage();
  const program = executable();
  const executablePath = network ? network.script(program) : program;
  const browser = await chromium.launch({ executablePath, args: [...FLAGS, ...flags] });
  after(async () => {
    await browser.close();
    pages.close();
  });

  const testPage = `http://127.0.0.1:${pages.address().port}/`;

  /** `before`: a function that runs in the page before its own scripts. */
  async function open(t, url, { before, ...options } = {}) {
    const context = await browser.newContext(options);
    t.after(() => context.close());
    if (before) await context.addInitScript(before);
    // In a network of its own it cannot reach the page's server: it is fetched from here.
    if (network) await context.route(`${testPage}**`, async (route) => route.fulfill({ response: await route.fetch() }));
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
    async join(t, server, user, channel, { before, ...options } = {}) {
      const page = await open(t, testPage, { before });
      return joinIn(page, server, user, channel, options);
    },
  };
}
