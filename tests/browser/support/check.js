// What every call must show, judged by the browser's own statistics. No absolute times but generous overall limits:
// the machine may be busy.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

const OVERALL_MS = 40_000;
const POLL_MS = 100;
const WINDOWS_MAX = 6;

/** Asks until `good(answer)`; gives back [answer, milliseconds]. */
export async function until(what, ask, good, within = OVERALL_MS) {
  const start = Date.now();
  for (;;) {
    const answer = await ask();
    if (good(answer)) return [answer, Date.now() - start];
    if (Date.now() - start > within) assert.fail(`${what}: not within ${within} ms; last seen: ${JSON.stringify(answer)}`);
    await sleep(POLL_MS);
  }
}

/** The first pictures of a consumer; gives back how long they took. */
export async function decodes(peer, { id }, frames = 3) {
  const what = `${peer.user} decodes ${frames} frames`;
  const [, ms] = await until(what, () => peer.received(id), (stats) => (stats?.framesDecoded ?? 0) >= frames);
  return ms;
}

/**
 * The call runs: after its start there is a stretch of `frames` frames without a freeze and with hardly a packet lost.
 * A browser that shares two cores with others may itself stall, so that the stretch may start anew a few times.
 */
export async function runsSmoothly(peer, consumer, frames = 45) {
  await decodes(peer, consumer);
  const seen = [];
  for (let window = 0; window < WINDOWS_MAX; window++) {
    const before = await peer.received(consumer.id);
    const what = `${peer.user} goes on decoding`;
    const grown = (stats) => stats.framesDecoded >= before.framesDecoded + frames;
    const [now, ms] = await until(what, () => peer.received(consumer.id), grown);
    const expected = now.packetsReceived - before.packetsReceived;
    const result = {
      framesPerSecond: Math.round((10_000 * (now.framesDecoded - before.framesDecoded)) / ms) / 10,
      freezes: now.freezeCount - before.freezeCount,
      lost: now.packetsLost - before.packetsLost,
      packets: expected,
      kbitPerSecond: Math.round((8 * (now.bytesReceived - before.bytesReceived)) / ms),
      codec: now.codec,
      size: `${now.frameWidth}x${now.frameHeight}`,
      freezesFromStart: now.freezeCount,
      lostFromStart: now.packetsLost,
    };
    seen.push(result);
    if (result.freezes === 0 && result.lost <= expected / 100) return { ...result, windows: seen.length };
  }
  assert.fail(`${peer.user} never saw ${frames} frames in a row without freeze or loss: ${JSON.stringify(seen)}`);
}

export async function isHeard(peer, { id }) {
  const heard = (stats) => (stats?.totalAudioEnergy ?? 0) > 0 && stats.packetsReceived > 25;
  const [stats] = await until(`${peer.user} hears something`, () => peer.received(id), heard);
  assert.ok(stats.packetsLost <= stats.packetsReceived / 50, `audio lost: ${JSON.stringify(stats)}`);
  return { energy: Number(stats.totalAudioEnergy.toFixed(4)), packets: stats.packetsReceived, lost: stats.packetsLost };
}

/** Checks each consumer by its kind. */
export async function allRun(t, peer, consumers) {
  for (const consumer of consumers) {
    const result = consumer.kind === 'video' ? await runsSmoothly(peer, consumer) : await isHeard(peer, consumer);
    t.diagnostic(`${peer.user} ${consumer.kind}: ${JSON.stringify(result)}`);
  }
}
