//! The bandwidth towards each client: feedback goes into its transport's estimate, and what comes of that to the
//! transport's consumers, its pacer and its probes; and the bounds that clients set themselves.

use crate::base::id::{ConsumerId, TransportId};
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::base::units::Bitrate;
use crate::media::allocation::{Demand, Granted};
use crate::media::layers::{Allowance, Layers};
use crate::router::consumer::{Consumer, Flow};
use crate::shard::settling::Share;
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::transport::outgoing::Outgoing;
use crate::wire::extension::Extension;
use crate::wire::transport_cc::TransportCc;

/// A target over so many times what is sent leaves room for every burst: no pacing.
const AMPLE: u64 = 3;
/// So much more flows than the path carries, in percent, that little of it arrives whole.
const FLOOD: u64 = 150;
/// Then the queue on the way is let drain, but not for longer than this.
const REST_MAX: Duration = Duration::from_millis(500);
/// Encoders overshoot: so much more than measured is wanted, in percent.
const MARGIN: u64 = 115;

impl Shard {
    pub(super) fn transport_feedback(&mut self, now: Now, key: Key<Transport>, feedback: &TransportCc<'_>) {
        self.counters.transport_feedback += 1;
        let Some(transport) = self.transports.get_mut(key).filter(|transport| !transport.outgoing.is_empty()) else {
            return;
        };
        let bandwidth = transport.bandwidth.get_or_insert_default();
        bandwidth.congestion.on_feedback(now.mono, &mut transport.egress.log, feedback);
        self.share_later(key, Share::IfDue);
    }

    pub(super) fn remb(&mut self, key: Key<Transport>, rate: Bitrate) {
        self.counters.remb += 1;
        let Some(transport) = self.transports.get_mut(key).filter(|transport| !transport.outgoing.is_empty()) else {
            return;
        };
        transport.bandwidth.get_or_insert_default().congestion.on_remb(rate);
        self.share_later(key, Share::IfDue);
    }

    /// What is due of it without any feedback.
    pub(super) fn look_after_bandwidth(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.transports.get_mut(key) else { return };
        let open = transport.is_open();
        let Some(bandwidth) = &mut transport.bandwidth else { return };
        if open {
            bandwidth.congestion.on_silence(now.mono, &transport.egress.log);
            self.share_if_due(now, key);
        }
    }

    pub(super) fn share_if_due(&mut self, now: Now, key: Key<Transport>) {
        let Some(bandwidth) = self.transports.get(key).and_then(|transport| transport.bandwidth.as_ref()) else {
            return;
        };
        if bandwidth.is_due(now.mono) {
            self.share_bandwidth(now, key);
        } else {
            self.probe(now, key);
        }
    }

    /// Shares the bandwidth out anew. Nothing to do where none is known.
    pub(super) fn share_bandwidth(&mut self, now: Now, key: Key<Transport>) {
        if self.transports.get(key).is_none_or(|transport| transport.bandwidth.is_none()) {
            return;
        }
        let (consumers, mut demands) = self.demands(now, key);
        let Some(transport) = self.transports.get_mut(key) else { return };
        let Some(bandwidth) = &mut transport.bandwidth else { return };
        let repairs = bandwidth.repairs.as_ref().map_or(0, |repairs| repairs.rate(now.mono).bps());
        let target = bandwidth.begin(now.mono);
        let wanted: u64 = demands.iter().map(|demand| demand.wants().bps()).sum();
        bandwidth.congestion.set_wanted(Bitrate(wanted / 100 * MARGIN));
        let flows: u64 = demands.iter().map(|demand| demand.gets().bps()).sum();
        let floods = target.is_some_and(|target| flows > target.bps() / 100 * FLOOD);
        // What is resent comes out of the same bandwidth.
        let rest = target.map(|target| Bitrate(target.bps().saturating_sub(repairs).max(target.bps() / 2)));
        bandwidth.allocator.allocate(now.mono, rest, &mut demands);
        let given: u64 = demands.iter().map(|demand| demand.gets().bps()).sum();
        if given >= wanted {
            bandwidth.congestion.relax(now.mono);
        }
        bandwidth.short = target.is_some_and(|target| target.bps() < given * AMPLE || given < wanted);
        let pace = target.filter(|_| bandwidth.short);
        bandwidth.bound_repairs(now.mono, pace, Bitrate(given));
        transport.egress.pace(now.mono, pace);
        if floods {
            transport.egress.rest(bandwidth.congestion.queue().min(REST_MAX));
        }
        for (consumer, demand) in consumers.into_iter().zip(&demands) {
            self.grant(now, consumer, demand);
            if floods {
                self.leave_at_once(now, consumer);
            }
        }
        self.probe(now, key);
        let deadline = self
            .transports
            .get(key)
            .and_then(|transport| transport.bandwidth.as_ref()?.deadline(&transport.egress.log));
        if let Some(at) = deadline {
            self.arm(key, at.max(now.mono + Self::PROBE_GAP_MIN));
        }
    }

    /// What each consumer of the transport that could flow would take.
    fn demands(&self, now: Now, key: Key<Transport>) -> (Vec<Key<Consumer>>, Vec<Demand>) {
        let mut consumers = Vec::new();
        let mut demands = Vec::new();
        for consumer_key in &self.wiring[key.slot()].consumers {
            let Some(consumer) = self.consumers.get(*consumer_key) else { continue };
            let Some(source) = self.sources.get(consumer.source) else { continue };
            if consumer.paused || source.paused || !self.takes_of_estimate(key, consumer) {
                continue;
            }
            let mut ladder = source.ladder(now.mono);
            if let Some(layered) = &consumer.layered {
                let (ceiling, lowest) = (layered.ceiling(), ladder[0]);
                ladder.retain(|(layers, _)| *layers == layers.at_most(ceiling));
                drop_slide_shows(&mut ladder);
                if ladder.is_empty() {
                    ladder.push(lowest);
                }
            }
            consumers.push(*consumer_key);
            demands.push(Demand {
                audio: !consumer.codec.is_video(),
                priority: consumer.priority,
                // Who begins must fit with a reserve like any who asks for more.
                granted: granted(consumer.allowance, &ladder).filter(|_| consumer.flow != Flow::Closed),
                ladder,
            });
        }
        (consumers, demands)
    }

