//! Where an incoming SRTP or SRTCP packet lies in its stream: the rollover counter is guessed (RFC 3711 section
//! 3.3.1), the index held against a replay window, and an SSRC gets state only when a packet of it was verified.
//! A guess can be one rollover short: before the first packet that we saw, or in a long gap. Then the next counter is
//! tried, once, and counts when the tag holds under it.
//! The newest SSRCs have a window each; older ones are parked with their highest index, so that coming back costs
//! them nothing and replaying them gains nothing.

use super::packet::RTP_INDEX_MAX;
use crate::base::limits::{INCOMING_SSRCS_PER_TRANSPORT_MAX, PARKED_SSRCS_PER_TRANSPORT_MAX};
use crate::base::prefetch::{prefetch, prefetch_at};
use crate::base::seq::Seq;
use crate::base::window::{Seen, Window};
use crate::secure::dropped::SecureDrop;

/// The tables behind one master key; RTP and RTCP have one each.
#[derive(Default)]
pub(super) struct ReceivedIndices {
    /// Beside `streams`, and of its length: what is searched is dense.
    ssrcs: Vec<u32>,
    streams: Vec<Stream>,
    last: usize,
    parked: Vec<(u32, u64)>,
    clock: u64,
}

struct Stream {
    window: Window,
    /// A tag did not hold since the last that did: the counter may be behind.
    doubted: bool,
    used: u64,
}

/// What is known of an SSRC: given out by `place_*`, taken back by `commit`.
#[derive(Clone, Copy)]
pub(super) enum SsrcPlace {
    Stream(usize),
    Parked(usize),
    New,
}

/// Under which indices an RTP packet may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Indices {
    One(u64),
    /// The likelier, and the same a rollover later.
    Either(u64, u64),
}

const ROLLOVER: u64 = 1 << 16;

impl ReceivedIndices {
    /// A packet of the SSRC that came last will be placed.
    pub(super) fn prefetch(&self) {
        prefetch_at(self.ssrcs.as_ptr(), 1);
        if let Some(stream) = self.streams.get(self.last) {
            prefetch(stream, size_of::<Stream>());
        }
    }

    /// The index of an RTP packet, if it may be opened.
    pub(super) fn place_rtp(&mut self, ssrc: u32, seq: Seq) -> Result<(Indices, SsrcPlace), SecureDrop> {
        let place = self.find(ssrc);
        let (highest, sure) = match place {
            SsrcPlace::Stream(at) => (self.streams[at].window.highest(), !self.streams[at].doubted),
            SsrcPlace::Parked(at) => (self.parked[at].1, false),
            SsrcPlace::New => (u64::from(seq.0), false),
        };
        let guess = nearest(highest, seq);
        let within = |index: &u64| *index <= RTP_INDEX_MAX;
        let later = guess.checked_add_unsigned(ROLLOVER).and_then(|later| u64::try_from(later).ok()).filter(within);
        let guess = u64::try_from(guess).ok().filter(within).ok_or(SecureDrop::TooOld);
        let guess = guess.and_then(|index| self.admit(place, index).map(|()| index));
        match (guess, later) {
            (Ok(index), Some(later)) if !sure => Ok((Indices::Either(index, later), place)),
            (Ok(index), _) => Ok((Indices::One(index), place)),
            // So far behind that it is rather ahead, in a stream that skipped half the numbers.
            (Err(SecureDrop::TooOld), Some(later)) => Ok((Indices::One(later), place)),
            (Err(why), _) => Err(why),
        }
    }

    /// No tag held: the next packet of the SSRC is tried under the next counter, too.
    pub(super) fn doubt(&mut self, place: SsrcPlace) {
        if let SsrcPlace::Stream(at) = place {
            self.streams[at].doubted = true;
        }
    }

