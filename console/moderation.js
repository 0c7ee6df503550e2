// A moderator's buttons: mute and remove on each tile, lock in the header, and let in or turn away who waits. They are
// there while this client may moderate: by its token, or since the server said so.

import { claimsGiven } from './bearer.js';

const $ = (id) => document.getElementById(id);

function button(words, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = words;
  made.onclick = act;
  return made;
}

export class Moderation {
  #may = false;
  #locked = false;
  /** Who waits to be let in: id -> name. */
  #waiting = new Map();
  /** The producers of sound: id -> the peer. */
  #sounds = new Map();
  /** Peers whose sound a moderator has muted. */
  #muted = new Set();
  /** Peer -> its buttons: [all of them, the one that mutes]. */
  #acts = new Map();

  /** `ask(type, data)` resolves with whether the server has done it. */
  constructor(ask) {
    this.ask = ask;
    const first = () => this.#waiting.keys().next().value;
    // Who comes to a locked channel waits, in place of being refused.
    $('lock').onclick = () => ask('set-channel', { locked: !this.#locked, waiting: !this.#locked });
    $('let-in').onclick = () => ask('admit-peer', { peerId: first() });
    $('turn-away').onclick = () => ask('turn-away-peer', { peerId: first() });
    this.end();
  }

  /** What `subscribed` says; from then on `take` hears of every change. */
  begin({ peers, channel, waiting }) {
    this.#may = claimsGiven()?.grants?.moderate === true;
    this.#locked = channel?.locked === true;
    this.#waiting = new Map(waiting?.map(({ id, name, user }) => [id, name ?? user]));
    this.#sounds.clear();
    this.#muted.clear();
    for (const { id: peerId, producers } of peers) {
      for (const producer of producers) this.#sent({ ...producer, peerId });
    }
    this.#draw();
  }

  take(type, data) {
    switch (type) {
      case 'grants-changed':
        this.#may = data.grants.moderate;
        break;
      case 'channel-changed':
        this.#locked = data.channel.locked === true;
        break;
      case 'peer-waiting':
        this.#waiting.set(data.id, data.name ?? data.user);
        break;
      case 'waiting-ended':
        this.#waiting.delete(data.id);
        break;
      case 'new-producer':
        this.#sent(data);
        break;
      case 'producer-paused':
      case 'producer-resumed':
        if (this.#sounds.has(data.id)) this.#muted[data.muted ? 'add' : 'delete'](data.peerId);
        break;
      case 'producer-closed':
        this.#sounds.delete(data.id);
        return;
      default:
        return;
    }
    this.#draw();
  }

  #sent({ id, kind, muted, peerId }) {
    if (kind !== 'audio') return;
    this.#sounds.set(id, peerId);
    if (muted) this.#muted.add(peerId);
  }

  /** The buttons for a peer whose tile is new. */
  attach(peerId, tile) {
    const mute = button('', () => this.#mute(peerId));
    const acts = document.createElement('div');
    acts.className = 'acts';
    acts.append(mute, button('Remove', () => this.ask('remove-peer', { peerId })));
    tile.addActs(acts);
    this.#acts.set(peerId, [acts, mute]);
    this.#draw();
  }

  detach(peerId) {
    this.#acts.delete(peerId);
    this.#muted.delete(peerId);
  }

  async #mute(peerId) {
    const mutes = !this.#muted.has(peerId);
    if (!(await this.ask(mutes ? 'mute-peer' : 'unmute-peer', { peerId, kinds: ['audio'] }))) return;
    // Who sends no sound yet is muted when it does, and no news come of that.
    this.#muted[mutes ? 'add' : 'delete'](peerId);
    this.#draw();
  }

  end() {
    this.#may = false;
    this.#draw();
  }

  #draw() {
    for (const [peerId, [acts, mute]] of this.#acts) {
      acts.hidden = !this.#may;
      mute.textContent = this.#muted.has(peerId) ? 'Unmute' : 'Mute';
    }
    $('moderation').hidden = !this.#may;
    $('lock').textContent = this.#locked ? 'Unlock' : 'Lock';
    const [first, ...others] = this.#waiting.values();
    $('waits').textContent = first ? `${first}${others.length ? ` and ${others.length} more` : ''} would like to come in` : '';
    for (const id of ['let-in', 'turn-away']) $(id).hidden = !first;
  }
}
