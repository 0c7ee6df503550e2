//! The answers to get-stats and /metrics.

use crate::base::id::{ConsumerId, ProducerId, TransportId};
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::base::units::Bitrate;
use crate::media::encoding_choice::Allowance;
use crate::router::pass::ForwardCounts;
use crate::router::source::SourceOrigin;
use crate::router::verdict::{Verdict, verdict};
use crate::shard::command::{
    ConsumerStats, Distribution, EncodingStats, Metrics, ProducerStats, Reply, Stats, StatsOf, TransportStats,
    VerdictState,
};
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::shard::lanes::{LaneTotals, Lanes};
use crate::shard::ledger::ShardCounters;
use crate::shard::registry::Registry;
use crate::shard::transport_life;
use crate::transport::Transport;
use crate::transport::send_buffer::SendCounts;
use crate::transport::web_rtc::WebRtc;

pub(super) fn stats(registry: &mut Registry, now: Now, of: StatsOf) -> Reply {
    Reply::Stats(match of {
        StatsOf::Transport(id) => transport_stats(registry, now, id).map(Stats::Transport),
        StatsOf::Producer(id) => producer_stats(registry, now, id).map(Stats::Producer),
        StatsOf::Consumer(id) => consumer_stats(registry, now, id).map(Stats::Consumer),
    })
}

/// Brings the rates of the transport, and of everything on it, up to date.
pub(super) fn look_at_rates(registry: &mut Registry, now: Now, key: Key<Transport>) {
    let Some(transport) = registry.transports.get_mut(key) else { return };
    transport.look_at_rates(now.mono);
    for producer in &registry.wiring[key.slot()].producers {
        let streams = registry.producers.get_mut(*producer).into_iter().flat_map(|producer| &mut producer.streams);
        streams.for_each(|stream| stream.look_at_rates(now.mono));
    }
    for consumer in &registry.wiring[key.slot()].consumers {
        if let Some(consumer) = registry.consumers.get_mut(*consumer)
            && let Some(outgoing) = transport.outgoing.get(consumer.outgoing)
        {
            consumer.rate.look(now.mono, outgoing.sent.bytes);
        }
    }
}

fn transport_stats(registry: &mut Registry, now: Now, id: TransportId) -> Option<TransportStats> {
    let transport = registry.transports.get_mut(*registry.transport_keys.get(&id)?)?;
    transport.look_at_rates(now.mono);
    let web_rtc = transport.kind.web_rtc();
    Some(TransportStats {
        at: now.wall,
        state: transport_life::state_of(transport),
        path: web_rtc.map_or(transport.kind.exit(), |web_rtc| web_rtc.ice.selected()),
        nominated: web_rtc.is_some_and(|web_rtc| web_rtc.ice.is_nominated()),
        selected_candidate_pair_changes: web_rtc.map_or(0, |web_rtc| web_rtc.path_changes),
        ice_state: web_rtc.map(WebRtc::ice_state),
        dtls_state: web_rtc.map(|web_rtc| web_rtc.link.state()),
        srtp_profile: transport.kind.srtp().and_then(|srtp| srtp.profile()).map(|profile| profile.name()),
        bytes_received: transport.traffic.bytes_received,
        packets_received: transport.traffic.packets_received,
        bytes_sent: transport.traffic.bytes_sent,
        packets_sent: transport.traffic.packets_sent,
        recv_bitrate: transport.received_rate.bits_per_second(),
        send_bitrate: transport.sent_rate.bits_per_second(),
        round_trip_time: transport.round_trip,
        available_outgoing_bitrate: transport.bandwidth.as_ref().and_then(|bandwidth| bandwidth.congestion.available()),
    })
}