    /// Whether an RTCP packet may be opened; it names its index itself.
    pub(super) fn place_rtcp(&mut self, ssrc: u32, index: u32) -> Result<SsrcPlace, SecureDrop> {
        let place = self.find(ssrc);
        self.admit(place, u64::from(index))?;
        Ok(place)
    }

    /// The packet's tag was right.
    pub(super) fn commit(&mut self, ssrc: u32, index: u64, place: SsrcPlace) {
        self.clock += 1;
        let window = match place {
            SsrcPlace::Stream(at) => {
                let stream = &mut self.streams[at];
                stream.window.commit(index);
                (stream.doubted, stream.used) = (false, self.clock);
                self.last = at;
                return;
            }
            SsrcPlace::Parked(at) => {
                let (_, highest) = self.parked.swap_remove(at);
                let mut window = Window::closed_up_to(highest);
                window.commit(index);
                window
            }
            SsrcPlace::New => Window::starting_at(index),
        };
        let stream = Stream { window, doubted: false, used: self.clock };
        if self.streams.len() < INCOMING_SSRCS_PER_TRANSPORT_MAX {
            self.ssrcs.push(ssrc);
            self.streams.push(stream);
            self.last = self.streams.len() - 1;
            return;
        }
        let oldest = (0..self.streams.len()).min_by_key(|&at| self.streams[at].used).unwrap_or_default();
        self.parked.push((self.ssrcs[oldest], self.streams[oldest].window.highest()));
        self.ssrcs[oldest] = ssrc;
        self.streams[oldest] = stream;
        self.last = oldest;
    }

    fn find(&self, ssrc: u32) -> SsrcPlace {
        if self.ssrcs.get(self.last) == Some(&ssrc) {
            return SsrcPlace::Stream(self.last);
        }
        if let Some(at) = self.ssrcs.iter().position(|&known| known == ssrc) {
            return SsrcPlace::Stream(at);
        }
        self.parked.iter().position(|&(known, _)| known == ssrc).map_or(SsrcPlace::New, SsrcPlace::Parked)
    }

    fn admit(&self, place: SsrcPlace, index: u64) -> Result<(), SecureDrop> {
        match place {
            SsrcPlace::Stream(at) => match self.streams[at].window.check(index) {
                Seen::New => Ok(()),
                Seen::Already => Err(SecureDrop::Replayed),
                Seen::Unknown => Err(SecureDrop::TooOld),
            },
            SsrcPlace::Parked(at) if index > self.parked[at].1 => Ok(()),
            SsrcPlace::Parked(_) => Err(SecureDrop::TooOld),
            SsrcPlace::New if self.parked.len() >= PARKED_SSRCS_PER_TRANSPORT_MAX => Err(SecureDrop::UnknownSsrcLimit),
            SsrcPlace::New => Ok(()),
        }
    }
}

