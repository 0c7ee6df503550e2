// One Firefox for a test file, driven over WebDriver BiDi, and pages in it that carry the test client.

import { execFileSync } from 'node:child_process';
import { after } from 'node:test';
import puppeteer from 'puppeteer-core';
import { joinIn, serveTestPage } from './page.js';

const PREFERENCES = {
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  'media.peerconnection.ice.loopback': true,
  'media.autoplay.default': 0,
  'media.autoplay.blocking_policy': 0,
};

function executable() {
  if (process.env.FIREFOX) return process.env.FIREFOX;
  for (const name of ['firefox-esr', 'firefox']) {
    try {
      return execFileSync('which', [name], { encoding: 'utf8' }).trim();
    } catch {
      // The next name.
    }
  }
  throw new Error('no Firefox found: install it (apt-get install firefox-esr), or name it in FIREFOX');
}

/** Call once at the top of a test file. `options`: of puppeteer's launch. */
export async function startFirefox(options = {}) {
  const pages = await serveTestPage();
  const browser = await puppeteer.launch({
    browser: 'firefox', executablePath: executable(), headless: true, extraPrefsFirefox: PREFERENCES, ...options,
  });
  after(async () => {
    await browser.close();
    pages.close();
  });

  async function open(t, url) {
    const page = await browser.newPage();
    t.after(() => page.close());
    page.on('pageerror', (error) => t.diagnostic(`error in a page: ${error.stack}`));
    page.on('console', (message) => {
      if (message.type() === 'error') t.diagnostic(`console of a page: ${message.text()}`);
    });
    await page.goto(url);
    return page;
  }

  return {
    version: await browser.version(),
    open,
    /** A page with the strict five-message client, joined. */
    async join(t, server, user, channel, options) {
      const page = await open(t, `http://127.0.0.1:${pages.address().port}/`);
      return joinIn(page, server, user, channel, options);
    },
  };
}
