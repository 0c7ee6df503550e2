// The conversation with the server: requests with a requestId and their replies, and the server's notifications. It
// outlives its WebSocket where the server lets its peer do so: a broken one is replaced, and nothing is said twice or
// lost. Knows nothing of media. docs/PROTOCOL.md describes the messages.

import { tokenGiven } from './bearer.js';
import { Gone, comeBack, waitBefore } from './comeback.js';

const REPLY_MAX_MS = 15_000;
const OPEN_MAX_MS = 15_000;
/** Who tries again does not wait longer for one attempt: the next is sooner than TCP's own. */
const OPEN_AGAIN_MAX_MS = 5_000;
const REACHED_WITHIN_MS = 2_000;
/** A server that has nothing to say is asked, and one that does not answer is silent. */
const TICK_MS = 1_000;
const TICKS_TO_ASK = 4;
const TICKS_TO_SILENCE = 7;
/** Where a broken socket can be replaced, the server is asked every tick, and two questions without an answer are a break. */
const TICKS_TO_BREAK = 3;
/** Without a close frame, or because too much waited for us: the peer is still there. */
const BREAKS = [1006, 1013];
/** Breaks that are over sooner are mentioned to nobody. */
const BREAK_TOLD_AFTER_MS = 1_000;
/** After that the peer is gone whatever the server's setting, or the server is. */
const GIVE_UP_AFTER_MS = 20_000;
/** Close codes after an error that says why: who this is, and what it may. */
const TOLD_WHY = [4401, 4403, 4409];
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
  /** How the next socket takes this one's peer up; null: not at all. */
  #token = null;
  /** Texts from the server and messages to it, counted from the one with the first token and the one that asked for it. */
  #received = 0;
  #sent = 0;
  #counting = false;
  /** The socket is broken, and another one is on its way. */
  #broken = false;
  #closed = false;
  /** The last error that answers no request. */
  #told = null;
  /** Called with (type, data). */
  onNotification = () => {};
  /** Called when nothing comes any more though the socket is open. `silent` says how it is. */
  onSilent = () => {};
  /** Called with whether the connection is broken; what is asked meanwhile is asked when it is back. */
  onBroken = () => {};
  /** Called once with the error, unless close() was called here. A refused one says that the server wants it so. */
  onLost = () => {};

  static async open(user, channel, again) {
    const url = new URL('/socket', location.href);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const token = tokenGiven();
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
    this.#use(socket);
  }

  #use(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = ({ code, reason }) => {
      if (this.#token && BREAKS.includes(code)) return this.#break();
      // Turned away, or put out: the error before it says why.
      const why = TOLD_WHY.includes(code) ? this.#told : null;
      this.#lose(reason ? `The server closed the connection: ${reason}.` : LOST, why);
    };
  }

  #lose(words, why = null) {
    if (this.#closed) return;
    const error = why ?? new Lost(words);
    this.#fail(error);
    this.onLost(error);
  }

  /** The old socket stays open until another one is: its close frame, should it arrive, would end the peer. */
  async #break() {
    if (this.#broken || this.#closed) return;
    this.#broken = true;
    const old = this.#socket;
    old.onclose = old.onmessage = null;
    const since = Date.now();
    let told = false;
    const telling = setTimeout(() => {
      told = true;
      this.onBroken(true);
    }, BREAK_TOLD_AFTER_MS);
    const url = new URL(old.url);
    url.search = 'resume';
    for (let attempt = 0; ; attempt++) {
      await new Promise((resolve) => setTimeout(resolve, waitBefore(attempt)));
      if (this.#closed) break;
      try {
        const [socket, { resume, received }] = await comeBack(url, this.#token, this.#received);
        if (this.#closed) {
          socket.close();
          break;
        }
        this.#token = resume;
        this.#use(socket);
        this.#broken = false;
        this.#ticks = 0;
        this.#sayAgain(received);
        if (told) this.onBroken(false);
        break;
      } catch (error) {
        if (!(error instanceof Gone) && Date.now() - since < GIVE_UP_AFTER_MS) continue;
        this.#lose(LOST);
        break;
      }
    }
    clearTimeout(telling);
    old.close();
  }

  /** What the server has not taken, in order; it has taken `taken` messages. */
  #sayAgain(taken) {
    const lost = [...this.#waiting.values()].filter(({ number }) => number > taken);
    this.#sent = taken;
    for (const waiting of lost) {
      waiting.number = ++this.#sent;
      this.#socket.send(waiting.text);
    }
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
    if (this.#token) {
      // The server is silent for who does not hear it, and so are we for the server.
      if (!this.#broken) this.request('ping', { received: this.#received }).catch(() => {});
      if (this.#ticks >= TICKS_TO_BREAK) this.#break();
    } else if (this.#ticks === TICKS_TO_ASK) {
      this.ask();
    }
    if (this.#ticks === TICKS_TO_SILENCE) this.onSilent();
  }

  request(type, data) {
    const open = this.#socket.readyState === WebSocket.OPEN && !this.#broken;
    if (this.#closed || (!open && !this.#token)) return Promise.reject(new Lost(LOST));
    const requestId = ++this.#lastId;
    const text = JSON.stringify({ type, requestId, data });
    this.#counting ||= data?.resume === true;
    if (this.#counting) this.#sent++;
    const number = this.#sent;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(requestId);
        reject(new Lost(`The server did not answer (${type}).`));
      }, REPLY_MAX_MS);
      this.#waiting.set(requestId, { resolve, reject, timer, text, number });
      // What is not sent now, or does not arrive, is sent when the connection is back.
      if (open) this.#socket.send(text);
    });
  }

  close(why = 'You left the channel.') {
    this.#socket.onclose = null;
    this.#socket.close();
    this.#fail(new Lost(why));
  }

  #take({ type, requestId, data, resume }) {
    this.#ticks = 0;
    if (requestId === undefined && type === 'error') {
      const lacks = data.code === 'unauthorized' && !this.#token && !tokenGiven();
      this.#told = new Refused(data.code, lacks ? NEEDS_TOKEN : data.message);
      return;
    }
    this.#token = resume ?? data?.resume ?? this.#token;
    if (this.#token) this.#received++;
    if (requestId === undefined) {
      this.onNotification(type, data);
      return;
    }
    const waiting = this.#waiting.get(requestId);
    this.#waiting.delete(requestId);
    clearTimeout(waiting?.timer);
    // Who has to wait at first asks for its token again: both sides count from there.
    if (type === 'error' && !this.#token) [this.#counting, this.#sent] = [false, 0];
    if (type === 'error') waiting?.reject(new Refused(data.code, data.message));
    else waiting?.resolve(data);
  }

  #fail(error) {
    this.#closed = true;
    clearInterval(this.#ticking);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
  }
}

const LOST = 'The connection to the server was lost.';
const UNREACHABLE = 'The server cannot be reached.';
const NEEDS_TOKEN = 'this server asks for a token. Open this page with one in its address: /?auth=TOKEN';
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
