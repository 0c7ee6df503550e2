//! Where an incoming SRTP or SRTCP packet lies in its stream: the rollover counter is guessed (RFC 3711 section
//! 3.3.1), the index held against a replay window, and an SSRC gets state only when a packet of it was verified.
//! The newest SSRCs have a window each; older ones are parked with their highest index, so that coming back costs
//! them nothing and replaying them gains nothing.

use super::Dropped;
use crate::base::limits::{INCOMING_SSRCS_PER_TRANSPORT_MAX, PARKED_SSRCS_PER_TRANSPORT_MAX};
use crate::base::prefetch::{prefetch, prefetch_at};
use crate::base::seq::Seq;
use crate::base::window::{Seen, Window};

/// The tables behind one master key; RTP and RTCP have one each.
#[derive(Default)]
pub(super) struct Incoming {
    /// Beside `streams`, and of its length: what is searched is dense.
    ssrcs: Vec<u32>,
    streams: Vec<Stream>,
    last: usize,
    parked: Vec<(u32, u64)>,
    clock: u64,
}

struct Stream {
    window: Window,
    used: u64,
}

/// What is known of an SSRC: given out by `place_*`, taken back by `commit`.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Stream(usize),
    Parked(usize),
    New,
}

impl Incoming {
    /// A packet of the SSRC that came last will be placed.
    pub(super) fn foresee(&self) {
        prefetch_at(self.ssrcs.as_ptr(), 1);
        if let Some(stream) = self.streams.get(self.last) {
            prefetch(stream, size_of::<Stream>());
        }
    }

    /// The index of an RTP packet, if it may be opened.
    pub(super) fn place_rtp(&mut self, ssrc: u32, seq: Seq) -> Result<(u64, Place), Dropped> {
        let place = self.find(ssrc);
        let index = match place {
            Place::Stream(at) => nearest(self.streams[at].window.highest(), seq)?,
            Place::Parked(at) => nearest(self.parked[at].1, seq)?,
            Place::New => u64::from(seq.0),
        };
        self.admit(place, index)?;
        Ok((index, place))
    }

    /// Whether an RTCP packet may be opened; it names its index itself.
    pub(super) fn place_rtcp(&mut self, ssrc: u32, index: u32) -> Result<Place, Dropped> {
        let place = self.find(ssrc);
        self.admit(place, u64::from(index))?;
        Ok(place)
    }

    /// The packet's tag was right.
    pub(super) fn commit(&mut self, ssrc: u32, index: u64, place: Place) {
        self.clock += 1;
        let window = match place {
            Place::Stream(at) => {
                self.streams[at].window.commit(index);
                self.streams[at].used = self.clock;
                self.last = at;
                return;
            }
            Place::Parked(at) => {
                let (_, highest) = self.parked.swap_remove(at);
                let mut window = Window::closed_up_to(highest);
                window.commit(index);
                window
            }
            Place::New => Window::starting_at(index),
        };
        let stream = Stream { window, used: self.clock };
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

    fn find(&self, ssrc: u32) -> Place {
        if self.ssrcs.get(self.last) == Some(&ssrc) {
            return Place::Stream(self.last);
        }
        if let Some(at) = self.ssrcs.iter().position(|&known| known == ssrc) {
            return Place::Stream(at);
        }
        self.parked.iter().position(|&(known, _)| known == ssrc).map_or(Place::New, Place::Parked)
    }

    fn admit(&self, place: Place, index: u64) -> Result<(), Dropped> {
        match place {
            Place::Stream(at) => match self.streams[at].window.check(index) {
                Seen::New => Ok(()),
                Seen::Already => Err(Dropped::Replayed),
                Seen::Unknown => Err(Dropped::TooOld),
            },
            Place::Parked(at) if index > self.parked[at].1 => Ok(()),
            Place::Parked(_) => Err(Dropped::TooOld),
            Place::New if self.parked.len() >= PARKED_SSRCS_PER_TRANSPORT_MAX => Err(Dropped::UnknownSsrcLimit),
            Place::New => Ok(()),
        }
    }
}

/// RFC 3711 section 3.3.1: of the indices that end in `seq`, the one nearest to the highest so far.
fn nearest(highest: u64, seq: Seq) -> Result<u64, Dropped> {
    let distance = i64::from(seq.ahead_of(Seq(highest as u16)));
    let index = highest.checked_add_signed(distance).ok_or(Dropped::TooOld)?;
    if index > super::srtp::RTP_INDEX_MAX { Err(Dropped::TooOld) } else { Ok(index) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(incoming: &mut Incoming, ssrc: u32, seq: u16) -> Result<u64, Dropped> {
        let (index, place) = incoming.place_rtp(ssrc, Seq(seq))?;
        incoming.commit(ssrc, index, place);
        Ok(index)
    }

    #[test]
    fn the_rollover_counter_follows_the_highest_index() {
        let mut incoming = Incoming::default();
        assert_eq!(take(&mut incoming, 1, 65_530), Ok(65_530));
        assert_eq!(take(&mut incoming, 1, 3), Ok(65_539));
        assert_eq!(take(&mut incoming, 1, 65_535), Ok(65_535));
        assert_eq!(take(&mut incoming, 1, 65_535), Err(Dropped::Replayed));
        assert_eq!(take(&mut incoming, 1, 40_000), Err(Dropped::TooOld));
        assert_eq!(take(&mut incoming, 2, 5), Ok(5));
        assert_eq!(take(&mut incoming, 2, 65_530), Err(Dropped::TooOld), "before the first rollover");
        assert_eq!(nearest(super::super::srtp::RTP_INDEX_MAX, Seq(1)), Err(Dropped::TooOld));
    }

    #[test]
    fn ssrcs_beyond_the_windows_are_parked_and_come_back() {
        let mut incoming = Incoming::default();
        take(&mut incoming, 1_000_000, 65_000).unwrap();
        take(&mut incoming, 1_000_000, 10).unwrap();
        for ssrc in 0..INCOMING_SSRCS_PER_TRANSPORT_MAX as u32 {
            take(&mut incoming, ssrc, 7).unwrap();
        }
        assert_eq!(incoming.parked, [(1_000_000, 65_546)]);
        assert_eq!(take(&mut incoming, 1_000_000, 10), Err(Dropped::TooOld), "no replay");
        assert_eq!(take(&mut incoming, 1_000_000, 11), Ok(65_547), "the rollover counter was kept");
        assert_eq!(take(&mut incoming, 1_000_000, 10), Err(Dropped::Replayed));
        assert_eq!(incoming.parked, [(0, 7)]);
    }

    #[test]
    fn ssrcs_are_bounded() {
        let mut incoming = Incoming::default();
        let bound = (INCOMING_SSRCS_PER_TRANSPORT_MAX + PARKED_SSRCS_PER_TRANSPORT_MAX) as u32;
        (0..bound).for_each(|ssrc| assert!(take(&mut incoming, ssrc, 1).is_ok()));
        assert_eq!(take(&mut incoming, bound, 1), Err(Dropped::UnknownSsrcLimit));
        assert_eq!(take(&mut incoming, 0, 2), Ok(2));
        assert_eq!(take(&mut incoming, bound - 1, 2), Ok(2));
    }

    #[test]
    fn a_place_alone_moves_nothing() {
        let mut incoming = Incoming::default();
        for ssrc in 0..1_000 {
            incoming.place_rtp(ssrc, Seq(9)).unwrap();
            incoming.place_rtcp(ssrc, 9).unwrap();
        }
        assert!(incoming.streams.is_empty() && incoming.parked.is_empty());
    }
}