fn producer_stats(registry: &mut Registry, now: Now, id: ProducerId) -> Option<ProducerStats> {
    let producer = registry.producers.get_mut(*registry.producer_keys.get(&id)?)?;
    producer.streams.iter_mut().for_each(|stream| stream.look_at_rates(now.mono));
    let transport = producer.transport.and_then(|key| registry.transports.get(key));
    let source = registry.sources.get(producer.source);
    let encodings = producer.streams.iter().zip(&producer.spec.encodings).enumerate();
    let encodings = encodings.map(|(at, (stream, spec))| EncodingStats {
        ssrc: stream.ssrc.map(|ssrc| ssrc.0),
        rtx_ssrc: stream.rtx_ssrc.map(|ssrc| ssrc.0),
        rid: spec.rid,
        packets_received: stream.packets,
        bytes_received: stream.bytes,
        bitrate: stream.rate.bits_per_second(),
        packets_lost: stream.receiver.packets_lost(),
        fraction_lost: f64::from(stream.fraction_lost) / 256.0,
        packets_discarded: stream.discarded,
        packets_retransmitted: stream.retransmitted,
        packets_repaired: stream.repaired,
        jitter: stream.receiver.jitter(),
        nack_count: stream.nacks_sent,
        nack_packet_count: stream.nacked_packets,
        pli_count: stream.plis_sent,
        fir_count: stream.firs_sent,
        key_frames: stream.key_frames,
        frames_received: stream.frames,
        frames_per_second: stream.frame_rate.per_second(),
        round_trip_time: transport.and_then(|transport| transport.round_trip),
        last_packet: source.and_then(|source| source.active.last_packet_of(at as u8)).map(|last| now.mono.since(last)),
    });
    Some(ProducerStats {
        at: now.wall,
        transport: transport.map(|transport| transport.id),
        paused: producer.paused,
        encodings: encodings.collect(),
    })
}

fn consumer_stats(registry: &mut Registry, now: Now, id: ConsumerId) -> Option<ConsumerStats> {
    let consumer = registry.consumers.get_mut(*registry.consumer_keys.get(&id)?)?;
    let transport = registry.transports.get(consumer.transport)?;
    let outgoing = transport.outgoing.get(consumer.outgoing)?;
    let source = registry.sources.get(consumer.source)?;
    let sent = outgoing.sent;
    consumer.rate.look(now.mono, sent.bytes);
    let Verdict { state, since } = verdict(now.mono, consumer, source, transport);
    let reports = &consumer.reports;
    Some(ConsumerStats {
        at: now.wall,
        verdict: state,
        verdict_for: now.mono.since(since),
        ssrc: outgoing.ssrc.0,
        rtx_ssrc: outgoing.rtx.as_ref().map(|rtx| rtx.ssrc.0),
        paused: consumer.paused,
        producer_paused: source.paused,
        withheld: source.withheld,
        waiting_key_frame: consumer.waits_for_key_frame(),
        packets_sent: sent.packets,
        bytes_sent: sent.bytes,
        bitrate: consumer.rate.bits_per_second(),
        packets_retransmitted: sent.retransmitted,
        bytes_retransmitted: sent.retransmitted_bytes,
        nack_count: reports.nacks,
        nack_packet_count: reports.nacked_packets,
        pli_count: reports.plis,
        fir_count: reports.firs,
        packets_lost: reports.packets_lost,
        fraction_lost: reports.fraction_lost,
        jitter: Duration::from_secs_f64(f64::from(reports.jitter) / f64::from(source.clock_rate.max(1))),
        last_acknowledged: reports.advanced_at.map(|at| now.mono.since(at)),
        round_trip_time: reports.round_trip,
    })
}

/// The number of consumers by verdict. It looks at every consumer, for readers of metrics, never in the way of media.
fn verdicts(registry: &Registry, now: Now) -> Vec<(VerdictState, i64)> {
    let mut counted = VerdictState::ALL.map(|state| (state, 0));
    for (_, consumer) in registry.consumers.iter() {
        let source = registry.sources.get(consumer.source);
        let Some((source, transport)) = source.zip(registry.transports.get(consumer.transport)) else {
            continue;
        };
        let found = verdict(now.mono, consumer, source, transport).state;
        counted.iter_mut().filter(|(state, _)| *state == found).for_each(|(_, count)| *count += 1);
    }
    counted.to_vec()
}

pub(super) fn metrics(commons: &Commons, now: Now, paths: usize, dtls_waiting: usize, lanes: &Lanes) -> Reply {
    let sent = commons.outlet.buffer.counts;
    let mut drops = commons.ledger.drops.clone();
    drops.add(ShardDrop::LostFromHistory, sent.lost_from_history);
    drops.add(ShardDrop::EgressFull, commons.ledger.forwarded.egress_full);
    drops.add(ShardDrop::PacketTooLong, sent.too_long);
    drops.add(ShardDrop::Unsealed, sent.unsealed);
    drops.add(ShardDrop::UnprovedPath, sent.beyond_proof);
    let mut counters = forwarding_counters(&commons.ledger.forwarded, &sent);
    counters.extend(own_counters(&commons.ledger.counters));
    counters.extend(lane_counters(&lanes.totals()));
    let mut gauges = gauges(commons, paths, dtls_waiting);
    gauges.extend(lane_gauges(lanes));
    Reply::Metrics(Box::new(Metrics {
        counters,
        gauges,
        histograms: vec![Distribution::of_runs(&sent)],
        verdicts: verdicts(&commons.registry, now),
        drops: drops.all(),
    }))
}

