// One WebSocket to the server: requests with a requestId and their replies, and the server's notifications. Knows
// nothing of media. docs/PROTOCOL.md describes the messages.

const REPLY_MAX_MS = 15_000;
const OPEN_MAX_MS = 15_000;
/** Who tries again does not wait longer for one attempt: the next is sooner than TCP's own. */
const OPEN_AGAIN_MAX_MS = 5_000;
const REACHED_WITHIN_MS = 2_000;
/** A server that has nothing to say is asked, and one that does not answer is silent. */
const TICK_MS = 1_000;
const TICKS_TO_ASK = 4;
const TICKS_TO_SILENCE = 7;
/** Close codes after an error that says why: who this is, and what it may. */
const TOLD_WHY = [4401, 4403];
/** What may be a subprotocol's name. */
const IS_TOKEN = /^[\w.-]+$/;

/** The server said no: `code` is for programs, the message for people. */
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.name = 'Refused';
    this.code = code;
  }
}

/** The socket ended, or could not be opened. */
export class Lost extends Error {
  constructor(message) {
    super(message);
    this.name = 'Lost';
  }
}

export class Signalling {
  #socket;
  #waiting = new Map();
  #lastId = 0;
  #ticking = setInterval(() => this.#tick(), TICK_MS);
  /** Ticks since something came. Not a time: while a page sleeps nothing is missed. */
  #ticks = 0;
  /** The last error that answers no request. */
  #told = null;
  /** Called with (type, data). */
  onNotification = () => {};
  /** Called when nothing comes any more though the socket is open. `silent` says how it is. */
  onSilent = () => {};
  /** Called once with a reason in words, unless close() was called here; and whether it is of no use to come again. */
  onLost = () => {};

  static async open(user, channel, again) {
    const url = new URL('/socket', location.href);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    // Whoever was sent here with a token comes in by it. It goes into no other address than this page's.
    const token = new URLSearchParams(location.search).get('auth');
    url.search = new URLSearchParams(token ? { channelId: channel } : { auth: user, channelId: channel });
    const protocols = token && ['weirgate', `weirgate.auth.${IS_TOKEN.test(token) ? token : ''}`];
    const socket = protocols ? new WebSocket(url, protocols) : new WebSocket(url);
    let late;
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = async () => reject(new Lost(await whyClosed()));
      late = setTimeout(() => {
        socket.onclose = null;
        socket.close();
        reject(new Lost(UNREACHABLE));
      }, again ? OPEN_AGAIN_MAX_MS : OPEN_MAX_MS);
    }).finally(() => clearTimeout(late));
    return new Signalling(socket);
  }

  constructor(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#received(JSON.parse(data));
    socket.onclose = ({ code, reason }) => {
      // Turned away, or put out: the error before it says why.
      const why = TOLD_WHY.includes(code) ? this.#told : null;
      const words = reason ? `The server closed the connection: ${reason}.` : 'The connection to the server was lost.';
      this.#fail(why ?? new Lost(words));
      this.onLost(why?.message ?? words, Boolean(why));
    };
  }

  get silent() {
    return this.#ticks >= TICKS_TO_SILENCE;
  }

  /** Now, not when it is time: the network has just changed. */
  ask() {
    if (this.#ticks < TICKS_TO_ASK) this.#ticks = TICKS_TO_ASK;
    this.request('ping').catch(() => {});
  }

  #tick() {
    this.#ticks++;
    if (this.#ticks === TICKS_TO_ASK) this.ask();
    if (this.#ticks === TICKS_TO_SILENCE) this.onSilent();
  }

  request(type, data) {
    if (this.#socket.readyState !== WebSocket.OPEN) {
      return Promise.reject(new Lost('The connection to the server was lost.'));
    }
    const requestId = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(requestId);
        reject(new Lost(`The server did not answer (${type}).`));
      }, REPLY_MAX_MS);
      this.#waiting.set(requestId, { resolve, reject, timer });
      this.#socket.send(JSON.stringify({ type, requestId, data }));
    });
  }

  close(why = 'You left the channel.') {
    this.#socket.onclose = null;
    this.#socket.close();
    this.#fail(new Lost(why));
  }

  #received({ type, requestId, data }) {
    this.#ticks = 0;
    if (requestId === undefined && type === 'error') {
      this.#told = new Refused(data.code, data.message);
      return;
    }
    if (requestId === undefined) {
      this.onNotification(type, data);
      return;
    }
    const waiting = this.#waiting.get(requestId);
    this.#waiting.delete(requestId);
    clearTimeout(waiting?.timer);
    if (type === 'error') waiting?.reject(new Refused(data.code, data.message));
    else waiting?.resolve(data);
  }

  #fail(error) {
    clearInterval(this.#ticking);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
  }
}

const UNREACHABLE = 'The server cannot be reached.';
export const SILENT = 'The server does not answer.';

const askHealth = () => fetch('/healthz', { cache: 'no-store', signal: AbortSignal.timeout(REACHED_WITHIN_MS) });

/** Whether the server answers at all, on whatever connection. */
export const isReachable = () => askHealth().then(() => true, () => false);

/** A browser hides why a WebSocket was refused, so the server is asked how it is. */
async function whyClosed() {
  try {
    const { status } = await (await askHealth()).json();
    if (status === 'stopping') return 'The server is shutting down.';
    return 'The server runs, but refused the connection: it may be full.';
  } catch {
    return UNREACHABLE;
  }
}
