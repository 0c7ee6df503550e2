// Firefox beside Chromium: another implementation of WebRTC on either end. It reaches a server on this machine by the
// machine's own address only, never by 127.0.0.1.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allRun, decodes, runsSmoothly, until } from './support/check.js';
import { startChromium } from './support/chromium.js';
import { startFirefox } from './support/firefox.js';
import { startWeirgate } from './support/weirgate.js';

const chromium = await startChromium({ flags: ['--autoplay-policy=no-user-gesture-required'] });
const firefox = await startFirefox();
const EVERYWHERE = { ip: '0.0.0.0' };

/** The sum over the shards of a metric. */
async function metric(server, name) {
  const lines = (await server.metrics()).filter((line) => line.startsWith(`weirgate_${name}{`));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

test('Firefox and Chromium: two ways', async (t) => {
  const server = await startWeirgate(t, EVERYWHERE);
  const ann = await firefox.join(t, server, 'ann', 'two-way');
  const bob = await chromium.join(t, server, 'bob', 'two-way');
  await Promise.all([ann.publish(), bob.publish()]);
  const [annHas, bobHas] = await Promise.all([ann.consumeAll(), bob.consumeAll()]);
  assert.deepEqual([annHas.length, bobHas.length], [2, 2]);
  await Promise.all([allRun(t, ann, annHas), allRun(t, bob, bobHas)]);
});

test('runs that were padded to one length decode without loss in both', async (t) => {
  const server = await startWeirgate(t, EVERYWHERE);
  const ann = await chromium.join(t, server, 'ann', 'padded');
  await ann.publish({ kinds: ['video'], source: 'noise', codec: 'video/VP8', width: 640, height: 480, maxBitrate: 1_500_000 });
  const receivers = [];
  for (const [name, browser] of [['fox', firefox], ['bob', chromium]]) {
    const peer = await browser.join(t, server, name, 'padded');
    receivers.push([peer, await peer.consume()]);
  }
  for (const [peer, video] of receivers) await decodes(peer, video, 30);
  const names = ['padding_bytes_total', 'sent_packets_in_runs_total', 'sent_packets_total'];
  const figures = () => Promise.all(names.map((name) => metric(server, name)));
  const before = await figures();
  const start = await Promise.all(receivers.map(([peer, { id }]) => peer.received(id)));
  for (const [peer, video] of receivers) await decodes(peer, video, 30 + 150);
  const [padding, inRuns, all] = (await figures()).map((figure, place) => figure - before[place]);
  t.diagnostic(`${padding} bytes of padding; ${inRuns} of ${all} packets in runs`);
  assert.ok(padding > 0 && inRuns > all / 2, `${padding} bytes of padding, ${inRuns} of ${all} packets in runs`);
  for (const [place, [peer, { id }]] of receivers.entries()) {
    const after = await peer.received(id);
    const grown = (name) => after[name] - start[place][name];
    t.diagnostic(`${peer.user}: ${grown('packetsReceived')} packets, ${grown('packetsLost')} lost, ${grown('framesDecoded')} frames, ${grown('framesDropped')} dropped, ${grown('nackCount')} NACKs`);
    assert.equal(grown('packetsLost'), 0, peer.user);
  }
});

/** What Chromium sends, and what of it Firefox is shown: it names no dependency descriptor, so of AV1 the lowest layer. */
const KINDS = [['VP9', 'L1T1', 640], ['AV1', 'L1T1', 640], ['VP9', 'L2T3_KEY', 640], ['AV1', 'L2T2_KEY', 320]];

for (const [codec, scalabilityMode, width] of KINDS) {
  test(`${codec} ${scalabilityMode} of Chromium in Firefox`, async (t) => {
    const server = await startWeirgate(t, EVERYWHERE);
    const ann = await chromium.join(t, server, 'ann', 'codec');
    const encodings = [{ maxBitrate: 800_000, scalabilityMode }];
    await ann.publish({ kinds: ['video'], codec: `video/${codec}`, width: 640, height: 480, encodings });
    const bob = await firefox.join(t, server, 'bob', 'codec');
    const video = await bob.consume();
    await until(`bob sees ${width}`, () => bob.received(video.id), (stats) => stats?.frameWidth === width);
    t.diagnostic(JSON.stringify(await runsSmoothly(bob, video)));
  });
}

for (const [name, sender, receiver] of [['Firefox to Chromium', firefox, chromium], ['Chromium to Firefox', chromium, firefox]]) {
  test(`simulcast, ${name}: down and up again when asked`, async (t) => {
    const server = await startWeirgate(t, EVERYWHERE);
    const ann = await sender.join(t, server, 'ann', 'layers');
    const encodings = [
      { rid: 'r0', scaleResolutionDownBy: 2, maxBitrate: 150_000 },
      { rid: 'r1', scaleResolutionDownBy: 1, maxBitrate: 700_000 },
    ];
    await ann.publish({ kinds: ['video'], codec: 'video/VP8', width: 640, height: 480, encodings });
    const bob = await receiver.join(t, server, 'bob', 'layers');
    const video = await bob.consume();
    const wide = (width) =>
      until(`bob sees ${width}`, () => bob.received(video.id), (stats) => stats?.frameWidth === width);
    await wide(640);
    for (const [spatialLayer, width] of [[0, 320], [1, 640]]) {
      await bob.ask('set-preferred-layers', { consumerId: video.id, spatialLayer });
      const [stats, ms] = await wide(width);
      t.diagnostic(`${width} wide after ${ms} ms, ${stats.packetsLost} packets lost, ${stats.freezeCount} freezes`);
    }
    const { packetsLost } = await bob.received(video.id);
    assert.equal(packetsLost, 0);
  });
}
