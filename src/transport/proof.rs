//! The proof of a client's paths. A check proves that its sender knows our password, not that it is where its datagrams
//! claim to come from. A path is proved by the handshake, when all of our side of it went there; else by feedback that
//! names what only a receiver at its end can know: transport-wide numbers drawn anew for this path, or the time in a
//! sender report. RTP numbers prove nothing: they go on where the last path left off. Until then little is sent there
//! (RFC 9000 section 8 does the same). The shard drives it; it sends nothing by itself.

use rand::Rng;

use crate::base::buffer::{Leg, Path};
use crate::base::limits::{REMOTE_ADDRESSES_PER_TRANSPORT_MAX, UNPROVED_BYTES_MAX};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant, NtpTime};
use crate::media::congestion::sent_log::SentLog;
use crate::wire::transport_cc::TransportCc;

/// The multiple of a client's bytes from an unproved path that may go back.
const CREDIT: usize = 3;
/// A proof restores the whole allowance, but not more often than this: somebody could prove one path again and again to
/// spend it on others.
const REFILL_EVERY: Duration = Duration::from_secs(10);
/// How often numbers are drawn, each time for a flush that has some, and out of how many. Twice: one of them is guessed
/// in one of a hundred attempts. Feedback about a flush on both sides of both gaps stays within the length that is read
/// ([`crate::base::limits::TRANSPORT_CC_PACKETS_MAX`]).
const DRAWS: usize = 2;
const DRAWN_FROM: u16 = 3_500;
/// Times of sender reports that are remembered.
const REPORTS: usize = 8;
/// In these bits of a report's time, less than a millisecond, chance decides.
const REPORT_CHANCE: u64 = 0x3f << 16;
/// A client that has named unsent numbers this often proves nothing by feedback any more, and is sent nothing on other
/// paths.
const LIES_MAX: u8 = 3;

#[derive(Default)]
pub struct Proof {
    proved: Vec<Path>,
    flights: Flights,
    spent: usize,
    refilled: Option<Instant>,
    lies: u8,
    challenge: Option<Box<Challenge>>,
}

/// The path of our side of the handshake.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flights {
    #[default]
    Nowhere,
    To(Path),
    Several,
}

/// The selected path while it is not proved: what was sent there and has yet to be named.
struct Challenge {
    path: Path,
    /// Bytes of the allowance.
    spent: usize,
    draws: Vec<Draw>,
    /// The times of sender reports, with the bits that chance has decided.
    reports: [Option<u32>; REPORTS],
    next_report: usize,
    chance: Option<u64>,
    /// The client has named numbers that were never sent.
    lied: bool,
}

/// Numbers from `first` up to `end` went out; those from `from` to `first` never did.
struct Draw {
    from: u64,
    first: u64,
    end: u64,
    named: bool,
}

impl Proof {
    /// A connection proves its address by itself: its handshake takes answers from there.
    pub fn is_proved(&self, path: Path) -> bool {
        matches!(path.leg, Leg::Tcp(..)) || self.proved.contains(&path)
    }

    /// Whether sending is bounded now.
    pub fn is_wanted(&self) -> bool {
        self.challenge.is_some()
    }

    /// Selects this path. True: it has to prove itself first.
    pub fn aim(&mut self, selected: Option<Path>) -> bool {
        match selected {
            Some(path) if !self.is_proved(path) => {
                if self.challenge.as_ref().is_none_or(|challenge| challenge.path != path) {
                    self.challenge = Some(Box::new(Challenge::new(path, self.lies >= LIES_MAX)));
                    return true;
                }
            }
            _ => self.challenge = None,
        }
        false
    }

    /// The path is no longer the client's.
    pub fn forget(&mut self, path: Path) {
        self.proved.retain(|known| *known != path);
        self.challenge.take_if(|challenge| challenge.path == path);
    }

    /// A datagram of the handshake leaves by `path`.
    pub fn said(&mut self, path: Path) {
        self.flights = match self.flights {
            Flights::Nowhere => Flights::To(path),
            Flights::To(before) if before == path => Flights::To(path),
            Flights::To(_) | Flights::Several => Flights::Several,
        };
    }

    /// The peer has finished the handshake, which takes having read our side of it.
    pub fn established(&mut self, now: Instant) -> Option<Path> {
        let Flights::To(path) = self.flights else { return None };
        self.proves(now, path);
        Some(path)
    }

    fn proves(&mut self, now: Instant, path: Path) {
        if !self.is_proved(path) {
            if self.proved.len() >= REMOTE_ADDRESSES_PER_TRANSPORT_MAX {
                self.proved.remove(0);
            }
            self.proved.push(path);
        }
        // The peer wanted what it was sent.
        if let Some(challenge) = self.challenge.take_if(|challenge| challenge.path == path) {
            self.spent = self.spent.saturating_sub(challenge.spent);
        }
        if self.refilled.is_none_or(|at| now.since(at) >= REFILL_EVERY) {
            (self.refilled, self.spent) = (Some(now), 0);
        }
    }

