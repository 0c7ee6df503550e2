// What went wrong, in words for people, with what to do about it.

const CAMERA = {
  NotAllowedError: 'The browser was not allowed to use the camera and microphone. Allow it beside the address bar, or send the test pattern.',
  NotFoundError: 'This machine has no camera and no microphone. Send the test pattern instead.',
  NotReadableError: 'Another program uses the camera or microphone. Close it there, or send the test pattern.',
  OverconstrainedError: 'The camera offers no picture that fits. Send the test pattern instead.',
};

export const INSECURE =
  'Browsers give a camera only to https pages and to http://localhost. Over plain http from another machine ' +
  'the test pattern works.';

const CODES = {
  unauthorized: 'You are not let in',
  expired: 'Your time here is over',
  forbidden: 'You may not do this',
  full: 'The channel is full',
  locked: 'You are not let in',
  banned: 'You are not let in',
  removed: 'You are out',
  limit: 'A limit of the server is reached',
  'rate-limited': 'Too many requests in a short time',
  unavailable: 'The server cannot do this now',
  unsupported: 'The server and this browser do not fit together',
};

/** Why a tile stands still: short, for whoever looks at it. */
const VERDICTS = {
  flowing: 'live',
  'paused-by-client': 'paused here',
  'producer-paused': 'switched off by the sender',
  'transport-down': 'no connection to you',
  'no-packets-from-producer': 'nothing comes from the sender',
  'no-bandwidth': 'your connection is too slow',
  'waiting-keyframe': 'waits for a full picture',
  'not-acknowledged': 'nothing arrives here',
};

export const verdictInWords = ({ state, sinceMs }) => `${VERDICTS[state] ?? state} · ${howLong(sinceMs / 1000)}`;

function howLong(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

/** Whether who is refused like this would be so the next time. */
export const isOver = ({ name, code }) =>
  name === 'Refused' && ['unauthorized', 'expired', 'forbidden', 'locked', 'banned', 'removed'].includes(code);

export const isCameraError = (error) => error instanceof DOMException && error.name in CAMERA;

export function inWords(error) {
  if (isCameraError(error)) return CAMERA[error.name];
  if (error.name === 'UnsupportedError') return 'This browser is not one that mediasoup-client knows, or its WebRTC is switched off.';
  if (error.name === 'Refused') return `${CODES[error.code] ?? 'The server refused'}: ${error.message}`;
  return error.message || String(error);
}
