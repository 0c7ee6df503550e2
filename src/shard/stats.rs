//! Counters of one shard, and the answers to get-stats and /metrics.

use crate::router::source::Origin;
use crate::shard::command::{
    ConsumerStats, Distribution, EncodingStats, Metrics, ProducerStats, Reply, Stats, StatsOf, TransportStats,
};
use crate::shard::drops::Drop;
use crate::shard::shard::Shard;
use crate::transport::link::Link;

#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    pub stun_answered: u64,
    pub handed_over: u64,
    pub taken_over: u64,
    pub handshakes_done: u64,
    pub handshakes_failed: u64,
    pub consent_lost: u64,
    pub transport_feedback: u64,
    pub remb: u64,
    pub nacks_unanswered: u64,
    pub key_frames_requested: u64,
    /// By the transports that are open.
    pub received: u64,
    pub faults: u64,
    pub histories_given_up: u64,
}

impl Shard {
    pub(super) fn stats(&self, of: StatsOf) -> Reply {
        Reply::Stats(match of {
            StatsOf::Transport(id) => self.transport_stats(id).map(Stats::Transport),
            StatsOf::Producer(id) => self.producer_stats(id).map(Stats::Producer),
            StatsOf::Consumer(id) => self.consumer_stats(id).map(Stats::Consumer),
        })
    }

    fn transport_stats(&self, id: crate::base::id::TransportId) -> Option<TransportStats> {
        let transport = self.transports.get(*self.transport_keys.get(&id)?)?;
        let srtp_profile = match &transport.link {
            Link::Up(up) => Some(up.profile.name()),
            _ => None,
        };
        Some(TransportStats {
            state: Shard::state_of(transport),
            remote: transport.ice.selected().map(|path| path.remote),
            srtp_profile,
            bytes_received: transport.traffic.bytes_received,
            packets_received: transport.traffic.packets_received,
            bytes_sent: transport.traffic.bytes_sent,
            packets_sent: transport.traffic.packets_sent,
        })
    }

    fn producer_stats(&self, id: crate::base::id::ProducerId) -> Option<ProducerStats> {
        let producer = self.producers.get(*self.producer_keys.get(&id)?)?;
        let transport = producer.transport.and_then(|key| self.transports.get(key));
        let encodings = producer.streams.iter().zip(&producer.spec.encodings).map(|(stream, spec)| EncodingStats {
            ssrc: stream.ssrc.map(|ssrc| ssrc.0),
            rid: spec.rid,
            packets_received: stream.packets,
            bytes_received: stream.bytes,
            packets_lost: stream.receiver.packets_lost(),
            packets_repaired: stream.repaired,
            jitter: stream.receiver.jitter(),
            nack_count: stream.nacks_sent,
            pli_count: stream.plis_sent,
            fir_count: stream.firs_sent,
            key_frames: stream.key_frames,
            round_trip_time: transport.and_then(|transport| transport.round_trip),
        });
        Some(ProducerStats {
            transport: transport.map(|transport| transport.id),
            paused: producer.paused,
            encodings: encodings.collect(),
        })
    }

    fn consumer_stats(&self, id: crate::base::id::ConsumerId) -> Option<ConsumerStats> {
        let consumer = self.consumers.get(*self.consumer_keys.get(&id)?)?;
        let sent = self.transports.get(consumer.transport)?.outgoing.get(consumer.outgoing)?.sent;
        Some(ConsumerStats {
            paused: consumer.paused,
            producer_paused: self.sources.get(consumer.source).is_some_and(|source| source.paused),
            withheld: self.sources.get(consumer.source).is_some_and(|source| source.withheld),
            waiting_key_frame: consumer.waits_for_key_frame(),
            packets_sent: sent.packets,
            bytes_sent: sent.bytes,
            packets_retransmitted: sent.retransmitted,
            nack_count: consumer.reports.nacks,
            pli_count: consumer.reports.plis,
            fir_count: consumer.reports.firs,
            packets_lost: consumer.reports.packets_lost,
            fraction_lost: consumer.reports.fraction_lost,
            round_trip_time: consumer.reports.round_trip,
        })
    }