/// RFC 3711 section 3.3.1: of the indices that end in `seq`, the one nearest to the highest so far. Below zero: it would be
/// from before the first.
fn nearest(highest: u64, seq: Seq) -> i64 {
    highest.cast_signed() + i64::from(seq.ahead_of(Seq(highest as u16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(received: &mut ReceivedIndices, ssrc: u32, seq: u16) -> Result<u64, SecureDrop> {
        let (indices, place) = received.place_rtp(ssrc, Seq(seq))?;
        let (Indices::One(index) | Indices::Either(index, _)) = indices;
        let highest = match place {
            SsrcPlace::Stream(at) => received.streams[at].window.highest(),
            SsrcPlace::Parked(at) => received.parked[at].1,
            SsrcPlace::New => index,
        };
        // Only one that skipped half of all numbers would have a tag for it.
        if index >= highest + ROLLOVER / 2 {
            return Err(SecureDrop::TooOld);
        }
        received.commit(ssrc, index, place);
        Ok(index)
    }

    #[test]
    fn the_rollover_counter_follows_the_highest_index() {
        let mut received = ReceivedIndices::default();
        assert_eq!(take(&mut received, 1, 65_530), Ok(65_530));
        assert_eq!(take(&mut received, 1, 3), Ok(65_539));
        assert_eq!(take(&mut received, 1, 65_535), Ok(65_535));
        assert_eq!(take(&mut received, 1, 65_535), Err(SecureDrop::Replayed));
        assert_eq!(take(&mut received, 1, 40_000), Err(SecureDrop::TooOld));
        assert_eq!(take(&mut received, 2, 5), Ok(5));
        assert_eq!(take(&mut received, 2, 65_530), Err(SecureDrop::TooOld), "before the first rollover");
        received.commit(3, RTP_INDEX_MAX, SsrcPlace::New);
        assert_eq!(take(&mut received, 3, 1), Err(SecureDrop::TooOld), "the keys are used up");
    }

    #[test]
    fn the_next_counter_is_a_second_guess_where_the_first_is_not_sure() {
        let mut received = ReceivedIndices::default();
        let place = |received: &mut ReceivedIndices, seq| received.place_rtp(1, Seq(seq)).unwrap().0;
        assert_eq!(place(&mut received, 2), Indices::Either(2, 65_538), "what came before it may be lost");
        take(&mut received, 1, 2).unwrap();
        assert_eq!(place(&mut received, 3), Indices::One(3));
        assert_eq!(place(&mut received, 40_000), Indices::One(40_000), "not 25,538 before the first");
        let (_, doubted) = received.place_rtp(1, Seq(3)).unwrap();
        received.doubt(doubted);
        assert_eq!(place(&mut received, 3), Indices::Either(3, 65_539), "a whole turn may be lost");
        take(&mut received, 1, 3).unwrap();
        assert_eq!(place(&mut received, 4), Indices::One(4));
        assert_eq!(received.place_rtp(1, Seq(3)).err(), Some(SecureDrop::Replayed));
        received.commit(1, RTP_INDEX_MAX, doubted);
        assert_eq!(received.place_rtp(1, Seq(30_000)).err(), Some(SecureDrop::TooOld), "no counter follows");
    }

    #[test]
    fn ssrcs_beyond_the_windows_are_parked_and_come_back() {
        let mut received = ReceivedIndices::default();
        take(&mut received, 1_000_000, 65_000).unwrap();
        take(&mut received, 1_000_000, 10).unwrap();
        for ssrc in 0..INCOMING_SSRCS_PER_TRANSPORT_MAX as u32 {
            take(&mut received, ssrc, 7).unwrap();
        }
        assert_eq!(received.parked, [(1_000_000, 65_546)]);
        assert_eq!(take(&mut received, 1_000_000, 10), Err(SecureDrop::TooOld), "no replay");
        assert_eq!(take(&mut received, 1_000_000, 11), Ok(65_547), "the rollover counter was kept");
        assert_eq!(take(&mut received, 1_000_000, 10), Err(SecureDrop::Replayed));
        assert_eq!(received.parked, [(0, 7)]);
    }

    #[test]
    fn ssrcs_are_bounded() {
        let mut received = ReceivedIndices::default();
        let bound = (INCOMING_SSRCS_PER_TRANSPORT_MAX + PARKED_SSRCS_PER_TRANSPORT_MAX) as u32;
        (0..bound).for_each(|ssrc| assert!(take(&mut received, ssrc, 1).is_ok()));
        assert_eq!(take(&mut received, bound, 1), Err(SecureDrop::UnknownSsrcLimit));
        assert_eq!(take(&mut received, 0, 2), Ok(2));
        assert_eq!(take(&mut received, bound - 1, 2), Ok(2));
    }

    #[test]
    fn a_place_alone_moves_nothing() {
        let mut received = ReceivedIndices::default();
        for ssrc in 0..1_000 {
            received.place_rtp(ssrc, Seq(9)).unwrap();
            received.place_rtcp(ssrc, 9).unwrap();
        }
        assert!(received.streams.is_empty() && received.parked.is_empty());
    }
}
