// What this page sends: camera and microphone, a test pattern that needs neither, or nothing.

const FRAMES_PER_SECOND = 24;
const WIDTH = 640;
const HEIGHT = 360;

import { draw } from './picture.js';

/** A camera is for secure pages only: https, or http on this machine. */
export const cameraAllowed = () => window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * A source has a stream, the kinds that it can send, and stop(). release(kind) gives the device back while nothing of
 * the kind is sent; acquire(kind) gives the track to send from then on.
 */
function source(stream, stop) {
  const trackOf = (kind) => stream.getTracks().find((track) => track.kind === kind);
  const kinds = ['audio', 'video'].filter(trackOf);
  return { stream, kinds, stop, release: () => {}, acquire: async (kind) => trackOf(kind) };
}

export async function camera() {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video }).catch(async (error) => {
    if (error.name !== 'NotFoundError') throw error;
    // One of the two is missing on this machine: the other is better than nothing.
    return navigator.mediaDevices
      .getUserMedia({ video })
      .catch(() => navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => Promise.reject(error)));
  });
  let stopped = false;
  const stop = () => {
    stopped = true;
    stream.getTracks().forEach((track) => track.stop());
  };
  const made = source(stream, stop);
  // A camera that is off shows no light. The microphone is kept: it would ask again, and has no light.
  const release = (kind) => {
    if (kind !== 'video') return;
    for (const track of stream.getVideoTracks()) {
      track.stop();
      stream.removeTrack(track);
    }
  };
  const acquire = async (kind) => {
    const [known] = stream.getTracks().filter((track) => track.kind === kind);
    if (known) return known;
    const [track] = (await navigator.mediaDevices.getUserMedia({ video })).getVideoTracks();
    if (stopped) track.stop();
    stream.addTrack(track);
    return track;
  };
  return { ...made, release, acquire };
}

/** Sends nothing. */
export const nothing = () => source(new MediaStream(), () => {});

export function pattern(name) {
  const picture = movingPicture(name);
  const sound = softTone(name);
  const stop = () => {
    picture.stop();
    sound.stop();
  };
  return { ...source(new MediaStream([picture.track, sound.track]), stop), isPattern: true };
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
