//! Which indices of which SSRCs were sealed under one master key, so that none is sealed twice (RFC 7714 section 8: a
//! nonce used twice gives the authentication key away). Knows no bytes; `sealer` asks before it seals, once per packet.

use super::packet::SealError;
use crate::base::limits::{OUTGOING_SSRCS_PER_TRANSPORT_MAX, RETIRED_SSRCS_PER_TRANSPORT_MAX};
use crate::base::prefetch::{LINE, prefetch};
use crate::base::window::{Seen, Window};
use rustc_hash::{FxHashMap, FxHashSet};

/// Where a sealer keeps what it knows of an SSRC. Whoever has many of them keeps it with each: it spares the search. A
/// wrong one costs that search, and nothing else.
#[derive(Clone, Copy, Default, Debug)]
pub struct SealPlace(u32);

/// A packet needs the first line of it.
#[repr(C, align(64))]
struct Stream {
    /// None: retired.
    ssrc: Option<u32>,
    window: Window,
}

#[derive(Default)]
pub(super) struct Spent {
    streams: Vec<Stream>,
    free: Vec<u32>,
    places: FxHashMap<u32, SealPlace>,
    retired: FxHashSet<u32>,
}

impl Spent {
    /// Takes an index out of circulation.
    pub(super) fn spend(&mut self, place: &mut SealPlace, ssrc: u32, index: u64) -> Result<(), SealError> {
        if self.streams.get(place.0 as usize).is_none_or(|stream| stream.ssrc != Some(ssrc)) {
            match self.places.get(&ssrc) {
                Some(found) => *place = *found,
                None => return self.begin(place, ssrc, index),
            }
        }
        let window = &mut self.streams[place.0 as usize].window;
        if window.check(index) != Seen::New {
            return Err(SealError::IndexUsed);
        }
        // RFC 3711 section 3.3.1: the receiver resolves a distance of less than 2^15 rightly, and no other.
        if index.saturating_sub(window.highest()) >= 1 << 15 {
            return Err(SealError::Jump);
        }
        window.commit(index);
        Ok(())
    }

    fn begin(&mut self, place: &mut SealPlace, ssrc: u32, index: u64) -> Result<(), SealError> {
        if index > u64::from(u16::MAX) {
            return Err(SealError::FirstRollover);
        }
        if self.retired.contains(&ssrc) {
            return Err(SealError::Retired);
        }
        if self.places.len() >= OUTGOING_SSRCS_PER_TRANSPORT_MAX
            || self.retired.len() >= RETIRED_SSRCS_PER_TRANSPORT_MAX
        {
            return Err(SealError::SsrcLimit);
        }
        let stream = Stream { ssrc: Some(ssrc), window: Window::starting_at(index) };
        *place = match self.free.pop() {
            Some(free) => {
                self.streams[free as usize] = stream;
                SealPlace(free)
            }
            None => {
                self.streams.push(stream);
                SealPlace(self.streams.len() as u32 - 1)
            }
        };
        self.places.insert(ssrc, *place);
        Ok(())
    }

    /// Frees what is kept of an SSRC, which may not come back.
    pub(super) fn retire(&mut self, ssrc: u32) {
        let Some(SealPlace(place)) = self.places.remove(&ssrc) else { return };
        self.streams[place as usize].ssrc = None;
        self.free.push(place);
        self.retired.insert(ssrc);
    }

    /// The streams at these places will be asked about.
    pub(super) fn prefetch(&self, places: impl Iterator<Item = SealPlace>) {
        for stream in places.filter_map(|place| self.streams.get(place.0 as usize)) {
            prefetch(stream, LINE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_place_makes_no_difference() {
        let mut spent = Spent::default();
        let mut places = [SealPlace::default(), SealPlace(7), SealPlace(u32::MAX)];
        for (ssrc, place) in (1..).zip(&mut places) {
            assert_eq!(spent.spend(place, ssrc, 5), Ok(()));
        }
        places.reverse();
        for (ssrc, place) in (1..).zip(&mut places) {
            assert_eq!(spent.spend(place, ssrc, 5), Err(SealError::IndexUsed));
            assert_eq!(spent.spend(place, ssrc, 6), Ok(()));
            assert_eq!(spent.spend(place, ssrc, 6), Err(SealError::IndexUsed), "found by its place");
        }
        spent.retire(2);
        assert_eq!(spent.spend(&mut places[1], 2, 9), Err(SealError::Retired));
        let mut other = places[1];
        assert_eq!(spent.spend(&mut other, 4, 9), Ok(()), "it may have the place");
        assert_eq!(spent.spend(&mut places[1], 2, 10), Err(SealError::Retired));
    }
}