    /// The bytes that may leave now.
    pub fn room(&self) -> usize {
        match &self.challenge {
            None => usize::MAX,
            Some(challenge) if challenge.lied => 0,
            Some(_) => UNPROVED_BYTES_MAX.saturating_sub(self.spent),
        }
    }

    /// Whether this many bytes may leave; counts them as sent then.
    pub fn admits(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.room();
        if fits {
            self.spend(bytes);
        }
        fits
    }

    pub fn spend(&mut self, bytes: usize) {
        if let Some(challenge) = &mut self.challenge {
            let bytes = bytes.min(UNPROVED_BYTES_MAX - self.spent);
            self.spent += bytes;
            challenge.spent += bytes;
        }
    }

    /// The client itself has sent this many bytes from `path`.
    pub fn heard(&mut self, path: Path, bytes: usize) {
        if let Some(challenge) = self.challenge.as_mut().filter(|challenge| challenge.path == path) {
            let credit = (CREDIT * bytes).min(self.spent);
            self.spent -= credit;
            challenge.spent = challenge.spent.saturating_sub(credit);
        }
    }

    /// Packets are about to leave, under unpredictable numbers.
    pub fn draw(&mut self, now: Instant, log: &mut SentLog, rng: &mut impl Rng) {
        let Some(challenge) = &mut self.challenge else { return };
        let unused = challenge.draws.last().is_some_and(|draw| draw.end == draw.first);
        if challenge.draws.len() >= DRAWS || unused {
            return;
        }
        let from = log.next();
        log.skip(now, rng.random_range(1..=DRAWN_FROM));
        challenge.draws.push(Draw { from, first: log.next(), end: log.next(), named: false });
    }

    /// They have left.
    pub fn sent(&mut self, log: &SentLog) {
        if let Some(draw) = self.challenge.as_mut().and_then(|challenge| challenge.draws.last_mut()) {
            draw.end = log.next();
        }
    }

    /// The time for a sender report that is about to leave.
    pub fn report(&mut self, ntp: NtpTime, rng: &mut impl Rng) -> NtpTime {
        let Some(challenge) = &mut self.challenge else { return ntp };
        let chance = *challenge.chance.get_or_insert_with(|| rng.random::<u64>() & REPORT_CHANCE);
        let ntp = NtpTime(ntp.0 & !REPORT_CHANCE | chance);
        let told = Some((ntp.0 >> 16) as u32);
        // Reports of several streams leave together.
        if !challenge.reports.contains(&told) {
            challenge.reports[challenge.next_report % REPORTS] = told;
            challenge.next_report += 1;
        }
        ntp
    }

    /// The path that this proves. RFC 3550 section 6.4.1: a receiver names the last sender report it received by the
    /// middle of its time.
    pub fn on_report(&mut self, now: Instant, last_report: u32) -> Option<Path> {
        let challenge = self.challenge.as_mut().filter(|challenge| !challenge.lied)?;
        let sent = || challenge.reports.iter().flatten();
        if sent().any(|sent| *sent == last_report) {
            let path = challenge.path;
            self.proves(now, path);
            return Some(path);
        }
        // A report from before the path changed is still the last that it got.
        let ahead = |sent: &u32| (last_report.wrapping_sub(*sent) as i32) > 0;
        challenge.lied = last_report != 0 && sent().any(ahead);
        self.lies = self.lies.saturating_add(challenge.lied.into());
        None
    }

    /// The path that this proves.
    pub fn on_transport_feedback(&mut self, now: Instant, feedback: &TransportCc<'_>, log: &SentLog) -> Option<Path> {
        let drawn = |challenge: &&mut Box<Challenge>| !challenge.draws.is_empty() && !challenge.lied;
        let challenge = self.challenge.as_mut().filter(drawn)?;
        for (seq, _) in feedback.packets().filter(|(_, arrived)| arrived.is_some()) {
            let number = ExtSeq(log.next()).nearest(Seq(seq)).0;
            for draw in &mut challenge.draws {
                draw.named |= (draw.first..draw.end).contains(&number);
                challenge.lied |= (draw.from..draw.first).contains(&number);
            }
            challenge.lied |= number >= log.next();
        }
        self.lies = self.lies.saturating_add(challenge.lied.into());
        if challenge.lied || challenge.draws.len() < DRAWS || !challenge.draws.iter().all(|draw| draw.named) {
            return None;
        }
        let path = challenge.path;
        self.proves(now, path);
        Some(path)
    }
}

