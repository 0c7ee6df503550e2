// The page: a form to join, then tiles and controls. The address may fill the form: ?name= &channel=
// &source=camera|pattern|watch, and join=1 joins at once. Who reloads the page finds the form as it was: the channel is in
// the address, the name and the source are kept by the browser.

import { claimsGiven, tokenGiven } from './bearer.js';
import { Call } from './call.js';
import { Chat } from './chat.js';
import { Moderation } from './moderation.js';
import { isReachable, SILENT } from './signalling.js';
import { camera, cameraAllowed, nothing, pattern } from './sources.js';
import { Tile } from './tiles.js';
import { INSECURE, inWords, isCameraError, isOver } from './words.js';

/** Until a network of which nobody heard that it is back is in use again. */
const RETRY_MS = [500, 1000, ...Array(60).fill(2000), 8000];
/** A server that answers elsewhere but not on the call's socket is looked at so often before it is left. */
const LOOK_EVERY_MS = 1000;
const LOOKS_MAX = { passes: 20, halts: 3, failed: 1 };
const NUMBERS_EVERY_MS = 1000;
const VERDICTS_EVERY_MS = 2000;
const SOURCES = ['camera', 'pattern', 'watch'];

const $ = (id) => document.getElementById(id);
const form = $('join-form');

/** What is there between Join and Leave; null in the lobby. It outlives a lost connection. */
let stay = null;

class Stay {
  call = null;
  tiles = new Map();
  /** The tiles' elements that are on the screen. */
  seen = new Set();
  asking = false;
  attempts = 0;
  left = false;
  /** Tries again, while that waits for its time. */
  retrying = null;
  sending = { audio: true, video: true };
  /** One switch after the other, however fast somebody clicks. */
  switching = Promise.resolve();
  moderation = new Moderation((type, data) => this.ask(type, data));
  chat = new Chat((text) => this.ask('send-message', { data: { text } }));
  /** While a moderator has not let this client in. */
  giveUp = () => {};

