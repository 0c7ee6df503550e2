//! The beginning and the end of flowing: consumers open and close with everything they depend on, and an object that
//! ends takes along what hangs on it.

use crate::base::id::ProducerId;
use crate::base::limits::ENCODINGS_MAX;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::layers::Allowance;
use crate::router::consumer::Flow;
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::replay::replay;
use crate::router::source::Origin;
use crate::shard::command::{Closed, Event};
use crate::shard::commons::Commons;
use crate::shard::paths::Rival;
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::shard::wiring::Wiring;
use crate::transport::Transport;
use crate::transport::outgoing::Outgoing;

impl Shard {
    /// Opens or closes a consumer by the state of all it depends on.
    pub(super) fn reopen(&mut self, now: Now, key: ConsumerKey) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        let open = !consumer.paused
            && consumer.allowance != Allowance::Paused
            && self.commons.registry.transports.get(consumer.transport).is_some_and(Transport::is_open)
            && self.commons.registry.sources.get(consumer.source).is_some_and(|source| !source.paused);
        match (open, consumer.flow) {
            (false, _) => {
                consumer.set_flow(now.mono, Flow::Closed);
                self.layers_changed(now, key);
            }
            (true, Flow::Closed) => {
                consumer.begin_anew(now.mono);
                let first = consumer.opened.is_none();
                consumer.opened.get_or_insert(now.mono);
                let transport = consumer.transport;
                self.report_soon(now, transport);
                if !first || !self.replay(now, key) {
                    self.ask_key_frame(now, key, first);
                }
                self.layers_changed(now, key);
            }
            (true, _) => {}
        }
    }

    /// A consumer that is to flow, once its transport's bandwidth has been allocated.
    pub(super) fn open_later(&mut self, now: Now, key: ConsumerKey) {
        let Commons { registry, settling, .. } = &mut self.commons;
        let Some(transport) = registry.consumers.get(key).map(|consumer| consumer.transport) else { return };
        if !settling.open(registry, key, transport) {
            self.reopen(now, key);
        }
    }

    /// Serves a consumer from the packets that its source sent since its last keyframe; false: it must request one.
    pub(super) fn replay(&mut self, now: Now, key: ConsumerKey) -> bool {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return false };
        let transport_key = consumer.transport;
        let (Some(source), Some(transport)) = (
            self.commons.registry.sources.get(consumer.source),
            self.commons.registry.transports.get_mut(transport_key),
        ) else {
            return false;
        };
        let was_empty = transport.egress.is_empty();
        if !replay(now.mono, source, consumer, transport, &mut self.commons.ledger.forwarded) {
            return false;
        }
        self.commons.ledger.counters.replays += 1;
        if was_empty {
            self.commons.outlet.dirty.push(transport_key);
        }
        true
    }

    /// Lip sync needs a sender report early in a stream.
    pub(super) fn report_soon(&mut self, now: Now, key: Key<Transport>) {
        let soon = now.mono + Shard::FIRST_REPORT;
        if let Some(transport) = self.commons.registry.transports.get_mut(key) {
            transport.reports_at = transport.reports_at.map(|at| at.min(soon));
        }
        self.commons.arm(key, soon);
    }

    pub(super) fn reopen_consumers(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let was_open = transport.down_since.is_none();
        // As often as the path changes, and however many they are: they go by this alone.
        if transport.look_at_path(now.mono) == was_open {
            return;
        }
        for consumer in self.commons.registry.wiring[key.slot()].consumers.clone() {
            self.reopen(now, consumer);
        }
    }

    pub(super) fn set_source_paused(&mut self, now: Now, key: SourceKey, paused: bool) {
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        if source.paused != paused {
            (source.paused, source.paused_at) = (paused, now.mono);
            self.commons.settling.look_at_consumers(&mut self.commons.registry, key);
        }
    }

    /// Requests a keyframe from the source of a video consumer; its authority decides how often that reaches the
    /// publisher. `first`: the consumer cannot have a picture yet, and is not rate limited.
    pub(super) fn ask_key_frame(&mut self, now: Now, key: ConsumerKey, first: bool) {
        let Some(consumer) = self.commons.registry.consumers.get(key) else { return };
        if !consumer.codec.is_video() {
            return;
        }
        let encoding = match consumer.flow {
            Flow::Open { encoding, .. } => Some(encoding),
            // The encoding that it is to begin with; any, where none is known.
            Flow::KeyFrame => consumer.layered.as_ref().and_then(|layered| {
                let active = &self.commons.registry.sources.get(consumer.source)?.active;
                layered.aim(now.mono, active)
            }),
            Flow::Closed => return,
        };
        let source = consumer.source;
        self.request_key_frame(now, source, encoding, first);
    }

    /// `encoding: None` asks every encoding that is being sent. Audio has none to give, whatever feedback was agreed.
    pub(super) fn request_key_frame(&mut self, now: Now, key: SourceKey, encoding: Option<u8>, first: bool) {
        let Some(source) = self.commons.registry.sources.get_mut(key).filter(|source| source.codec.is_video()) else {
            return;
        };
        match source.origin {
            Origin::Relay(home) => {
                // The home merges requests; this keeps a flood of them out of the mesh.
                if !first && source.asked_home.is_some_and(|asked| now.mono.since(asked) < Self::RELAYED_REQUEST_GAP) {
                    return;
                }
                source.asked_home = Some(now.mono);
                let producer = source.producer;
                self.send_relay(home, &RelayMessage::KeyFrame { producer, encoding, first });
            }
            Origin::Local(producer) => {
                let transport = self.commons.registry.producers.get(producer).and_then(|producer| producer.transport);
                let rtt = transport.and_then(|transport| self.round_trip_to(transport));
                let mut due = [false; ENCODINGS_MAX];
                let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
                for (at, (due, source)) in due.iter_mut().zip(&mut source.encodings).enumerate() {
                    source.keyframes.set_rtt(rtt.unwrap_or_default());
                    let asked = encoding.is_none_or(|only| usize::from(only) == at);
                    *due = asked && source.keyframes.request(now.mono, first);
                }
                for at in (0..ENCODINGS_MAX).filter(|at| due[*at]) {
                    self.send_key_frame_request(producer, at as u8);
                }
                self.arm_key_frames(producer, key);
            }
        }
    }

    /// Consumers wait while packets of this encoding pass: requested with every packet, so requests to another shard
    /// are limited on this side already.
    pub(super) fn request_wanted(&mut self, now: Now, key: SourceKey, encoding: u8) {
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        let passes = match (&source.origin, source.encodings.get_mut(usize::from(encoding))) {
            (Origin::Local(_), _) => true,
            (Origin::Relay(_), Some(encoding)) => encoding.keyframes.request(now.mono, false),
            (Origin::Relay(_), None) => false,
        };
        if passes {
            self.request_key_frame(now, key, Some(encoding), false);
        }
    }

    fn arm_key_frames(&mut self, producer: ProducerKey, key: SourceKey) {
        let Some(transport) = self.commons.registry.producers.get(producer).and_then(|producer| producer.transport)
        else {
            return;
        };
        let Some(source) = self.commons.registry.sources.get(key) else { return };
        let deadline = source.encodings.iter().filter_map(|encoding| encoding.keyframes.next_deadline()).min();
        if let Some(deadline) = deadline {
            self.commons.arm(transport, deadline);
        }
    }

    /// A producer has just found its transport: consumers that already wait for it need a keyframe.
    pub(super) fn ask_for_waiting_consumers(&mut self, now: Now, producer: ProducerKey) {
        let Some(source) = self.commons.registry.producers.get(producer).map(|producer| producer.source) else {
            return;
        };
        let Some(waits) = self.commons.registry.sources.get(source).filter(|source| source.codec.is_video()) else {
            return;
        };
        if !waits.is_unused() {
            self.request_key_frame(now, source, None, true);
        }
    }

    pub(super) fn report_state(&mut self, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get(key) else { return };
        let state = Shard::state_of(transport);
        self.commons.ledger.events.push_back(Event::TransportState { transport: transport.id, state });
    }

    /// `why: None` means that signalling asked for it and needs no event.
    pub(super) fn close_transport(&mut self, now: Now, key: Key<Transport>, why: Option<Closed>) {
        // The slot of a stale key may be another transport's by now.
        let Some(peer) = self.commons.registry.transports.get(key).map(|transport| transport.peer) else { return };
        self.say_goodbye(now, key);
        for consumer in self.commons.registry.wiring[key.slot()].take_consumers() {
            self.close_consumer(now, consumer, why);
        }
        let mut producers = self.commons.registry.wiring[key.slot()].producers.clone();
        let entry = self.commons.registry.peers.get(&peer);
        // The last transport of a peer takes along the producers that never found one.
        if entry.is_some_and(|entry| entry.transports == [key]) {
            producers = entry.map(|entry| entry.producers.clone()).unwrap_or_default();
        }
        for producer in producers {
            self.close_producer(now, producer, why);
        }
        let Some((transport, Wiring { ufrags, life, .. })) = self.commons.registry.remove_transport(key) else {
            return;
        };
        self.commons.ledger.counters.received -= transport.traffic.packets_received;
        for ufrag in ufrags {
            self.ufrags.remove(&ufrag);
        }
        for path in transport.ice.paths() {
            self.paths.withdraw(path, Rival::Here(key));
            self.path_down(now, path, key);
        }
        self.commons.ledger.events.push_back(life.ended(&transport));
        if let Some(why) = why {
            self.commons.ledger.events.push_back(Event::TransportClosed { transport: transport.id, why });
        }
    }

    /// close_notify, so that the other end need not wait for its consent to run out.
    fn say_goodbye(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let exit = transport.exit();
        let Transport { link, proof, bounded, .. } = transport;
        link.close();
        let ready = &mut self.commons.outlet.ready;
        link.poll(now.mono, &[], |datagram| {
            if let Some(path) = exit.filter(|_| !*bounded || proof.admits(datagram.len())) {
                ready.push(path, datagram);
            }
        });
    }

    pub(super) fn close_producer(&mut self, now: Now, key: ProducerKey, why: Option<Closed>) {
        let Some(producer) = self.commons.registry.remove_producer(key) else { return };
        self.commons.registry.note_end_of_producer(&producer);
        if let Some(transport) = producer.transport {
            self.commons.registry.wiring[transport.slot()].remove_producer(now.mono, key);
        }
        let relays =
            self.commons.registry.sources.get(producer.source).map(|source| source.relays.clone()).unwrap_or_default();
        for shard in relays {
            self.send_relay(shard, &RelayMessage::Closed { producer: producer.id });
        }
        self.close_source(now, producer.source);
        if let Some(why) = why {
            self.commons.ledger.events.push_back(Event::ProducerClosed { producer: producer.id, why });
        }
    }

    /// Its consumers end with it. It is gone before they are: each would be looked for among the others.
    pub(super) fn close_source(&mut self, now: Now, key: SourceKey) {
        let Some(source) = self.commons.registry.sources.remove(key) else { return };
        self.commons.registry.source_keys.remove(&source.producer);
        for consumer in source.consumers {
            self.close_consumer(now, consumer, Some(Closed::ProducerClosed));
        }
    }

    pub(super) fn close_consumer(&mut self, now: Now, key: ConsumerKey, why: Option<Closed>) {
        let Some(consumer) = self.commons.registry.consumers.remove(key) else { return };
        self.commons.registry.note_end_of_consumer(now.mono, &consumer);
        self.commons.registry.consumer_keys.remove(&consumer.id);
        self.commons.registry.wiring[consumer.transport.slot()].remove_consumer(key);
        if let Some(transport) = self.commons.registry.transports.get_mut(consumer.transport)
            && let Some(outgoing) = transport.outgoing.remove(consumer.outgoing)
        {
            transport.egress.log.stream_ended(Outgoing::place(consumer.outgoing));
            self.send_bye(consumer.transport, outgoing.ssrc);
            if let Some(up) =
                self.commons.registry.transports.get_mut(consumer.transport).and_then(|transport| transport.link.up())
            {
                up.sealer.retire(outgoing.ssrc);
                if let Some(rtx) = outgoing.rtx {
                    up.sealer.retire(rtx.ssrc);
                }
            }
        }
        if let Some(why) = why {
            self.commons.ledger.events.push_back(Event::ConsumerClosed { consumer: consumer.id, why });
        }
        let Some(source) = self.commons.registry.sources.get_mut(consumer.source) else { return };
        source.consumers.retain(|other| *other != key);
        self.layers_watched(now, consumer.source);
        let Some(source) = self.commons.registry.sources.get_mut(consumer.source) else { return };
        if let (Origin::Relay(home), true) = (&source.origin, source.consumers.is_empty()) {
            let home = *home;
            let producer = source.producer;
            self.forget_relay(consumer.source, home, producer);
        }
    }

    fn forget_relay(&mut self, key: SourceKey, home: crate::base::id::ShardId, producer: ProducerId) {
        self.commons.registry.sources.remove(key);
        self.commons.registry.source_keys.remove(&producer);
        self.send_relay(home, &RelayMessage::Unsubscribe { producer });
    }

    /// After a panic was caught: the transport whose bytes were being handled is closed, nothing else is harmed.
    pub fn fault(&mut self, now: Now) {
        self.commons.ledger.counters.faults += 1;
        self.commons.outlet.slab.after_fault();
        if let Some(key) = self.commons.current.take() {
            self.close_transport(now, key, Some(Closed::Fault));
        }
    }

    /// When the first sender and receiver reports of a new stream go out.
    pub(super) const FIRST_REPORT: crate::base::time::Duration = crate::base::time::Duration::from_millis(200);

    /// Between two requests for keyframes of one source that go to its home, those of new consumers apart.
    const RELAYED_REQUEST_GAP: crate::base::time::Duration = crate::base::time::Duration::from_millis(20);

    pub(super) fn earliest(deadlines: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
        deadlines.into_iter().flatten().min()
    }
}