impl Challenge {
    fn new(path: Path, lied: bool) -> Challenge {
        let draws = Vec::with_capacity(DRAWS);
        Challenge { path, spent: 0, draws, reports: [None; REPORTS], next_report: 0, chance: None, lied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;
    use crate::base::id::Ssrc;
    use crate::media::congestion::sent_log::{Purpose, StreamTag};
    use crate::wire::feedback::Feedback;
    use crate::wire::rtcp::{self, Rtcp};
    use crate::wire::transport_cc::FeedbackBuilder;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn path(port: u16) -> Path {
        Path::udp(LocalIndex(0), ([192, 0, 2, 1], port).into())
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// A client whose handshake was on path 1, and who now nominates path 2.
    fn moved(rng: &mut SmallRng) -> (Proof, SentLog) {
        let (mut proof, mut log) = (Proof::default(), SentLog::default());
        proof.aim(Some(path(1)));
        proof.said(path(1));
        assert_eq!(proof.established(at(0)), Some(path(1)));
        assert!(!proof.aim(Some(path(1))) && proof.room() == usize::MAX);
        flush(&mut proof, &mut log, rng, 20);
        assert!(proof.aim(Some(path(2))) && !proof.aim(Some(path(2))));
        (proof, log)
    }

    /// Sends so many packets; the first of them.
    fn flush(proof: &mut Proof, log: &mut SentLog, rng: &mut SmallRng, packets: u64) -> u64 {
        proof.draw(at(1), log, rng);
        let first = log.next();
        let stream = StreamTag { place: 0, acknowledged: true };
        (0..packets).for_each(|_| log.sent(at(1), 1_200, Purpose::Video, stream));
        proof.sent(log);
        first
    }

    fn tell(proof: &mut Proof, log: &SentLog, numbers: impl IntoIterator<Item = u64>) -> Option<Path> {
        let packets: Vec<_> = numbers.into_iter().map(|number| (number as u16, Some(64_000))).collect();
        let mut bytes = Vec::new();
        let base_seq = packets[0].0;
        let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq, feedback_count: 0 };
        builder.write(packets.iter().copied(), &mut bytes);
        let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) = rtcp::parse(&bytes).next() else {
            panic!("feedback was written")
        };
        proof.on_transport_feedback(at(100), &feedback, log)
    }

    #[test]
    fn a_handshake_proves_the_one_path_that_it_was_on() {
        let mut proof = Proof::default();
        assert!(proof.aim(Some(path(1))));
        assert_eq!(proof.established(at(0)), None, "nothing was said");
        proof.said(path(1));
        proof.said(path(1));
        assert_eq!(proof.established(at(0)), Some(path(1)));
        assert!(!proof.is_wanted());
        let mut torn = Proof::default();
        torn.aim(Some(path(1)));
        torn.said(path(1));
        torn.said(path(2));
        torn.said(path(1));
        assert_eq!(torn.established(at(0)), None, "whoever finished it has read one of both");
        assert!(torn.is_wanted());
    }

    #[test]
    fn both_draws_must_be_named() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut proof, mut log) = moved(&mut rng);
        let first = flush(&mut proof, &mut log, &mut rng, 3);
        assert_eq!(tell(&mut proof, &log, [first, first + 1]), None);
        assert_eq!(tell(&mut proof, &log, [(1 << 16) + 7]), None, "of the path before: neither proof nor lie");
        let second = flush(&mut proof, &mut log, &mut rng, 3);
        assert!(second > first + 3 && second - first <= 3 + u64::from(DRAWN_FROM));
        let third = flush(&mut proof, &mut log, &mut rng, 3);
        assert_eq!(third, second + 3, "no more than two");
        assert_eq!(tell(&mut proof, &log, [third + 2]), Some(path(2)));
        assert!(proof.is_proved(path(2)) && proof.room() == usize::MAX);
        assert!(!proof.aim(Some(path(1))) && !proof.aim(Some(path(2))), "both are");
        proof.forget(path(2));
        assert!(proof.aim(Some(path(2))));
    }

    /// The claims of a client that is not on the path: more of the same, everything, or a guess.
    #[test]
    fn whoever_guesses_names_what_was_never_sent() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut guessed = 0;
        for _ in 0..2_000 {
            let (mut proof, mut log) = moved(&mut rng);
            let last = log.next() - 1;
            flush(&mut proof, &mut log, &mut rng, 20);
            flush(&mut proof, &mut log, &mut rng, 20);
            assert_eq!(tell(&mut proof.challenged_again(), &log, last + 1..last + 8_000), None);
            let mut at = last;
            for _ in 0..2 {
                at += rng.random_range(1..=u64::from(DRAWN_FROM));
                guessed += u32::from(tell(&mut proof, &log, [at]).is_some());
            }
        }
        assert!(guessed <= 2, "{guessed}");
    }

    impl Proof {
        /// The same state, for a lie of its own.
        fn challenged_again(&self) -> Proof {
            let challenge = self.challenge.as_ref().map(|challenge| {
                let draw = |draw: &Draw| Draw { named: false, ..*draw };
                Box::new(Challenge {
                    draws: challenge.draws.iter().map(draw).collect(),
                    ..Challenge::new(challenge.path, false)
                })
            });
            Proof { proved: self.proved.clone(), challenge, ..Proof::default() }
        }
    }

    #[test]
    fn a_liar_is_sent_nothing_and_in_the_end_on_no_path() {
        let mut rng = SmallRng::seed_from_u64(3);
        let (mut proof, mut log) = moved(&mut rng);
        for lie in 0..LIES_MAX {
            assert_eq!(proof.room(), UNPROVED_BYTES_MAX, "{lie}");
            let first = flush(&mut proof, &mut log, &mut rng, 2);
            assert_eq!(tell(&mut proof, &log, [first - 1]), None);
            assert_eq!(proof.room(), 0);
            assert_eq!(tell(&mut proof, &log, [first, first + 1]), None, "too late");
            assert!(!proof.aim(Some(path(1))) && proof.room() == usize::MAX, "where it is, it is served");
            assert!(proof.aim(Some(path(2))));
        }
        assert_eq!(proof.room(), 0);
        assert_eq!(proof.established(at(9)), Some(path(1)));
    }

    #[test]
    fn the_time_of_a_report_proves_a_path_and_a_guess_does_not() {
        let mut rng = SmallRng::seed_from_u64(4);
        let middle = |ntp: NtpTime| (ntp.0 >> 16) as u32;
        let (mut proof, _) = moved(&mut rng);
        let ntp = |second: u64| NtpTime((1 << 62) + (second << 32) + 12_345_678);
        let before = middle(ntp(0));
        let told: Vec<_> = (1..4).map(|second| proof.report(ntp(second), &mut rng)).collect();
        assert!(told.iter().zip(1..).all(|(told, second)| told.0.abs_diff(ntp(second).0) < 1 << 22), "a millisecond");
        assert_eq!(proof.on_report(at(1), 0), None, "it has none yet");
        assert_eq!(proof.on_report(at(1), before), None, "of the path before");
        assert_eq!(proof.on_report(at(1), middle(told[1])), Some(path(2)));
        let (mut liar, _) = moved(&mut rng);
        let told = liar.report(ntp(1), &mut rng);
        assert_eq!(liar.on_report(at(1), middle(told) + 1), None);
        assert_eq!((liar.on_report(at(1), middle(told)), liar.room()), (None, 0));
        let mut proved = Proof::default();
        assert_eq!(proved.report(ntp(1), &mut rng), ntp(1), "nobody has to prove anything");
    }

    #[test]
    fn what_is_sent_is_bounded_over_all_paths_and_comes_back_with_a_proof() {
        let mut rng = SmallRng::seed_from_u64(5);
        let (mut proof, mut log) = moved(&mut rng);
        assert!(proof.admits(UNPROVED_BYTES_MAX / 2) && !proof.admits(UNPROVED_BYTES_MAX));
        for port in 3..1_000 {
            proof.aim(Some(path(port)));
            proof.admits(UNPROVED_BYTES_MAX / 4);
        }
        assert_eq!(proof.room(), 0, "however many paths");
        proof.heard(path(1), 10_000);
        assert_eq!(proof.room(), 0, "from elsewhere");
        proof.heard(path(999), 1_000);
        assert_eq!(proof.room(), CREDIT * 1_000);
        // A proof gives back what went there; all of it only now and then.
        let prove = |proof: &mut Proof, log: &mut SentLog, rng: &mut SmallRng, port, now| {
            proof.aim(Some(path(port)));
            let first = flush(proof, log, rng, 1);
            let second = flush(proof, log, rng, 1);
            let room = proof.room();
            assert!(proof.admits(room));
            assert_eq!(tell(proof, log, [first]), None);
            assert_eq!(tell(proof, log, [second]), Some(path(port)));
            proof.proves(now, path(port));
            proof.aim(Some(path(port + 1)));
            (room, proof.room())
        };
        assert_eq!(prove(&mut proof, &mut log, &mut rng, 2_000, at(100)), (3_000, 3_000));
        assert_eq!(prove(&mut proof, &mut log, &mut rng, 3_000, at(10_000)), (3_000, UNPROVED_BYTES_MAX));
    }
}
