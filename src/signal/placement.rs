//! The shard of a peer's transports, chosen when it makes its first one and kept for its life. A channel stays together
//! until its shard is busy, then new peers spread (a packet crosses to another core once, but it does cross). An
//! operator of few, large channels may have it spread from the start.
//!
//! A shard's load is counted twice. The expected load: every peer receives its channel's producers, each packet at the
//! CPU time of sealing and sending. It is known before the first packet, so that a rush of joins spreads evenly; a
//! peer's own media counts from its announcement. The measured load: the share of its core that a shard used in the
//! last second. It includes streams that are larger or smaller than most, but only afterwards, and it swings; so it
//! takes no part in the balance, and only keeps new peers off a shard that is full.

use std::collections::BTreeMap;

use crate::base::id::ShardId;
use crate::shard::command::MediaKind;

/// How much of a core is filled before a channel leaves it, in microseconds of CPU time a second: the rest is for
/// keyframes, handshakes, and producers that come later.
pub(super) const BUSY: u64 = 700_000;

/// The same for the measured load, in thousandths of the core.
const BUSY_PERMILLE: u32 = 700;

/// The cost of a peer that neither sends nor receives: checks, reports, timers.
const PER_PEER: u64 = 50;

/// The expected cost of each peer that receives a producer, in microseconds of CPU time a second: 50 packets of audio,
/// which mostly travel alone, at 7 µs, and 250 of video, in runs, at 3 µs. The producer's own peer counts as one of
/// them, for receiving from it.
pub(super) const fn expected_cost(kind: MediaKind) -> u64 {
    match kind {
        MediaKind::Audio => 50 * 7,
        MediaKind::Video => 250 * 3,
    }
}

/// Whether the peers of one channel keep to one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChannelSpread {
    /// As long as that shard is not busy.
    #[default]
    Auto,
    /// Never: every peer goes to the shard with the least load.
    Always,
}

/// A channel's share: the number of its peers on each shard, and the expected cost of each of them.
#[derive(Default, Debug)]
pub(super) struct Spread {
    peers: BTreeMap<ShardId, u64>,
    cost: u64,
}

struct ShardLoad {
    id: ShardId,
    expected: u64,
    measured_permille: u32,
}

impl ShardLoad {
    fn has_room(&self, cost: u64) -> bool {
        self.expected + cost <= BUSY && self.measured_permille <= BUSY_PERMILLE
    }
}

pub(super) struct Placement {
    spread: ChannelSpread,
    /// In the order of the settings.
    shards: Vec<ShardLoad>,
}

impl Placement {
    pub(super) fn new(spread: ChannelSpread, shards: impl Iterator<Item = ShardId>) -> Placement {
        let idle = |id| ShardLoad { id, expected: 0, measured_permille: 0 };
        Placement { spread, shards: shards.map(idle).collect() }
    }

    /// None only when there are no shards at all.
    pub(super) fn place(&mut self, spread: &mut Spread) -> Option<ShardId> {
        let cost = PER_PEER + spread.cost;
        let is_home = |shard: &&ShardLoad| match self.spread {
            ChannelSpread::Auto => spread.peers.contains_key(&shard.id) && shard.has_room(cost),
            ChannelSpread::Always => false,
        };
        let home = self.shards.iter().filter(is_home);
        // `max_by_key` takes the last of equals, `min_by_key` the first: both follow the order of the settings.
        let shard = home.max_by_key(|shard| spread.peers.get(&shard.id)).or_else(|| {
            self.shards.iter().min_by_key(|shard| (shard.measured_permille > BUSY_PERMILLE, shard.expected))
        });
        let id = shard?.id;
        *spread.peers.entry(id).or_default() += 1;
        self.change(id, |expected| expected + cost);
        Some(id)
    }

    /// As [`Placement::place`] does, but on this shard. False: there is no such shard.
    pub(super) fn place_on(&mut self, spread: &mut Spread, shard: ShardId) -> bool {
        if !self.shards.iter().any(|of| of.id == shard) {
            return false;
        }
        *spread.peers.entry(shard).or_default() += 1;
        let cost = PER_PEER + spread.cost;
        self.change(shard, |expected| expected + cost);
        true
    }

