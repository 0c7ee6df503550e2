//! A bitrate over the last two seconds: long enough that a keyframe does not look like a change. One meter a stream, or
//! one a layer of it; the allocation of bandwidth reads it.

use crate::base::id::Layers;
use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};

const SLOT: Duration = Duration::from_millis(250);
const SLOTS: usize = 8;
const WINDOW: Duration = Duration::from_secs(2);
/// A rate over less time than this means little.
const WINDOW_MIN: Duration = Duration::from_millis(250);
/// The bytes that a hop adds to a payload: RTP header, extensions, tag.
const OVERHEAD: u32 = 40;

#[derive(Clone, Debug)]
pub struct RateMeter {
    slots: [u32; SLOTS],
    /// The slot being filled, and its end; no packet came before `since`.
    at: usize,
    ends: Instant,
    since: Instant,
}

impl RateMeter {
    fn new(now: Instant) -> RateMeter {
        RateMeter { slots: [0; SLOTS], at: 0, ends: now + SLOT, since: now }
    }

    fn on_packet(&mut self, now: Instant, bytes: usize) {
        if now >= self.ends {
            self.turn(now);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(OVERHEAD);
        self.slots[self.at] = self.slots[self.at].saturating_add(bytes);
    }

    fn turn(&mut self, now: Instant) {
        if now.since(self.ends) >= WINDOW {
            // After such a silence the meter starts anew.
            *self = RateMeter::new(now);
        }
        while now >= self.ends {
            self.at = (self.at + 1) % SLOTS;
            self.slots[self.at] = 0;
            self.ends = self.ends + SLOT;
        }
    }

    pub fn rate(&self, now: Instant) -> Bitrate {
        let empty = now.since(self.ends).as_nanos() / SLOT.as_nanos() + u128::from(now >= self.ends);
        let empty = usize::try_from(empty).unwrap_or(SLOTS).min(SLOTS);
        // The oldest slots have left the window, one for each that passed without a packet.
        let bytes: u64 = (0..SLOTS - empty).map(|back| u64::from(self.slots[(self.at + SLOTS - back) % SLOTS])).sum();
        let begun = now.since(self.ends + SLOT * empty as u32 - SLOT).min(SLOT);
        let span = (SLOT * (SLOTS as u32 - 1) + begun).min(now.since(self.since)).max(WINDOW_MIN);
        DataSize(bytes).per(span)
    }
}

/// A stream's rate by layer. Grows with the layers that are seen.
#[derive(Clone, Debug, Default)]
pub struct LayerRates {
    meters: Vec<(Layers, RateMeter)>,
}

/// Four spatial by four temporal layers are more than any encoder sends.
const LAYERS_MAX: usize = 16;
/// The layer number takes three bits.
const TEMPORAL_MAX: usize = 8;

impl LayerRates {
    pub fn on_packet(&mut self, now: Instant, layers: Layers, bytes: usize) {
        let known = self.meters.iter().position(|(known, _)| *known == layers);
        if known.is_none() && self.meters.len() < LAYERS_MAX {
            self.meters.push((layers, RateMeter::new(now)));
        }
        let at = known.unwrap_or(self.meters.len() - 1);
        let (known, meter) = &mut self.meters[at];
        if *known == layers {
            meter.on_packet(now, bytes);
        }
    }

    /// The temporal layers up to spatial layer `spatial`, lowest first, each with the rate of everything up to it: a
    /// higher layer needs those below it.
    pub fn up_to(&self, now: Instant, spatial: u8) -> impl Iterator<Item = (u8, Bitrate)> {
        let mut rates = [0; TEMPORAL_MAX];
        for (layers, meter) in self.meters.iter().filter(|(layers, _)| layers.spatial <= spatial) {
            rates[usize::from(layers.temporal).min(TEMPORAL_MAX - 1)] += meter.rate(now).bps();
        }
        let mut below = 0;
        (0..).zip(rates).filter(|(_, rate)| *rate > 0).map(move |(temporal, rate)| {
            below += rate;
            (temporal, Bitrate(below))
        })
    }

    pub fn total(&self, now: Instant) -> Bitrate {
        self.up_to(now, u8::MAX).last().map_or(Bitrate(0), |(_, rate)| rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    const BASE: Layers = Layers { spatial: 0, temporal: 0 };

    #[test]
    fn a_steady_stream_is_measured_from_the_start_and_forgotten_when_it_ends() {
        let mut rates = LayerRates::default();
        for ms in (0..10_000).step_by(10) {
            rates.on_packet(at(ms), BASE, 1_210);
            let kbps = rates.total(at(ms)).bps() / 1_000;
            assert!(ms < 500 || (970..=1_060).contains(&kbps), "{kbps} at {ms}");
        }
        let after = |ms: u64| rates.total(at(10_000 + ms)).bps() / 1_000;
        assert!((400..=550).contains(&after(1_000)), "{}", after(1_000));
        assert_eq!((after(2_100), after(100_000)), (0, 0));
        rates.on_packet(at(100_000), BASE, 1_210);
        assert!(rates.total(at(100_250)).bps() <= 40_000);
    }

    #[test]
    fn layers_add_up() {
        let mut rates = LayerRates::default();
        for ms in (0..4_000).step_by(10) {
            for (spatial, temporal, bytes) in [(0, 0, 85), (0, 1, 85), (1, 0, 585)] {
                rates.on_packet(at(ms), Layers { spatial, temporal }, bytes);
            }
        }
        for (spatial, expected) in [(0, [(0, 100), (1, 200)]), (1, [(0, 600), (1, 700)])] {
            let told: Vec<_> = rates.up_to(at(4_000), spatial).collect();
            assert_eq!(told.len(), 2, "{told:?}");
            for ((layer, rate), (expected, kbps)) in told.into_iter().zip(expected) {
                assert_eq!(layer, expected);
                assert!((rate.bps() / 1_000).abs_diff(kbps) <= kbps / 10, "{rate:?} of {kbps}");
            }
        }
    }

    #[test]
    fn what_a_stream_says_of_its_layers_cannot_grow_it() {
        let mut rates = LayerRates::default();
        for layer in 0..=255 {
            rates.on_packet(at(0), Layers { spatial: layer, temporal: layer }, 100);
        }
        assert_eq!(rates.meters.len(), LAYERS_MAX);
    }
}