    pub(super) fn metrics(&self) -> Reply {
        let sent = self.send_counts();
        let own = &self.counters;
        let in_history: usize =
            self.sources.iter().flat_map(|(_, source)| &source.encodings).map(|e| e.history.bytes_held()).sum();
        let relayed = self.sources.iter().filter(|(_, source)| matches!(source.origin, Origin::Relay(_))).count();
        let mut drops = self.drops.clone();
        drops.add(Drop::LostFromHistory, sent.lost_from_history);
        drops.add(Drop::EgressFull, self.forwarded.egress_full);
        drops.add(Drop::PacketTooLong, sent.too_long);
        drops.add(Drop::Unsealed, sent.unsealed);
        Reply::Metrics(Box::new(Metrics {
            counters: vec![
                ("forwarded_packets", "Packets handed to a consumer's egress", self.forwarded.forwarded),
                ("sent_packets", "Datagrams sent, retransmissions included", sent.packets),
                ("sent_runs", "Sends: each is one datagram or one run cut by the kernel", sent.runs),
                ("sent_packets_in_runs", "Datagrams that left in a run of two or more", sent.packets_in_long_runs),
                ("padding_bytes", "RTP padding added to make the packets of a run equally long", sent.padding_bytes),
                (
                    "withheld_waiting_key_frame",
                    "Packets not forwarded: the consumer waits for a keyframe",
                    self.forwarded.waiting_key_frame,
                ),
                (
                    "withheld_closed",
                    "Packets not forwarded: the consumer is paused or not connected",
                    self.forwarded.closed,
                ),
                (
                    "withheld_other_encoding",
                    "Packets not forwarded: another encoding is selected",
                    self.forwarded.other_encoding,
                ),
                (
                    "withheld_out_of_window",
                    "Packets not forwarded: older than the consumer's start, or twice",
                    self.forwarded.out_of_window,
                ),
                ("stun_answered", "Authenticated binding requests answered", own.stun_answered),
                ("handed_over_datagrams", "Datagrams passed to the shard that owns them", own.handed_over),
                ("taken_over_datagrams", "Datagrams another shard passed here", own.taken_over),
                ("dtls_handshakes", "DTLS handshakes completed with an announced certificate", own.handshakes_done),
                ("dtls_handshakes_failed", "DTLS handshakes that ended without keys", own.handshakes_failed),
                ("consent_lost", "Transports that fell silent for 30 s", own.consent_lost),
                ("transport_feedback", "Transport-cc feedback packets from receivers", own.transport_feedback),
                ("remb", "REMB packets from receivers", own.remb),
                ("nacks_unanswered", "Packets asked for again that the history no longer held", own.nacks_unanswered),
                ("key_frames_requested", "PLI and FIR sent to publishers", own.key_frames_requested),
                (
                    "histories_given_up",
                    "Histories emptied because all together outgrew the shard's budget",
                    own.histories_given_up,
                ),
                ("faults", "Panics caught; each closed the transport that was being handled", own.faults),
            ],
            gauges: vec![
                ("transports", "Transports on this shard", self.transports.len() as i64),
                ("producers", "Producers on this shard", self.producers.len() as i64),
                ("consumers", "Consumers on this shard", self.consumers.len() as i64),
                ("relayed_sources", "Producers of other shards that have consumers here", relayed as i64),
                ("peers", "Peers with anything on this shard", self.peers.len() as i64),
                ("paths", "Remote addresses that passed a check", self.paths.len() as i64),
                ("dtls_waiting", "DTLS datagrams that wait for the thread of handshakes", self.engine.waiting() as i64),
                ("history_bytes", "Memory of the packet histories", in_history as i64),
                (
                    "open_transports_received_packets",
                    "Packets received by the transports that are open now",
                    own.received as i64,
                ),
            ],
            histograms: vec![Distribution::of_runs(&sent)],
            drops: drops.all(),
        }))
    }
}
