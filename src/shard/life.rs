//! The events about a transport for the log: how it was connected, its first packets, and its totals in the end.
//! Gathered when something is opened or closed and with the reports, never with a packet.

use crate::base::slab::Key;
use crate::base::time::{Duration, Instant, Now};
use crate::router::consumer::Consumer;
use crate::router::producer::Producer;
use crate::router::verdict::{State, Verdict, verdict};
use crate::shard::command::{Connected, Event, Totals};
use crate::shard::shard::Shard;
use crate::shard::wiring::Wiring;
use crate::transport::Transport;
use crate::transport::link::Link;

/// A shorter obstacle is part of any join.
const WORTH_TELLING: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Default, Debug)]
pub struct Life {
    /// When the first datagram of a handshake came or went.
    hello: Option<Instant>,
    /// Packets missing of what was received and of what was sent, of streams that have ended.
    lost_received: i64,
    lost_sent: i64,
    worst: Option<(State, Duration)>,
}

impl Life {
    fn stands(&mut self, now: Instant, Verdict { state, since }: Verdict) {
        // A wish is no fault.
        let wanted = matches!(state, State::Flowing | State::PausedByClient | State::ProducerPaused);
        let span = now.since(since);
        if !wanted && span >= WORTH_TELLING && self.worst.is_none_or(|(_, longest)| span > longest) {
            self.worst = Some((state, span));
        }
    }
}

impl Shard {
    pub(super) fn handshake_began(&mut self, now: Now, key: Key<Transport>) {
        self.wiring[key.slot()].life.hello.get_or_insert(now.mono);
    }

    /// `dtls` is the cipher suite.
    pub(super) fn tell_connected(&mut self, now: Now, key: Key<Transport>, dtls: &'static str) {
        let Some(transport) = self.transports.get(key) else { return };
        let (Some(path), Link::Up(up)) = (transport.ice.selected(), &transport.link) else { return };
        let handshake = now.mono.since(self.wiring[key.slot()].life.hello.unwrap_or(now.mono));
        let report = Box::new(Connected { path, dtls, srtp: up.profile.name(), handshake });
        self.events.push_back(Event::TransportConnected { transport: transport.id, report });
    }

    /// Called with its reports: about once a second.
    pub(super) fn note_verdicts(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.transports.get(key) else { return };
        let Wiring { consumers, life, .. } = &mut self.wiring[key.slot()];
        for consumer in consumers {
            if let Some(consumer) = self.consumers.get(*consumer)
                && let Some(source) = self.sources.get(consumer.source)
            {
                life.stands(now.mono, verdict(now.mono, consumer, source, transport));
            }
        }
    }

    pub(super) fn note_end_of_consumer(&mut self, now: Now, consumer: &Consumer) {
        let Some(transport) = self.transports.get(consumer.transport) else { return };
        let life = &mut self.wiring[consumer.transport.slot()].life;
        life.lost_sent += consumer.reports.packets_lost;
        if let Some(source) = self.sources.get(consumer.source) {
            life.stands(now.mono, verdict(now.mono, consumer, source, transport));
        }
    }

    pub(super) fn note_end_of_producer(&mut self, producer: &Producer) {
        let Some(key) = producer.transport.filter(|key| self.transports.get(*key).is_some()) else { return };
        let lost: i64 = producer.streams.iter().map(|stream| stream.receiver.packets_lost()).sum();
        self.wiring[key.slot()].life.lost_received += lost;
    }

    pub(super) fn tell_end(&mut self, transport: &Transport, life: Life) {
        let totals = Totals {
            bytes_received: transport.traffic.bytes_received,
            packets_received: transport.traffic.packets_received,
            bytes_sent: transport.traffic.bytes_sent,
            packets_sent: transport.traffic.packets_sent,
            lost_received: life.lost_received,
            lost_sent: life.lost_sent,
            worst: life.worst,
        };
        self.events.push_back(Event::TransportEnded { transport: transport.id, totals: Box::new(totals) });
    }
}