    pub(super) fn remove(&mut self, spread: &mut Spread, shard: ShardId) {
        if let Some(peers) = spread.peers.get_mut(&shard) {
            *peers -= 1;
            if *peers == 0 {
                spread.peers.remove(&shard);
            }
            self.change(shard, |expected| expected.saturating_sub(PER_PEER + spread.cost));
        }
    }

    pub(super) fn producer_added(&mut self, spread: &mut Spread, kind: MediaKind) {
        let cost = expected_cost(kind);
        spread.cost += cost;
        for (&shard, peers) in &spread.peers {
            self.change(shard, |expected| expected + cost * peers);
        }
    }

    pub(super) fn producer_removed(&mut self, spread: &mut Spread, kind: MediaKind) {
        let cost = expected_cost(kind);
        spread.cost = spread.cost.saturating_sub(cost);
        for (&shard, peers) in &spread.peers {
            self.change(shard, |expected| expected.saturating_sub(cost * peers));
        }
    }

    /// The share of its core that a shard used lately.
    pub(super) fn measured(&mut self, shard: ShardId, permille: u32) {
        for of in self.shards.iter_mut().filter(|of| of.id == shard) {
            of.measured_permille = permille;
        }
    }

    /// The expected cost of each shard's peers, in microseconds of CPU time a second.
    pub(super) fn expected(&self) -> impl Iterator<Item = (ShardId, u64)> {
        self.shards.iter().map(|shard| (shard.id, shard.expected))
    }

    /// Of all shards: the expected cost of their peers and how much they have room for, in microseconds of CPU time a
    /// second, and the mean share of a core that they used lately, in thousandths.
    pub(super) fn totals(&self) -> (u64, u64, u32) {
        let shards = self.shards.len() as u64;
        let expected = self.shards.iter().map(|shard| shard.expected).sum();
        let permille: u64 = self.shards.iter().map(|shard| u64::from(shard.measured_permille)).sum();
        (expected, BUSY * shards, (permille / shards.max(1)) as u32)
    }

