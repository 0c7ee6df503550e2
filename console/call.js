// One stay in a channel: transports, what is sent, what is received. Tells a view what happens; draws nothing itself.

import { Device } from 'mediasoup-client';
import { Refused, SILENT, Signalling } from './signalling.js';
import { inWords } from './words.js';

const VIDEO_BITRATE_MAX = 1_500_000;
/** Between two attempts to restart ICE when the server does not answer one. */
const RESTART_AFTER_MS = [1000, 2000, 4000, 8000];

export class Call {
  #signalling;
  #device;
  #view;
  #sender;
  #receiver;
  #producers = new Map();
  #consumers = new Map();
  /** Those that are brought back right now. */
  #restarting = new Set();
  #left = false;
  /** This client's own, as the others know it. */
  #peerId;
  /** While a moderator has not let this client in: { admitted, let in, turned away }. */
  #waiting = null;

  /**
   * `view` has peerJoined(id, name), peerLeft(id), mediaAdded(peerId, consumer, paused), mediaRemoved(peerId,
   * consumer), mediaPaused(peerId, kind, paused), renamed(peerId, name), speaks(peerId or null, whether it is this
   * client), peerAway(id, whether it is), trouble(words or null), broken(whether the connection is), waits(function that
   * gives up), silent(), lost(words, whether it is of no use to come again); and subscribed(data), told(type, data), which
   * have all that the server says from then on. `again`: not for the first time.
   */
  static async join(user, channel, stream, view, again) {
    const signalling = await Signalling.open(user, channel, again);
    const call = new Call(signalling, view);
    // Who tries again does not wait for half a join.
    if (again) signalling.onSilent = () => signalling.close(SILENT);
    try {
      await call.#start(stream);
      signalling.onSilent = () => view.silent();
    } catch (error) {
      call.leave();
      throw error;
    }
    return call;
  }

  constructor(signalling, view) {
    this.#signalling = signalling;
    this.#view = view;
    signalling.onNotification = (type, data) => this.#notified(type, data);
    signalling.onBroken = (broken) => view.broken(broken);
    signalling.onLost = (error) => {
      this.#close();
      this.#waiting?.turnedAway(error);
      this.#view.lost(inWords(error), error instanceof Refused);
    };
  }

