// What this page sends: camera and microphone, or a test pattern that needs neither.

const FRAMES_PER_SECOND = 24;
const WIDTH = 640;
const HEIGHT = 360;

import { draw } from './picture.js';

/** A camera is for secure pages only: https, or http on this machine. */
export const cameraAllowed = () => window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);

/** A source has a stream and stop(). */
export async function camera() {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video }).catch(async (error) => {
    if (error.name !== 'NotFoundError') throw error;
    // One of the two is missing on this machine: the other is better than nothing.
    return navigator.mediaDevices
      .getUserMedia({ video })
      .catch(() => navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => Promise.reject(error)));
  });
  return { stream, stop: () => stream.getTracks().forEach((track) => track.stop()) };
}

export function pattern(name) {
  const picture = movingPicture(name);
  const sound = softTone(name);
  const stop = () => {
    picture.stop();
    sound.stop();
  };
  return { stream: new MediaStream([picture.track, sound.track]), stop };
}

/** The clock is a worker's: a page's own timers and animation frames stand still while its tab is hidden. */
function movingPicture(name) {
  const worker = new Worker('/pattern-worker.js', { type: 'module' });
  const settings = { name, width: WIDTH, height: HEIGHT, framesPerSecond: FRAMES_PER_SECOND };
  let track;
  if ('MediaStreamTrackGenerator' in window) {
    track = new MediaStreamTrackGenerator({ kind: 'video' });
    worker.postMessage({ ...settings, writable: track.writable }, [track.writable]);
  } else {
    const canvas = document.createElement('canvas');
    canvas.width = WIDTH;
    canvas.height = HEIGHT;
    const context = canvas.getContext('2d');
    worker.onmessage = () => draw(context, WIDTH, HEIGHT, name, Date.now());
    worker.postMessage(settings);
    [track] = canvas.captureStream(FRAMES_PER_SECOND).getVideoTracks();
  }
  const stop = () => {
    worker.terminate();
    track.stop();
  };
  return { track, stop };
}

/** A quiet tone that swells once a second, at a pitch of the name's own, so that several can be told apart. */
function softTone(name) {
  const context = new AudioContext();
  const output = context.createMediaStreamDestination();
  const tone = context.createOscillator();
  const volume = context.createGain();
  const swell = context.createOscillator();
  const depth = context.createGain();
  tone.frequency.value = 220 * 2 ** ((letters(name) % 12) / 12);
  volume.gain.value = 0.03;
  swell.frequency.value = 1;
  depth.gain.value = 0.025;
  swell.connect(depth).connect(volume.gain);
  tone.connect(volume).connect(output);
  tone.start();
  swell.start();
  // Without a click on the page a browser keeps it silent; the first click anywhere starts it.
  const wake = () => context.resume();
  wake();
  document.addEventListener('pointerdown', wake);
  const [track] = output.stream.getAudioTracks();
  const stop = () => {
    document.removeEventListener('pointerdown', wake);
    track.stop();
    context.close();
  };
  return { track, stop };
}

const letters = (name) => [...name].reduce((sum, letter) => sum + letter.codePointAt(0), 0);
