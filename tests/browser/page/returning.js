// A strict client that comes back when its socket breaks, as docs/PROTOCOL.md says: it pings every second, counts what it
// received, and says again what the server has not taken.

import { comeBack, waitBefore } from '../../../console/comeback.js';

const TICKS_TO_BREAK = 3;

export class Returning {
  /** Times that it came back, and that it could not at once. */
  back = 0;
  tries = 0;
  broken = false;
  #received = 0;
  #replies = 0;
  #ticks = 0;

  /** Its first request asks for the token. */
  static async begin(client) {
    const returning = new Returning();
    returning.client = client;
    client.returning = returning;
    client.ask('get-rtp-capabilities', { resume: true });
    await new Promise((resolve) => {
      returning.granted = resolve;
    });
    returning.#use(client.socket);
    setInterval(() => returning.#tick(), 1000);
    return returning;
  }

  took({ type, data, resume }) {
    this.#ticks = 0;
    if (resume) {
      this.token = resume;
      this.granted();
    }
    if (!this.token) return;
    this.#received++;
    // Replies come in the order of the requests: so many are taken at least.
    if (!this.client.isNews(type)) this.#replies++;
  }

  #tick() {
    if (!this.broken) this.client.ask('ping', { received: this.#received });
    if (++this.#ticks >= TICKS_TO_BREAK) this.#break();
  }

  #use(socket) {
    this.client.socket = socket;
    socket.onmessage = ({ data }) => this.client.take(JSON.parse(data));
    socket.onclose = () => this.#break();
  }

  async #break() {
    if (this.broken) return;
    this.broken = true;
    const old = this.client.socket;
    old.onclose = old.onmessage = null;
    const url = new URL(old.url);
    url.search = 'resume';
    for (let attempt = 0; this.broken; attempt++) {
      await new Promise((resolve) => setTimeout(resolve, waitBefore(attempt)));
      this.tries++;
      const found = await comeBack(url, this.token, this.#received).catch((error) => error);
      if (found instanceof Error) {
        if (found.name === 'Gone') throw found;
        continue;
      }
      const [socket, { resume, received }] = found;
      this.token = resume;
      this.#ticks = 0;
      this.#use(socket);
      this.broken = false;
      this.back++;
      // Those of which the server has taken so many are answered, or their answers are on their way.
      for (const { text } of this.client.waiting.slice(received - this.#replies)) socket.send(text);
    }
    old.close();
  }
}
