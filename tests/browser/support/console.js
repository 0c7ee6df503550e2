// The console at an address that is not of a secure context, or is by a certificate that nobody vouches for.

import { noteReceived } from './received.js';

/** The page of one who joined the channel "river" with a pattern for a camera; `noteReceived` runs in it. */
export async function enterConsole(t, browser, base, name) {
  // Where the context is not secure mediasoup-client goes by the user agent, which must not be a headless one's.
  const userAgent = `Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${browser.version} Safari/537.36`;
  const parameters = new URLSearchParams({ name, channel: 'river', source: 'pattern' });
  const view = { before: noteReceived, userAgent, ignoreHTTPSErrors: true };
  const page = await browser.open(t, `${base}/?${parameters}`, view);
  await page.click('#join');
  await page.waitForSelector('#call:not([hidden])');
  return page;
}
