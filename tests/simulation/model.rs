//! The rules for every stream that the SFU sends, whatever happened: judged from the packets a publisher sent and those
//! a receiver was sent, both in plain text, by rules that know nothing of the SFU's inside.

use std::collections::{BTreeMap, BTreeSet};

use weirgate::base::id::Ssrc;
use weirgate::base::seq::ExtSeq;
use weirgate::base::time::{Duration, Instant};
use weirgate::sim::payload::stamp;
use weirgate::sim::tap::Overheard;

/// The publisher's packets of one frame, named by the time it was made.
#[derive(Default, Debug)]
struct Frame {
    payloads: Vec<Vec<u8>>,
    /// Packets that never reached the SFU, and those that did after others that were sent later.
    lost: usize,
    late: usize,
}

pub(crate) struct Model<'a> {
    pub(crate) sent: &'a [Overheard],
    /// The publisher's streams, one after the other; the RTX SSRC is the one after each.
    pub(crate) ssrcs: &'a [u32],
    pub(crate) received: &'a [Overheard],
    pub(crate) stream: Ssrc,
    pub(crate) rtx: Ssrc,
    /// The times of events that may cut a frame in two.
    pub(crate) actions: &'a [Instant],
    /// So many packets were held back, because the receiver had moved and was not proved to be there: each may be missing,
    /// or come as a repair alone.
    pub(crate) held_back: usize,
}

fn made_at(payload: &[u8]) -> Instant {
    stamp(payload).expect("every payload is stamped")
}