    fn change(&mut self, shard: ShardId, change: impl Fn(u64) -> u64) {
        for of in self.shards.iter_mut().filter(|of| of.id == shard) {
            of.expected = change(of.expected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(spread: ChannelSpread, shards: u16) -> Placement {
        Placement::new(spread, (0..shards).map(ShardId))
    }

    fn loads(placement: &Placement) -> Vec<u64> {
        placement.expected().map(|(_, load)| load).collect()
    }

    /// `peers` join, and the first `producers` of them send audio and video.
    fn join(placement: &mut Placement, channel: &mut Spread, peers: usize, producers: usize) -> Vec<ShardId> {
        let one = |n| {
            let shard = placement.place(channel).unwrap();
            if n < producers {
                placement.producer_added(channel, MediaKind::Audio);
                placement.producer_added(channel, MediaKind::Video);
            }
            shard
        };
        (0..peers).map(one).collect()
    }

    /// One receiver of one peer that sends both.
    const VIEWER: u64 = PER_PEER + expected_cost(MediaKind::Audio) + expected_cost(MediaKind::Video);

    #[test]
    fn small_channels_stay_whole_and_share_the_shards() {
        let mut placement = placement(ChannelSpread::Auto, 2);
        let (mut one, mut two) = (Spread::default(), Spread::default());
        assert_eq!(join(&mut placement, &mut one, 8, 8), [ShardId(0); 8]);
        assert_eq!(join(&mut placement, &mut two, 8, 8), [ShardId(1); 8]);
    }

    #[test]
    fn a_channel_that_always_spreads_goes_to_the_least_load_each_time() {
        let mut placement = placement(ChannelSpread::Always, 2);
        let mut hall = Spread::default();
        let mut placed = Vec::new();
        for _ in 0..3 {
            placed.push(placement.place(&mut hall).unwrap());
            placement.producer_added(&mut hall, MediaKind::Audio);
        }
        // The third finds two alike and makes the first the busier one.
        placed.push(placement.place(&mut hall).unwrap());
        assert_eq!(placed, [ShardId(0), ShardId(1), ShardId(0), ShardId(1)]);
    }

    #[test]
    fn a_channel_that_fills_its_shard_spreads() {
        let mut placement = placement(ChannelSpread::Auto, 3);
        let mut hall = Spread::default();
        let a_core = (BUSY / VIEWER) as usize;
        let placed = join(&mut placement, &mut hall, a_core * 5 / 2, 1);
        assert!(placed.is_sorted(), "one core after the other");
        let after = loads(&placement);
        assert!(after.iter().all(|load| *load <= BUSY), "{after:?}");
        assert!(after[0].min(after[1]) > BUSY - VIEWER && after[2] > BUSY / 3, "{after:?}");
        join(&mut placement, &mut hall, a_core, 0);
        let after = loads(&placement);
        assert!(after.iter().all(|load| *load > BUSY - VIEWER), "{after:?}");
        assert!(after.iter().max().unwrap() - after.iter().min().unwrap() <= VIEWER, "all full: evenly {after:?}");
    }

    #[test]
    fn two_halls_that_grow_side_by_side_keep_to_a_shard_each() {
        let mut placement = placement(ChannelSpread::Auto, 2);
        let (mut one, mut two) = (Spread::default(), Spread::default());
        for _ in 0..BUSY / VIEWER / 2 {
            assert_eq!(placement.place(&mut one), Some(ShardId(0)));
            assert_eq!(placement.place(&mut two), Some(ShardId(1)));
        }
        placement.producer_added(&mut one, MediaKind::Video);
        placement.producer_added(&mut two, MediaKind::Video);
        assert_eq!((placement.place(&mut one), placement.place(&mut two)), (Some(ShardId(0)), Some(ShardId(1))));
    }

    #[test]
    fn a_shard_that_is_measured_busy_gets_no_new_peers_while_another_is_not() {
        for spread in [ChannelSpread::Auto, ChannelSpread::Always] {
            let mut placement = placement(spread, 2);
            let mut room = Spread::default();
            assert_eq!(placement.place(&mut room), Some(ShardId(0)));
            placement.measured(ShardId(0), BUSY_PERMILLE + 1);
            assert_eq!(join(&mut placement, &mut room, 4, 4), [ShardId(1); 4]);
            placement.measured(ShardId(0), BUSY_PERMILLE);
            placement.measured(ShardId(1), BUSY_PERMILLE + 1);
            assert_eq!(join(&mut placement, &mut room, 4, 4), [ShardId(0); 4]);
            placement.measured(ShardId(0), 1_000);
            join(&mut placement, &mut room, 40, 0);
            let after = loads(&placement);
            assert!(after[0].abs_diff(after[1]) <= PER_PEER + room.cost, "all busy: evenly {after:?}");
        }
    }

    #[test]
    fn many_channels_share_eight_shards_evenly() {
        let mut placement = placement(ChannelSpread::Auto, 8);
        let mut channels: Vec<Spread> = (0..60).map(|_| Spread::default()).collect();
        for (n, channel) in channels.iter_mut().enumerate() {
            let size = 2 + n * 7 % 11;
            let placed = join(&mut placement, channel, size, size);
            assert!(placed.iter().all(|shard| *shard == placed[0]), "whole: {placed:?}");
        }
        let after = loads(&placement);
        let (least, most) = (*after.iter().min().unwrap(), *after.iter().max().unwrap());
        let channel = 12 * (PER_PEER + 12 * (VIEWER - PER_PEER));
        assert!(most - least <= channel, "no further apart than one large channel: {after:?}");
    }

    #[test]
    fn all_load_goes_with_those_who_brought_it() {
        let mut placement = placement(ChannelSpread::Auto, 2);
        let mut spread = Spread::default();
        let mut placed = Vec::new();
        for kind in [MediaKind::Audio, MediaKind::Video, MediaKind::Audio] {
            placed.push(placement.place(&mut spread).unwrap());
            placement.producer_added(&mut spread, kind);
        }
        placement.producer_removed(&mut spread, MediaKind::Video);
        placement.remove(&mut spread, placed[1]);
        placement.producer_removed(&mut spread, MediaKind::Audio);
        placement.remove(&mut spread, placed[0]);
        placement.remove(&mut spread, placed[2]);
        placement.producer_removed(&mut spread, MediaKind::Audio);
        assert_eq!(loads(&placement), [0, 0]);
    }
}
