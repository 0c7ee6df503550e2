// The test pattern's clock, and its painter where the browser lets a worker write into a track.

import { draw } from './picture.js';

self.onmessage = ({ data: { name, width, height, framesPerSecond, writable } }) => {
  const paint = writable ? painter(name, width, height, writable) : () => self.postMessage(null);
  setInterval(paint, 1000 / framesPerSecond);
};

function painter(name, width, height, writable) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const writer = writable.getWriter();
  let busy = false;
  return async () => {
    // A slow machine gets fewer frames, not a queue of old ones.
    if (busy) return;
    busy = true;
    draw(context, width, height, name, Date.now());
    const frame = new VideoFrame(canvas, { timestamp: performance.now() * 1000 });
    try {
      await writer.write(frame);
    } catch {
      self.close();
    } finally {
      busy = false;
    }
  };
}