impl Model<'_> {
    fn frames(&self) -> BTreeMap<Instant, Frame> {
        let mut frames: BTreeMap<Instant, Frame> = BTreeMap::new();
        for &ssrc in self.ssrcs {
            let media: Vec<&Overheard> = self.sent.iter().filter(|heard| heard.ssrc == Ssrc(ssrc)).collect();
            let repaired: BTreeSet<u16> = self
                .sent
                .iter()
                .filter(|heard| heard.ssrc == Ssrc(ssrc + 1) && heard.arrives_at.is_some())
                .map(|heard| u16::from_be_bytes([heard.payload[0], heard.payload[1]]))
                .collect();
            // From the back: the earliest arrival of any packet sent later.
            let mut earliest_after = None::<Instant>;
            for packet in media.iter().rev() {
                let frame = frames.entry(made_at(&packet.payload)).or_default();
                frame.payloads.insert(0, packet.payload.clone());
                match packet.arrives_at {
                    Some(at) => {
                        frame.late += usize::from(earliest_after.is_some_and(|after| after < at));
                        earliest_after = Some(earliest_after.map_or(at, |after| after.min(at)));
                    }
                    None if repaired.contains(&packet.seq.0) => frame.late += 1,
                    None => frame.lost += 1,
                }
            }
        }
        frames
    }

    /// `strict`: nobody paused and nothing restarted, so that packets that reached the SFU late were forwarded too.
    pub(crate) fn check(&self, strict: bool) {
        let frames = self.frames();
        let mut by_number: BTreeMap<ExtSeq, &Overheard> = BTreeMap::new();
        let mut last = None::<ExtSeq>;
        for packet in self.received.iter().filter(|heard| heard.ssrc == self.stream) {
            let ext = last.map_or(ExtSeq::first(packet.seq), |last| last.nearest(packet.seq));
            last = Some(last.map_or(ext, |last| last.max(ext)));
            assert!(by_number.insert(ext, packet).is_none(), "{:?} was used twice", packet.seq);
        }
        self.check_retransmissions(&by_number);
        self.check_numbers(&by_number, &frames, strict);
        self.check_times(&by_number);
        self.check_frames(&by_number, &frames, strict);
    }

    /// An event happened near to that moment.
    fn disturbed(&self, made_at: Instant) -> bool {
        let near = Duration::from_millis(250);
        self.actions.iter().any(|at| *at + near > made_at && *at < made_at + near)
    }

    fn check_retransmissions(&self, by_number: &BTreeMap<ExtSeq, &Overheard>) {
        let mut repaired_alone: BTreeMap<u16, &[u8]> = BTreeMap::new();
        for again in self.received.iter().filter(|heard| heard.ssrc == self.rtx) {
            let original = u16::from_be_bytes([again.payload[0], again.payload[1]]);
            let first =
                by_number.iter().rev().find(|(ext, first)| ext.seq().0 == original && first.sent_at <= again.sent_at);
            let Some((_, first)) = first else {
                let payload = &again.payload[2..];
                assert_eq!(repaired_alone.entry(original).or_insert(payload), &payload, "{original} has two contents");
                assert!(repaired_alone.len() <= self.held_back, "{original} is sent again, but never was");
                continue;
            };
            assert_eq!(&again.payload[2..], &first.payload[..], "{original} has two contents");
            assert_eq!((again.timestamp, again.marker), (first.timestamp, first.marker), "{original}");
        }
    }

    /// A number is missing only where a packet of the publisher's was missing between its neighbours.
    fn check_numbers(&self, by_number: &BTreeMap<ExtSeq, &Overheard>, frames: &BTreeMap<Instant, Frame>, strict: bool) {
        let packets: Vec<_> = by_number.iter().collect();
        let mut held_back = self.held_back;
        for pair in packets.windows(2) {
            let gap = pair[1].0.distance_from(*pair[0].0) - 1;
            if gap == 0 {
                continue;
            }
            let between = made_at(&pair[0].1.payload)..=made_at(&pair[1].1.payload);
            let missing: usize =
                frames.range(between).map(|(_, frame)| frame.lost + if strict { 0 } else { frame.late }).sum();
            let (seq, at) = (pair[1].1.seq, pair[1].1.sent_at);
            let gap = gap as usize;
            let explained = missing.max(gap.min(missing + held_back));
            held_back -= explained - missing;
            assert!(gap <= explained, "{gap} numbers are missing before {seq:?}, {at:?}: {missing} packets");
        }
    }

    fn check_times(&self, by_number: &BTreeMap<ExtSeq, &Overheard>) {
        let packets: Vec<_> = by_number.values().collect();
        for pair in packets.windows(2) {
            let [before, after] = [0, 1].map(|at| made_at(&pair[at].payload));
            let ahead = pair[1].timestamp.wrapping_sub(pair[0].timestamp) as i32;
            assert!(after >= before, "a frame from before: {:?}", pair[1].seq);
            // Two frames are made at one moment by a browser that was held up, and by one that replaces its encoder.
            let same_frame = after == before && !pair[0].marker && (ahead == 0 || !self.disturbed(after));
            let (seq, at) = (pair[1].seq, pair[1].sent_at);
            assert!(if same_frame { ahead == 0 } else { ahead > 0 }, "time goes by {ahead} at {seq:?}, {at:?}");
        }
    }

    fn check_frames(&self, by_number: &BTreeMap<ExtSeq, &Overheard>, frames: &BTreeMap<Instant, Frame>, strict: bool) {
        let mut got: BTreeMap<Instant, Vec<&Overheard>> = BTreeMap::new();
        for packet in by_number.values() {
            got.entry(made_at(&packet.payload)).or_default().push(packet);
        }
        let (mut whole, mut held_back) = (0, self.held_back);
        for (made_at, packets) in &got {
            let frame = frames.get(made_at).unwrap_or_else(|| panic!("nobody made the frame of {made_at:?}"));
            let disturbed = self.disturbed(*made_at);
            if frame.lost > 0 || !strict && (frame.late > 0 || disturbed) {
                assert!(packets.len() <= frame.payloads.len());
                continue;
            }
            let absent = frame.payloads.len().saturating_sub(packets.len());
            if (1..=held_back).contains(&absent) {
                assert!(packets.iter().all(|packet| frame.payloads.contains(&packet.payload)), "{made_at:?}");
                held_back -= absent;
                continue;
            }
            let payloads: Vec<_> = packets.iter().map(|packet| &packet.payload).collect();
            assert_eq!(payloads, frame.payloads.iter().collect::<Vec<_>>(), "the frame of {made_at:?}");
            assert!(packets.last().is_some_and(|packet| packet.marker), "the frame of {made_at:?}");
            whole += 1;
        }
        if strict && let Some(first) = got.keys().next() {
            let last = *got.keys().last().unwrap_or(first);
            let expected = frames.range(*first..=last).filter(|(_, frame)| frame.lost == 0).count();
            assert_eq!(whole, expected, "no frame is left out");
        }
        assert!(whole > 30, "{whole} whole frames: too few to judge by");
    }
}
