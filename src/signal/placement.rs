//! Which shard a peer's transports live on, decided when it makes its first one and kept for its life. A channel
//! stays together until its shard is expected to be busy, then new peers spread (a packet crosses to another core
//! once, but it does cross). An operator of few, large channels may have it spread from the start.

use std::collections::BTreeMap;

use crate::base::id::ShardId;
use crate::shard::command::MediaKind;

/// Packets a second that a core is filled with up to before a channel leaves it: a margin below what one core was
/// measured to forward unsaturated, in short runs.
pub(super) const BUSY: u64 = 60_000;

/// What a peer costs that neither sends nor receives: checks, reports, timers.
const PER_PEER: u64 = 5;

/// Expected packets a second of one producer.
pub(super) const fn expected_rate(kind: MediaKind) -> u64 {
    match kind {
        MediaKind::Audio => 50,
        MediaKind::Video => 250,
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

/// A channel's share: how many of its peers are on each shard, and what each of them is expected to receive.
#[derive(Default, Debug)]
pub(super) struct Spread {
    peers: BTreeMap<ShardId, u64>,
    rate: u64,
}

pub(super) struct Placement {
    spread: ChannelSpread,
    /// Expected packets a second by shard, in the order of the settings.
    shards: Vec<(ShardId, u64)>,
}

impl Placement {
    pub(super) fn new(spread: ChannelSpread, shards: impl Iterator<Item = ShardId>) -> Placement {
        Placement { spread, shards: shards.map(|shard| (shard, 0)).collect() }
    }

    /// None only when there are no shards at all.
    pub(super) fn place(&mut self, spread: &mut Spread) -> Option<ShardId> {
        let cost = PER_PEER + spread.rate;
        let is_home = |&&(shard, load): &&(ShardId, u64)| match self.spread {
            ChannelSpread::Auto => spread.peers.contains_key(&shard) && load + cost <= BUSY,
            ChannelSpread::Always => false,
        };
        let home = self.shards.iter().filter(is_home);
        // `max_by_key` takes the last of equals, `min_by_key` the first: both follow the order of the settings.
        let shard = home
            .max_by_key(|(shard, _)| spread.peers.get(shard))
            .or_else(|| self.shards.iter().min_by_key(|(_, load)| *load))?
            .0;
        *spread.peers.entry(shard).or_default() += 1;
        self.add(shard, cost);
        Some(shard)
    }

    pub(super) fn remove(&mut self, spread: &mut Spread, shard: ShardId) {
        if let Some(peers) = spread.peers.get_mut(&shard) {
            *peers -= 1;
            if *peers == 0 {
                spread.peers.remove(&shard);
            }
            self.subtract(shard, PER_PEER + spread.rate);
        }
    }

    pub(super) fn producer_added(&mut self, spread: &mut Spread, kind: MediaKind) {
        let rate = expected_rate(kind);
        spread.rate += rate;
        for (&shard, peers) in &spread.peers {
            self.add(shard, rate * peers);
        }
    }

    pub(super) fn producer_removed(&mut self, spread: &mut Spread, kind: MediaKind) {
        let rate = expected_rate(kind);
        spread.rate = spread.rate.saturating_sub(rate);
        for (&shard, peers) in &spread.peers {
            self.subtract(shard, rate * peers);
        }
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = (ShardId, u64)> {
        self.shards.iter().copied()
    }

    fn add(&mut self, shard: ShardId, rate: u64) {
        for (_, load) in self.shards.iter_mut().filter(|(id, _)| *id == shard) {
            *load += rate;
        }
    }

    fn subtract(&mut self, shard: ShardId, rate: u64) {
        for (_, load) in self.shards.iter_mut().filter(|(id, _)| *id == shard) {
            *load = load.saturating_sub(rate);
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
        placement.loads().map(|(_, load)| load).collect()
    }

    #[test]
    fn small_channels_stay_together_and_channels_share_the_shards() {
        let mut placement = placement(ChannelSpread::Auto, 2);
        let (mut one, mut two) = (Spread::default(), Spread::default());
        let first: Vec<_> = (0..4).map(|_| placement.place(&mut one).unwrap()).collect();
        let second: Vec<_> = (0..4).map(|_| placement.place(&mut two).unwrap()).collect();
        assert_eq!(first, [ShardId(0); 4]);
        assert_eq!(second, [ShardId(1); 4]);
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
        placement.place(&mut hall);
        placement.producer_added(&mut hall, MediaKind::Video);
        placement.producer_added(&mut hall, MediaKind::Audio);
        for _ in 0..450 {
            placement.place(&mut hall);
        }
        let loads = loads(&placement);
        assert!(loads[0] <= BUSY && loads[0] > BUSY - 400, "{loads:?}");
        assert!(loads[1] <= BUSY && loads[1] > BUSY - 400 && loads[2] > 0, "one core after the other: {loads:?}");
        for _ in 0..450 {
            placement.place(&mut hall);
        }
        let loads: Vec<_> = placement.loads().map(|(_, load)| load).collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() < 400, "all full: evenly {loads:?}");
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