  constructor(user, channel, source) {
    Object.assign(this, { user, channel, source });
    this.ownTile = new Tile(user, { own: true });
    for (const track of source.stream.getTracks()) this.ownTile.add(track);
    this.numbers = setInterval(() => this.showNumbers(), NUMBERS_EVERY_MS);
    this.verdicts = setInterval(() => this.askVerdicts(), VERDICTS_EVERY_MS);
    this.onScreen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) this.seen[isIntersecting ? 'add' : 'delete'](target);
    });
  }

  async connect() {
    const call = await Call.join(this.user, this.channel, this.source.stream, this, this.attempts > 0);
    if (this.left) {
      call.leave();
      return;
    }
    this.call = call;
    this.attempts = 0;
    notice('call-notice', null);
    for (const kind of this.source.kinds) {
      if (!this.sending[kind]) await call.setSending(kind, null);
    }
    this.draw();
  }

  /** Whether the server has done it. */
  async ask(type, data) {
    try {
      if (!this.call) throw new Error('There is no connection to the server.');
      await this.call.ask(type, data);
      return true;
    } catch (error) {
      this.trouble(inWords(error));
      return false;
    }
  }

  subscribed(data) {
    this.moderation.begin(data);
  }

  told(type, data) {
    this.moderation.take(type, data);
    if (type === 'message') this.chat.said(this.nameOf(data.from), data.data ?? {});
  }

  nameOf(from) {
    if (from === 'operator' || from === 'moderator') return `The ${from}`;
    return this.tiles.get(from)?.name ?? 'Somebody';
  }

  lost(words, over) {
    this.call = null;
    this.moderation.end();
    for (const id of [...this.tiles.keys()]) this.peerLeft(id);
    this.speaks(null, false);
    if (over) this.over(words);
    else this.retry(words);
  }

  /** The server does not want this client: coming again is of no use. */
  over(words) {
    if (this.left) return;
    if (stay === this) showLobby();
    notice('lobby-notice', words, { bad: true });
  }

  waits(giveUp) {
    this.giveUp = giveUp;
    const inLobby = $('call').hidden;
    const actions = inLobby ? [['Do not wait', giveUp]] : [];
    notice(inLobby ? 'lobby-notice' : 'call-notice', 'The channel is locked. A moderator has to let you in…', { actions });
  }

  /**
   * The socket is open and nothing comes on it. It may wait for TCP, which after an outage tries again as late as the
   * outage was long; a new one need not. What flows still flows meanwhile, and may do so for a while longer.
   */
  async silent() {
    const { call } = this;
    const waits = () => this.call === call && call?.silent;
    notice('call-notice', SILENT, { bad: true });
    for (let looks = 0; waits(); ) {
      if (await isReachable()) looks++;
      if (waits() && looks >= LOOKS_MAX[call.media]) {
        call.leave();
        this.lost(SILENT);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
    if (this.call === call) notice('call-notice', null);
  }

  /** The browser says that there is a network again, or somebody looks at the page again. */
  networkChanged() {
    this.call?.knock();
    if (!this.retrying) return;
    clearTimeout(this.timer);
    this.retrying();
  }

  retry(words) {
    if (this.left) return;
    // Not all pages of a server that came back at one moment.
    const wait = RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)] * (0.75 + Math.random() / 2);
    notice('call-notice', `${words} Trying again…`, { bad: true });
    this.draw();
    this.retrying = () => {
      this.retrying = null;
      this.connect().catch((error) => (isOver(error) ? this.over(inWords(error)) : this.retry(inWords(error))));
    };
    this.timer = setTimeout(this.retrying, wait);
  }

  leave() {
    this.left = true;
    clearInterval(this.numbers);
    clearInterval(this.verdicts);
    this.onScreen.disconnect();
    clearTimeout(this.timer);
    this.call?.leave();
    this.giveUp();
    this.moderation.end();
    this.source.stop();
    this.ownTile.close();
    for (const tile of this.tiles.values()) tile.close();
  }

  peerJoined(id, user) {
    const tile = new Tile(user, { onSilenced: askForClick });
    tile.onFirstPicture(() => performance.mark(`picture of ${user}`));
    this.tiles.set(id, tile);
    this.moderation.attach(id, tile);
    this.onScreen.observe(tile.root);
    this.draw();
  }

  renamed(id, name) {
    this.tiles.get(id)?.rename(name);
  }

  peerLeft(id) {
    const tile = this.tiles.get(id);
    if (tile) {
      this.onScreen.unobserve(tile.root);
      this.seen.delete(tile.root);
      tile.close();
    }
    this.tiles.delete(id);
    this.moderation.detach(id);
    this.draw();
  }

  mediaAdded(peerId, consumer, paused) {
    const tile = this.tiles.get(peerId);
    tile?.setPaused(consumer.kind, paused);
    tile?.addConsumer(consumer);
  }

  mediaRemoved(peerId, consumer) {
    this.tiles.get(peerId)?.removeConsumer(consumer);
  }

  mediaPaused(peerId, kind, paused) {
    this.tiles.get(peerId)?.setPaused(kind, paused);
  }

  speaks(peerId, own) {
    this.ownTile.setSpeaking(own);
    for (const [id, tile] of this.tiles) tile.setSpeaking(id === peerId);
  }

  /** Its connection to the server is broken; what it sends may flow all the same. */
  peerAway(id, away) {
    this.tiles.get(id)?.setAway(away);
  }

  broken(broken) {
    notice('call-notice', broken ? 'The connection to the server was lost. Trying again…' : null, { bad: true });
  }

  trouble(words) {
    notice('call-notice', words);
  }

  toggle(kind) {
    const sending = !this.sending[kind];
    this.sending[kind] = sending;
    this.draw();
    this.switching = this.switching.then(() => this.switch(kind, sending));
    return this.switching;
  }

  async switch(kind, sending) {
    try {
      const track = sending ? await this.source.acquire(kind) : null;
      if (this.left) return;
      if (track) this.ownTile.add(track);
      this.ownTile.setPaused(kind, !sending);
      await this.call?.setSending(kind, track);
      if (!sending) this.source.release(kind);
    } catch (error) {
      // A camera that cannot be had again stays off. What the server did not hear of, it hears at the next join.
      if (sending && isCameraError(error)) this.sending[kind] = false;
      this.trouble(inWords(error));
      this.draw();
    }
  }

  async showNumbers() {
    const stats = this.call ? await this.call.stats().catch(() => [null, null]) : [null, null];
    for (const tile of [this.ownTile, ...this.tiles.values()]) tile.showNumbers(stats);
  }

  /** One question after the other, about what is on the screen of a page that is looked at: never a flood. */
  async askVerdicts() {
    if (this.asking || document.hidden) return;
    this.asking = true;
    for (const tile of [...this.tiles.values()]) {
      const { call } = this;
      const { consumerId } = tile;
      if (!call || !consumerId || !this.seen.has(tile.root)) continue;
      // It may end while it is asked about, and so may the call.
      const verdict = await call.verdict(consumerId).catch(() => null);
      if (tile.consumerId === consumerId) tile.showVerdict(verdict);
    }
    this.asking = false;
  }

  draw() {
    if (stay !== this) return;
    const tiles = [this.ownTile, ...this.tiles.values()].map((tile) => tile.root);
    const list = $('tiles');
    // A picture that is moved in the document stops for a moment: only what is new is put in.
    for (const tile of tiles) if (tile.parentNode !== list) list.append(tile);
    list.dataset.count = tiles.length;
    $('alone').hidden = this.tiles.size > 0 || !this.call;
    const people = tiles.length === 1 ? 'only you' : `${tiles.length} people`;
    const state = this.call ? people : 'not connected';
    $('where').replaceChildren('Channel ', bold(this.channel), ` · ${state}`);
    const has = (kind) => this.source.kinds.includes(kind);
    button('microphone', has('audio'), this.sending.audio, 'Mute', 'Unmute');
    const device = this.source.isPattern ? 'Picture' : 'Camera';
    button('camera', has('video'), this.sending.video, `${device} off`, `${device} on`);
  }
}