fn forwarding_counters(forwarded: &ForwardCounts, sent: &SendCounts) -> Vec<(&'static str, &'static str, u64)> {
    vec![
        ("forwarded_packets", "Packets handed to a consumer's egress", forwarded.forwarded),
        ("sent_packets", "Datagrams sent, retransmissions included", sent.packets),
        ("sent_runs", "Sends: each is one datagram or one run cut by the kernel", sent.runs),
        ("sent_packets_in_runs", "Datagrams that left in a run of two or more", sent.packets_in_long_runs),
        ("padding_bytes", "RTP padding added to make the packets of a run equally long", sent.padding_bytes),
        (
            "withheld_waiting_key_frame",
            "Packets not forwarded: the consumer waits for a keyframe",
            forwarded.waiting_key_frame,
        ),
        ("withheld_closed", "Packets not forwarded: the consumer is paused or not connected", forwarded.closed),
        ("withheld_other_encoding", "Packets not forwarded: another encoding is selected", forwarded.other_encoding),
        ("withheld_other_layer", "Packets not forwarded: above the layers the consumer gets", forwarded.other_layer),
        (
            "withheld_out_of_window",
            "Packets not forwarded: older than the consumer's start, or twice",
            forwarded.out_of_window,
        ),
    ]
}

fn own_counters(own: &ShardCounters) -> Vec<(&'static str, &'static str, u64)> {
    vec![
        ("stun_answered", "Authenticated binding requests answered", own.stun_answered),
        ("handed_over_datagrams", "Datagrams passed to the shard that owns them", own.handed_over),
        ("taken_over_datagrams", "Datagrams another shard passed here", own.taken_over),
        ("dtls_handshakes", "DTLS handshakes completed with an announced certificate", own.handshakes_done),
        ("dtls_handshakes_failed", "DTLS handshakes that ended without keys", own.handshakes_failed),
        ("consent_lost", "Transports that fell silent for 30 s", own.consent_lost),
        ("paths_proved", "Paths that feedback has proved", own.paths_proved),
        ("transport_feedback", "Transport-cc feedback packets from receivers", own.transport_feedback),
        ("remb", "REMB packets from receivers", own.remb),
        ("bandwidth_probes", "Bursts of padding sent to see whether a path carries more", own.probes),
        ("nacks_unanswered", "Packets asked for again that the history no longer held", own.nacks_unanswered),
        ("key_frames_requested", "PLI and FIR sent to publishers", own.key_frames_requested),
        ("replays", "Consumers served from the history instead of by a new keyframe", own.replays),
        (
            "histories_given_up",
            "Histories emptied because all together outgrew the shard's budget",
            own.histories_given_up,
        ),
        ("faults", "Panics caught; each closed the transport that was being handled", own.faults),
    ]
}

fn lane_counters(lanes: &LaneTotals) -> Vec<(&'static str, &'static str, u64)> {
    let [(datagrams_in, datagrams_out), (bytes_in, bytes_out), (records_in, records_out)] =
        [lanes.datagrams, lanes.bytes, lanes.records].map(|[into, out]| (into, out));
    vec![
        ("lane_received_datagrams", "Datagrams that came over lanes from other nodes", datagrams_in),
        ("lane_sent_datagrams", "Datagrams sent over lanes to other nodes", datagrams_out),
        ("lane_received_bytes", "Bytes of datagrams that came over lanes", bytes_in),
        ("lane_sent_bytes", "Bytes of datagrams sent over lanes", bytes_out),
        ("lane_received_records", "Records in datagrams that came over lanes", records_in),
        ("lane_sent_records", "Records in datagrams sent over lanes", records_out),
        ("lane_lost", "Datagrams of lanes that the other node did not get", lanes.lost),
        ("lane_resent", "Packets sent over a lane again because they were lost", lanes.resent),
        ("lane_resent_too_late", "Lost packets of lanes that were too old to be sent again", lanes.resent_too_late),
    ]
}

