// One tile for each participant: picture, sound, name, numbers from the browser's statistics once a second, and what
// the server says of the stream.

import { verdictInWords } from './words.js';

const initials = (name) => {
  const words = name.trim().split(/\s+/);
  return words.slice(0, 2).map((word) => [...word][0] ?? '').join('').toUpperCase();
};

const element = (name, className, ...children) => {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
};

export class Tile {
  #stream = new MediaStream();
  #video = element('video', '');
  #blankText = element('div', '');
  #badges = element('span', '');
  #verdict = element('span', 'verdict');
  #consumers = new Map();
  #numbers = element('p', 'numbers');
  #caption = element('strong', '');
  #paused = { audio: false, video: false };
  #speaking = false;
  #away = false;
  #before = null;

  /** `onSilenced` is called when the browser wants a click before it plays sound. */
  constructor(name, { own = false, onSilenced = () => {} } = {}) {
    this.own = own;
    this.onSilenced = onSilenced;
    this.#video.autoplay = true;
    this.#video.playsInline = true;
    this.#video.muted = own;
    this.#video.srcObject = this.#stream;
    const blank = element('div', 'blank', element('span', '', initials(name) || '?'), this.#blankText);
    const caption = element('div', 'who', this.#caption);
    if (own) caption.append(element('span', 'badge', 'you'));
    caption.append(this.#badges, this.#verdict);
    this.root = element('figure', 'tile dark', element('div', 'screen', this.#video, blank));
    this.root.append(element('figcaption', '', caption, this.#numbers));
    this.rename(name);
    this.#draw();
  }

  /** Buttons over the picture. */
  addActs(acts) {
    this.root.firstChild.append(acts);
  }

  get name() {
    return this.#caption.textContent;
  }

  rename(name) {
    this.#caption.textContent = name;
    this.root.dataset.user = name;
  }

  add(track) {
    const isOver = ({ kind, readyState }) => kind === track.kind && readyState === 'ended';
    for (const old of this.#stream.getTracks().filter(isOver)) this.#stream.removeTrack(old);
    this.#stream.addTrack(track);
    this.#draw();
    this.play();
  }

  addConsumer({ id, kind, track }) {
    this.#consumers.set(kind, id);
    this.add(track);
  }

  removeConsumer({ id, kind, track }) {
    if (this.#consumers.get(kind) === id) this.#consumers.delete(kind);
    this.showVerdict(null);
    this.remove(track);
  }

  /** The consumer that matters most to whoever looks: the picture, if there is one. */
  get consumerId() {
    return this.#consumers.get('video') ?? this.#consumers.get('audio') ?? null;
  }

  remove(track) {
    this.#stream.removeTrack(track);
    this.#paused[track.kind] = false;
    this.#before = null;
    this.#draw();
  }

  setPaused(kind, paused) {
    this.#paused[kind] = paused;
    this.#draw();
  }

  /** The active speaker of the channel has a ring around its tile, unless it is muted. */
  setSpeaking(speaking) {
    this.#speaking = speaking;
    this.#draw();
  }

  /** Its connection is broken: it does not hear what is said to it by words. */
  setAway(away) {
    this.#away = away;
    this.#draw();
  }

  play() {
    this.#video.muted = this.own;
    this.#video.play().catch((error) => {
      if (error.name !== 'NotAllowedError' || this.own) return;
      this.#video.muted = true;
      this.#video.play().catch(() => {});
      this.onSilenced();
    });
  }

  onFirstPicture(callback) {
    if ('requestVideoFrameCallback' in this.#video) this.#video.requestVideoFrameCallback(() => callback());
  }

  #draw() {
    const has = (kind) => this.#stream.getTracks().some((track) => track.kind === kind);
    const visible = has('video') && !this.#paused.video;
    this.root.classList.toggle('dark', !visible);
    this.root.classList.toggle('speaking', this.#speaking && !this.#paused.audio);
    const without = has('audio') ? 'Sound only' : this.own ? 'You only watch' : 'Sends nothing yet';
    this.#blankText.textContent = has('video') ? 'Picture is off' : without;
    const off = has('audio') && this.#paused.audio;
    const badges = [off && element('span', 'badge off', 'muted'), this.#away && element('span', 'badge off', 'reconnecting')];
    this.#badges.replaceChildren(...badges.filter(Boolean));
  }

  /** `[sent, received]` are statistics of the two transports; either may be null. */
  showNumbers([sent, received]) {
    const tracks = new Set(this.#stream.getTracks().map((track) => track.id));
    const now = this.own ? outgoing(sent, tracks) : incoming(received, tracks);
    const before = this.#before;
    this.#before = now;
    if (!now || !before) {
      this.#numbers.replaceChildren();
      return;
    }
    const seconds = (now.time - before.time) / 1000;
    const parts = [];
    if (now.width && !this.#paused.video) {
      parts.push(`${now.width} × ${now.height}`, `${Math.round(now.framesPerSecond)} frames/s`);
    }
    if (seconds > 0) parts.push(bitrate((8 * (now.bytes - before.bytes)) / seconds));
    const spans = parts.map((part) => element('span', '', part));
    const loss = now.loss ?? lossBetween(before, now);
    spans.push(element('span', loss >= 0.02 ? 'bad' : '', `${(100 * loss).toFixed(1)} % lost`));
    this.#numbers.replaceChildren(...spans.flatMap((span) => [span, ' ']));
  }

  /** What the server said last, or null. */
  showVerdict(verdict) {
    this.#verdict.textContent = verdict ? verdictInWords(verdict) : '';
    this.#verdict.classList.toggle('still', Boolean(verdict) && verdict.state !== 'flowing');
    if (verdict) this.root.dataset.verdict = verdict.state;
    else delete this.root.dataset.verdict;
  }

  close() {
    this.#video.srcObject = null;
    this.root.remove();
  }
}

function incoming(report, tracks) {
  const sum = { time: 0, bytes: 0, packets: 0, lost: 0, width: 0, height: 0, framesPerSecond: 0 };
  for (const stat of report?.values() ?? []) {
    if (stat.type !== 'inbound-rtp' || !tracks.has(stat.trackIdentifier)) continue;
    sum.time = stat.timestamp;
    sum.bytes += stat.bytesReceived ?? 0;
    sum.packets += stat.packetsReceived ?? 0;
    sum.lost += stat.packetsLost ?? 0;
    if (stat.kind === 'video') takePicture(sum, stat);
  }
  return sum.time ? sum : null;
}

/** What is lost on the way to the server is known from the server's reports. */
function outgoing(report, tracks) {
  const sum = { time: 0, bytes: 0, loss: 0, width: 0, height: 0, framesPerSecond: 0 };
  for (const stat of report?.values() ?? []) {
    if (stat.type === 'remote-inbound-rtp') sum.loss = Math.max(sum.loss, stat.fractionLost ?? 0);
    if (stat.type !== 'outbound-rtp' || !tracks.has(report.get(stat.mediaSourceId)?.trackIdentifier)) continue;
    sum.time = stat.timestamp;
    sum.bytes += stat.bytesSent ?? 0;
    if (stat.kind === 'video') takePicture(sum, stat);
  }
  return sum.time ? sum : null;
}

function takePicture(sum, stat) {
  sum.width = stat.frameWidth ?? 0;
  sum.height = stat.frameHeight ?? 0;
  sum.framesPerSecond = stat.framesPerSecond ?? 0;
}

/** RFC 3550: a repaired or repeated packet can make the count of lost ones go down. */
function lossBetween(before, now) {
  const lost = Math.max(0, now.lost - before.lost);
  const expected = lost + Math.max(0, now.packets - before.packets);
  return expected ? lost / expected : 0;
}

const bitrate = (bits) =>
  bits >= 999_500 ? `${(bits / 1e6).toFixed(1)} Mbit/s` : `${Math.max(0, Math.round(bits / 1000))} kbit/s`;