function bold(text) {
  const made = document.createElement('strong');
  made.textContent = text;
  return made;
}

/** Its words say what a click does. A pressed state beside words that change would say it twice, and once wrongly. */
function button(id, there, on, whenOn, whenOff) {
  $(id).hidden = !there;
  $(id).classList.toggle('off', !on);
  $(id).textContent = on ? whenOn : whenOff;
}

/** An action is [label, function]. No words: no notice. */
function notice(id, words, { bad = false, actions = [] } = {}) {
  const place = $(id);
  place.hidden = !words;
  place.classList.toggle('bad', bad);
  const text = document.createElement('span');
  text.textContent = words ?? '';
  place.replaceChildren(text);
  for (const [label, act] of actions) {
    const made = document.createElement('button');
    made.type = 'button';
    made.textContent = label;
    made.onclick = act;
    place.append(made);
  }
}

/** The browser plays sound only after a click on the page. */
function askForClick() {
  const play = () => {
    notice('call-notice', null);
    for (const tile of stay?.tiles.values() ?? []) tile.play();
  };
  notice('call-notice', 'The browser keeps the sound off until you click.', { actions: [['Turn sound on', play]] });
}

async function join() {
  const user = $('name').value.trim();
  const channel = $('channel').value.trim();
  const kind = new FormData(form).get('source');
  for (const [id, value] of [['name', user], ['channel', channel]]) $(id).setAttribute('aria-invalid', String(!value));
  if (!user || !channel) {
    notice('lobby-notice', user ? 'Give the channel a name.' : 'Tell the others your name.', { bad: true });
    $(user ? 'channel' : 'name').focus();
    return;
  }
  notice('lobby-notice', null);
  $('join').disabled = true;
  $('join').textContent = 'Joining…';
  performance.mark('join');
  let source;
  try {
    source = await sourceOf(kind, user);
    stay = new Stay(user, channel, source);
    await stay.connect();
    remember(user, channel, kind);
    showCall();
  } catch (error) {
    showLobby();
    const instead = (other) => () => {
      form.source.value = other;
      join();
    };
    const actions = [['Join with the test pattern', instead('pattern')], ['Just watch', instead('watch')]];
    notice('lobby-notice', inWords(error), { bad: true, actions: isCameraError(error) ? actions : [] });
  } finally {
    $('join').disabled = false;
    $('join').textContent = 'Join';
  }
}