  async #start(stream) {
    const begin = () => Promise.all([
      this.#signalling.request('get-rtp-capabilities', { resume: true }),
      this.#signalling.request('create-transport', { direction: 'send' }),
      this.#signalling.request('create-transport', { direction: 'recv' }),
      Device.factory(),
    ]);
    const [capabilities, sending, receiving, device] = await begin().catch(async (error) => {
      if (!this.#waiting) throw error;
      await this.#waiting.admitted;
      return begin();
    });
    await device.load({ routerRtpCapabilities: capabilities });
    this.#device = device;
    this.#sender = this.#wire(device.createSendTransport(sending));
    this.#receiver = this.#wire(device.createRecvTransport(receiving));
    this.#sender.on('produce', ({ kind, rtpParameters }, done, failed) => {
      const data = { transportId: this.#sender.id, kind, rtpParameters };
      this.#signalling.request('produce', data).then(done, failed);
    });
    const subscribed = await this.#signalling.request('subscribe');
    const { peerId, peers, activeSpeaker } = subscribed;
    this.#peerId = peerId;
    for (const peer of peers) {
      this.#view.peerJoined(peer.id, peer.name ?? peer.user);
      if (peer.away) this.#view.peerAway(peer.id, true);
      for (const producer of peer.producers) this.#consume(peer.id, producer);
    }
    this.#speaks(activeSpeaker);
    this.#view.subscribed(subscribed);
    await Promise.all(stream.getTracks().map((track) => this.#produce(track)));
  }

  #wire(transport) {
    transport.on('connect', ({ dtlsParameters }, done, failed) => {
      const data = { transportId: transport.id, dtlsParameters };
      this.#signalling.request('connect-transport', data).then(done, failed);
    });
    let wasConnected = false;
    transport.on('connectionstatechange', (state) => {
      wasConnected ||= state === 'connected';
      if (state === 'connected') this.#view.trouble(null);
      if (state === 'disconnected') this.#view.trouble('Media is interrupted: the network may have changed.');
      if (state !== 'failed') return;
      if (wasConnected) {
        this.#bringBack(transport);
      } else {
        this.#view.trouble(
          'Media cannot reach the server: its UDP port is blocked on the way, or it announces an address ' +
            'that cannot be reached from here (--announce).',
        );
      }
    });
    return transport;
  }

  /** Restarts ICE until a restart is under way: when that fails too, the transport says so again. */
  async #bringBack(transport) {
    if (this.#restarting.has(transport)) return;
    this.#restarting.add(transport);
    for (let attempt = 0; !this.#left && transport.connectionState === 'failed'; attempt++) {
      this.#view.trouble('Media is interrupted. Trying another way to the server…');
      try {
        const { iceParameters } = await this.#signalling.request('restart-ice', { transportId: transport.id });
        await transport.restartIce({ iceParameters });
        break;
      } catch (error) {
        if (this.#left) break;
        if (error.code === 'not-found') {
          this.#startOver('The server no longer knows this media transport.');
          break;
        }
        const wait = RESTART_AFTER_MS[Math.min(attempt, RESTART_AFTER_MS.length - 1)];
        this.#view.trouble(`Media could not be brought back: ${error.message} Trying again in ${wait / 1000} s…`);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    this.#restarting.delete(transport);
  }

  /** Nothing comes from the server on the socket. Media may flow all the same. */
  get silent() {
    return this.#signalling.silent;
  }

  /** What the browser knows of media's way to the server: it `passes`, it `halts`, or it has `failed`. */
  get media() {
    const states = [this.#sender, this.#receiver].map((transport) => transport.connectionState);
    if (states.includes('failed')) return 'failed';
    return states.includes('disconnected') ? 'halts' : 'passes';
  }

  /** The network has changed: the server is asked whether it hears us. */
  knock() {
    this.#signalling.ask();
  }

  /** What the server has ended cannot be restarted: the view joins anew. */
  #startOver(words) {
    if (this.#left) return;
    this.leave();
    this.#view.lost(words);
  }

  async #produce(track) {
    const video = track.kind === 'video';
    const producer = await this.#sender.produce({
      track,
      stopTracks: false,
      zeroRtpOnPause: true,
      encodings: video ? [{ maxBitrate: VIDEO_BITRATE_MAX }] : undefined,
      codecOptions: video ? { videoGoogleStartBitrate: 1000 } : { opusDtx: true },
    });
    this.#producers.set(track.kind, producer);
  }

  /** Paused first and resumed when the browser is ready for it: then the first packet is a keyframe that counts. */
  async #consume(peerId, { id: producerId, kind }) {
    try {
      const parameters = await this.#signalling.request('consume', {
        transportId: this.#receiver.id,
        producerId,
        rtpCapabilities: this.#device.recvRtpCapabilities,
        paused: true,
      });
      const consumer = await this.#receiver.consume({ ...parameters, streamId: peerId });
      this.#consumers.set(consumer.id, { peerId, consumer });
      this.#view.mediaAdded(peerId, consumer, parameters.producerPaused);
      await this.#signalling.request('resume-consumer', { consumerId: consumer.id });
    } catch (error) {
      // It was closed while it was asked for.
      if (this.#left || error.code === 'not-found') return;
      this.#view.trouble(`The ${kind} of one participant cannot be shown: ${error.message}`);
    }
  }

  #notified(type, data) {
    switch (type) {
      case 'peer-joined':
        this.#view.peerJoined(data.id, data.name ?? data.user);
        break;
      case 'peer-updated':
        this.#view.renamed(data.id, data.name ?? data.user);
        break;
      case 'waiting': {
        const waiting = {};
        waiting.admitted = new Promise((letIn, turnedAway) => Object.assign(waiting, { letIn, turnedAway }));
        // Nobody may be there to hear of it.
        waiting.admitted.catch(() => {});
        this.#waiting = waiting;
        this.#view.waits(() => {
          this.leave();
          waiting.turnedAway(new Error('You did not wait to be let in.'));
        });
        break;
      }
      case 'admitted':
        this.#waiting?.letIn();
        break;
      case 'producer-muted':
      case 'producer-unmuted':
        for (const [kind, producer] of this.#producers) {
          if (producer.id !== data.producerId) continue;
          this.#view.trouble(type === 'producer-muted' ? `A moderator has muted your ${kind}.` : null);
        }
        break;
      case 'peer-left':
        this.#view.peerLeft(data.id);
        break;
      case 'peer-away':
      case 'peer-back':
        this.#view.peerAway(data.id, type === 'peer-away');
        break;
      case 'new-producer':
        this.#consume(data.peerId, data);
        break;
      case 'consumer-closed': {
        const known = this.#consumers.get(data.id);
        this.#consumers.delete(data.id);
        known?.consumer.close();
        if (known) this.#view.mediaRemoved(known.peerId, known.consumer);
        break;
      }
      case 'consumer-paused':
      case 'consumer-resumed': {
        const known = this.#consumers.get(data.id);
        if (known) this.#view.mediaPaused(known.peerId, known.consumer.kind, type === 'consumer-paused');
        break;
      }
      case 'producer-closed':
        for (const [kind, producer] of this.#producers) {
          if (producer.id === data.id) this.#view.trouble(`The server no longer takes your ${kind} (${data.reason}).`);
        }
        break;
      case 'active-speaker':
        this.#speaks(data);
        break;
      case 'transport-state':
        if (data.state === 'closed') this.#startOver(`The server closed a media transport (${data.reason}).`);
        break;
    }
    this.#view.told(type, data);
  }

  /** What a person asks the server for: words to others, and what moderators do. */
  ask(type, data) {
    return this.#signalling.request(type, data);
  }

  #speaks({ peerId }) {
    this.#view.speaks(peerId, peerId === this.#peerId);
  }

  /** Sends `track` from now on, or nothing of this kind when it is null; and tells the others. */
  async setSending(kind, track) {
    const producer = this.#producers.get(kind);
    if (!producer) {
      if (track) await this.#produce(track);
      return;
    }
    if (track) {
      await producer.replaceTrack({ track });
      producer.resume();
    } else {
      producer.pause();
    }
    const type = track ? 'resume-producer' : 'pause-producer';
    await this.#signalling.request(type, { producerId: producer.id });
  }

  /** Of the browser: [what is sent, what is received], each null before there is a transport. */
  stats() {
    const of = (transport) => (transport && !transport.closed ? transport.getStats() : null);
    return Promise.all([of(this.#sender), of(this.#receiver)]);
  }

  /** The server's verdict on a consumer: `{ state, sinceMs }`. */
  async verdict(consumerId) {
    return (await this.#signalling.request('get-stats', { consumerId })).verdict;
  }

  leave() {
    this.#close();
    this.#signalling.close();
  }

  #close() {
    this.#left = true;
    this.#sender?.close();
    this.#receiver?.close();
  }
}
