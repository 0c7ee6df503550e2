// What a page has decoded, by whichever connection, and when: for tests in which connections come and go.

import { until } from './check.js';

/** Runs in a page before its own scripts. */
export function noteReceived() {
  const connections = (window.connections = []);
  /** [when, what has grown: 'picture' or 'sound'] since the page began. */
  window.grown = [];
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...given) {
      super(...given);
      connections.push(this);
    }
  };
  const seen = new Map();
  const look = async () => {
    for (const [place, connection] of connections.entries()) {
      if (connection.connectionState === 'closed') continue;
      for (const stat of (await connection.getStats()).values()) {
        if (stat.type !== 'inbound-rtp') continue;
        const video = stat.kind === 'video';
        // Concealed is what the browser made up.
        const now = video ? stat.framesDecoded : stat.totalSamplesReceived - stat.concealedSamples;
        const name = `${place} ${stat.id}`;
        if (now > (seen.get(name) ?? 0)) window.grown.push([Date.now(), video ? 'picture' : 'sound']);
        seen.set(name, now);
      }
    }
    setTimeout(look, 100);
  };
  look();
}

/** Milliseconds from `since` until the page had a picture and sound again, whichever came last. */
export async function backAfter(page, name, since, within) {
  const first = () => page.evaluate((from) => {
    const after = (wanted) => window.grown.find(([at, what]) => at > from && what === wanted)?.[0];
    return [after('picture'), after('sound')];
  }, since);
  const [times] = await until(`${name} sees and hears`, first, (all) => all.every(Boolean), within);
  return Math.max(...times) - since;
}

/** The longest time without a picture that ended after `since`, in milliseconds. */
export const longestDark = (page, since) =>
  page.evaluate((from) => {
    const pictures = window.grown.filter(([, what]) => what === 'picture').map(([at]) => at);
    return Math.max(...pictures.map((at, place) => (at > from ? at - (pictures[place - 1] ?? at) : 0)));
  }, since);