    /// Audio flows in any case; where it has no transport-wide numbers, the estimate is of the rest alone.
    fn takes_of_estimate(&self, key: Key<Transport>, consumer: &Consumer) -> bool {
        let Some(transport) = self.transports.get(key) else { return false };
        let heard = transport.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.congestion.is_heard());
        let numbered = |stream: &Outgoing| stream.extensions.contains(Extension::TransportCc);
        consumer.codec.is_video() || !heard || transport.outgoing.get(consumer.outgoing).is_some_and(numbered)
    }

    fn grant(&mut self, now: Now, key: Key<Consumer>, demand: &Demand) {
        let allowance = match demand.granted {
            None => Allowance::Paused,
            Some(step) if step + 1 >= demand.ladder.len() => Allowance::Unlimited,
            Some(step) => Allowance::UpTo(demand.ladder[step].0),
        };
        self.allow(now, key, allowance);
    }

    /// Starts a probe when it is time for one and there is a stream to send padding on.
    fn probe(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.transports.get_mut(key).filter(|transport| transport.is_open()) else { return };
        let stream = transport.outgoing.iter().find(|(_, stream)| {
            stream.rtx.is_some() && stream.sent.packets > 0 && stream.extensions.contains(Extension::TransportCc)
        });
        let (Some((stream, _)), Some(bandwidth)) = (stream, &mut transport.bandwidth) else { return };
        if bandwidth.congestion.target().is_none() {
            return;
        }
        let Some(cluster) = bandwidth.congestion.poll_probe(now.mono) else { return };
        let was_empty = transport.egress.is_empty();
        transport.egress.start_probe(now.mono, cluster, stream);
        self.counters.probes += 1;
        if was_empty {
            self.dirty.push(key);
        }
    }

    pub(super) fn set_priority(&mut self, id: ConsumerId, priority: u8) {
        let Some(consumer) = self.consumer_keys.get(&id).and_then(|key| self.consumers.get_mut(*key)) else { return };
        consumer.priority = priority;
        let transport = consumer.transport;
        self.share_later(transport, Share::Anew);
    }

    pub(super) fn set_max_bitrate(
        &mut self,
        now: Now,
        id: TransportId,
        incoming: Option<Bitrate>,
        outgoing: Option<Bitrate>,
    ) {
        let Some(key) = self.transport_keys.get(&id).copied() else { return };
        let Some(transport) = self.transports.get_mut(key) else { return };
        let bound = |rate: Bitrate| (rate > Bitrate(0)).then_some(rate);
        if let Some(rate) = incoming {
            transport.max_incoming = bound(rate);
            // Said with the next report, and with each after it.
            transport.reports_at = transport.reports_at.map(|at| at.min(now.mono));
            self.arm(key, now.mono);
        }
        if let Some(rate) = outgoing
            && let Some(transport) = self.transports.get_mut(key)
        {
            transport.bandwidth.get_or_insert_default().congestion.set_max(bound(rate));
            self.share_later(key, Share::Anew);
        }
    }

    /// Between two looks for something to probe.
    const PROBE_GAP_MIN: Duration = Duration::from_millis(5);
}

/// A larger picture at a quarter of its frame rate is worth less than a smaller one at all of its.
fn drop_slide_shows(ladder: &mut Vec<(Layers, Bitrate)>) {
    let Some(lowest) = ladder.first().map(|(layers, _)| layers.spatial) else { return };
    let all = ladder.clone();
    let top = |spatial| all.iter().filter(|(of, _)| of.spatial == spatial).map(|(of, _)| of.temporal).max();
    ladder.retain(|(of, _)| of.spatial == lowest || Some(of.temporal + 1) >= top(of.spatial));
}

/// The step of its ladder that a consumer has.
fn granted(allowance: Allowance, ladder: &[(Layers, Bitrate)]) -> Granted {
    match allowance {
        Allowance::Paused => None,
        Allowance::Unlimited => ladder.len().checked_sub(1),
        Allowance::UpTo(most) => {
            let rank = |layers: &Layers| (layers.spatial, layers.temporal);
            Some(ladder.iter().rposition(|(layers, _)| rank(layers) <= rank(&most)).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_picture_begins_at_half_its_frame_rate() {
        let step = |spatial, temporal| (Layers { spatial, temporal }, Bitrate::kbps(100));
        let left = |temporal: [u8; 2]| {
            let all = (0..2).flat_map(|spatial| (0..temporal[usize::from(spatial)]).map(move |of| step(spatial, of)));
            let mut ladder: Vec<_> = all.collect();
            drop_slide_shows(&mut ladder);
            ladder.iter().map(|(of, _)| (of.spatial, of.temporal)).collect::<Vec<_>>()
        };
        assert_eq!(left([3, 3]), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]);
        assert_eq!(left([3, 1]), [(0, 0), (0, 1), (0, 2), (1, 0)], "its only one is all of it");
        assert_eq!(left([2, 2]), [(0, 0), (0, 1), (1, 0), (1, 1)], "half of it");
    }
}