fn lane_gauges(lanes: &Lanes) -> Vec<(&'static str, &'static str, i64)> {
    let [opening, up, waiting] = lanes.states().map(|count| count as i64);
    let rtt = i64::try_from(lanes.rtt().as_micros()).unwrap_or(i64::MAX);
    vec![
        ("lanes_opening", "Lanes to shards of other nodes that are in their handshake", opening),
        ("lanes_up", "Lanes to shards of other nodes that are up", up),
        ("lanes_waiting", "Lanes that could not be opened, or are dead, and wait for another attempt", waiting),
        ("lane_rtt_us", "The longest round trip of all lanes in microseconds", rtt),
        ("imports", "Producers of other nodes that come over lanes", lanes.imports() as i64),
        ("exports", "Subscriptions of other nodes to producers of this shard", lanes.exports() as i64),
    ]
}

fn gauges(commons: &Commons, paths: usize, dtls_waiting: usize) -> Vec<(&'static str, &'static str, i64)> {
    let histories = commons.registry.sources.iter().flat_map(|(_, source)| &source.encodings);
    let in_history: usize = histories.map(|encoding| encoding.history.bytes_held()).sum();
    let relayed =
        commons.registry.sources.iter().filter(|(_, source)| matches!(source.origin, SourceOrigin::Relay(_))).count();
    let bandwidths = || commons.registry.transports.iter().filter_map(|(_, transport)| transport.bandwidth.as_ref());
    let short = bandwidths().filter(|bandwidth| bandwidth.short);
    let available: u64 = bandwidths().filter_map(|bandwidth| bandwidth.congestion.available()).map(Bitrate::bps).sum();
    let withheld = commons.registry.consumers.iter().filter(|(_, consumer)| consumer.allowance == Allowance::Paused);
    vec![
        ("transports", "Transports on this shard", commons.registry.transports.len() as i64),
        ("producers", "Producers on this shard", commons.registry.producers.len() as i64),
        ("consumers", "Consumers on this shard", commons.registry.consumers.len() as i64),
        ("relayed_sources", "Producers of other shards that have consumers here", relayed as i64),
        ("short_transports", "Transports that are sent less than they would take, or nearly", short.count() as i64),
        (
            "available_outgoing_bits",
            "Bits a second that the paths of all transports with an estimate carry",
            available as i64,
        ),
        (
            "consumers_without_bandwidth",
            "Consumers that are paused because the bandwidth does not suffice",
            withheld.count() as i64,
        ),
        ("peers", "Peers with anything on this shard", commons.registry.peers.len() as i64),
        ("paths", "Remote addresses that passed a check", paths as i64),
        ("dtls_waiting", "DTLS datagrams that wait for the thread of handshakes", dtls_waiting as i64),
        ("history_bytes", "Memory of the packet histories", in_history as i64),
        (
            "open_transports_received_packets",
            "Packets received by the transports that are open now",
            commons.ledger.counters.received as i64,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, video};

    #[test]
    fn objects_are_found_by_id_and_told_with_their_counts() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.connected(2);
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 2, 7, HERE);
        let Fixture { commons, now, .. } = &mut fixture;
        let Reply::Stats(Some(Stats::Consumer(consumer))) =
            stats(&mut commons.registry, *now, StatsOf::Consumer(ConsumerId(3)))
        else {
            panic!()
        };
        assert_eq!((consumer.ssrc, consumer.waiting_key_frame), (3_000, true));
        assert_eq!(stats(&mut commons.registry, *now, StatsOf::Producer(ProducerId(8))), Reply::Stats(None));
        let Reply::Metrics(metrics) = metrics(commons, *now, 5, 6, &Lanes::new(None, HERE)) else { panic!() };
        let gauge = |name| metrics.gauges.iter().find(|(known, ..)| *known == name).map(|(.., value)| *value);
        assert_eq!(["transports", "consumers", "paths", "dtls_waiting"].map(gauge), [2, 1, 5, 6].map(Some));
        let waiting = metrics.verdicts.iter().map(|(_, count)| count).sum::<i64>();
        assert_eq!(waiting, 1, "each consumer has one verdict");
    }
}