function sourceOf(kind, user) {
  if (kind === 'pattern') return pattern(user);
  return kind === 'watch' ? nothing() : camera();
}

/** For a reload, or the next visit. join=1 is no part of it: a reload shows the form. */
function remember(user, channel, kind) {
  const url = new URL(location.href);
  const given = url.searchParams;
  given.set('channel', channel);
  given.delete('join');
  for (const [key, value] of [['name', user], ['source', kind]]) if (given.has(key)) given.set(key, value);
  history.replaceState(null, '', url);
  try {
    localStorage.setItem('name', user);
    localStorage.setItem('source', kind);
  } catch {
    // A browser that keeps nothing asks again.
  }
}

function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function address(parameters) {
  const url = new URL('/', location.href);
  url.search = new URLSearchParams(parameters);
  return url.href;
}

function showCall() {
  const { channel } = stay;
  notice('lobby-notice', null);
  $('lobby').hidden = true;
  $('call').hidden = false;
  $('controls').hidden = false;
  $('invite').textContent = address({ channel });
  // A guest has no token of its own.
  $('own-token').hidden = !tokenGiven();
  $('guest').hidden = Boolean(tokenGiven());
  $('guest').href = address({ channel, name: 'Guest', source: 'pattern', join: '1' });
  document.title = `${channel} · Weirgate`;
  stay.draw();
  // The button that had the focus is gone.
  $('call').setAttribute('aria-label', `Channel ${channel}`);
  // Scrolled to the tiles, a small window would show no header.
  $('call').focus({ preventScroll: true });
}

function showLobby() {
  stay?.leave();
  stay = null;
  $('tiles').replaceChildren();
  $('lobby').hidden = false;
  $('call').hidden = true;
  $('controls').hidden = true;
  $('where').replaceChildren();
  notice('call-notice', null);
  document.title = 'Weirgate';
}

function fillForm() {
  const given = new URLSearchParams(location.search);
  const claims = claimsGiven();
  $('name').value = claims ? (claims.name ?? claims.sub) : (given.get('name') ?? remembered('name') ?? '');
  $('name').readOnly = Boolean(claims);
  $('channel').value = given.get('channel') ?? 'lobby';
  const wanted = [given.get('source'), remembered('source')].find((source) => SOURCES.includes(source)) ?? 'camera';
  form.source.value = wanted === 'camera' && !cameraAllowed() ? 'pattern' : wanted;
  if (!cameraAllowed()) {
    form.querySelector('[value=camera]').disabled = true;
    $('source-hint').textContent = INSECURE;
    $('source-hint').hidden = false;
  }
  // A page whose tiles wait for a picture while it loads is never loaded.
  if (given.get('join') === '1') window.addEventListener('load', join, { once: true });
  else $($('name').value ? 'join' : 'name').focus({ preventScroll: true });
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  join();
});
$('leave').onclick = () => {
  showLobby();
  $('join').focus();
};
$('microphone').onclick = () => stay?.toggle('audio');
$('camera').onclick = () => stay?.toggle('video');
window.addEventListener('online', () => stay?.networkChanged());
document.addEventListener('visibilitychange', () => document.hidden || stay?.networkChanged());
// A page that goes away tells the server at once, instead of being missed later.
window.addEventListener('pagehide', showLobby);
fillForm();
