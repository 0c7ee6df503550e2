// One WebSocket to the server: requests with a requestId and their replies, and the server's notifications. Knows
// nothing of media. docs/PROTOCOL.md describes the messages.

const REPLY_MAX_MS = 15_000;

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
  /** Called with (type, data). */
  onNotification = () => {};
  /** Called once with a reason in words, unless close() was called here. */
  onLost = () => {};

  static async open(user, channel) {
    const url = new URL('/socket', location.href);
    url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    url.search = new URLSearchParams({ auth: user, channelId: channel });
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = async () => reject(new Lost(await whyClosed()));
    });
    return new Signalling(socket);
  }

  constructor(socket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#received(JSON.parse(data));
    socket.onclose = ({ reason }) => {
      const words = reason ? `The server closed the connection: ${reason}.` : 'The connection to the server was lost.';
      this.#fail(new Lost(words));
      this.onLost(words);
    };
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

  close() {
    this.#socket.onclose = null;
    this.#socket.close();
    this.#fail(new Lost('You left the channel.'));
  }

  #received({ type, requestId, data }) {
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
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
  }
}

/** A browser hides why a WebSocket was refused, so the server is asked how it is. */
async function whyClosed() {
  try {
    const answer = await fetch('/healthz', { cache: 'no-store' });
    const { status } = await answer.json();
    if (status === 'stopping') return 'The server is shutting down.';
    return 'The server runs, but refused the connection: the channel or the server may be full.';
  } catch {
    return 'The server cannot be reached.';
  }
}
