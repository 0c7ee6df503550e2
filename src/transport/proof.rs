//! What a client has shown about its paths. A check proves that its sender knows our password, not that it is where its
//! datagrams say they come from. A path is proved by the handshake, when all that we said in it went there; else by
//! feedback that names what only a receiver at its end can know: transport-wide numbers that were drawn anew for this
//! path, or the time that a sender report gave. RTP numbers prove nothing: they go on where the last path left off.
//! Until then little is sent there (RFC 9000 section 8 does the same). The shard drives it; it sends nothing by itself.

use rand::Rng;

use crate::base::buffer::Path;
use crate::base::limits::{REMOTE_ADDRESSES_PER_TRANSPORT_MAX, UNPROVED_BYTES_MAX};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant, NtpTime};
use crate::media::congestion::sent_log::SentLog;
use crate::wire::transport_cc::TransportCc;

/// Of what a client sends on a path that is not proved, so many times as much may go back.
const CREDIT: usize = 3;
/// A proof gives the whole allowance back, but not more often: somebody could prove one path again and again to spend it
/// on others.
const REFILL_EVERY: Duration = Duration::from_secs(10);
/// How often numbers are drawn, each time a flush that has some, and out of how many. Twice: one of them is guessed in one
/// of a hundred attempts. Feedback about a flush on both sides of both gaps is still one that is read
/// ([`crate::base::limits::TRANSPORT_CC_PACKETS_MAX`]).
const DRAWS: usize = 2;
const DRAWN_FROM: u16 = 3_500;
/// Times of sender reports that are remembered.
const REPORTS: usize = 8;
/// In these bits of a report's time, less than a millisecond, chance decides.
const REPORT_CHANCE: u64 = 0x3f << 16;
/// Who has named so often what it was never sent proves nothing by feedback any more, and is sent nothing on other paths.
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

/// Where the datagrams of our side of the handshake went.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Flights {
    #[default]
    Nowhere,
    To(Path),
    Several,
}

/// What a path that is in use and not proved has been sent, and has yet to name.
struct Challenge {
    path: Path,
    draws: Vec<Draw>,
    /// The times of sender reports, and the bits of them that chance has decided.
    reports: [Option<u32>; REPORTS],
    next_report: usize,
    chance: Option<u64>,
    /// It has named what it was never sent.
    lied: bool,
}

/// Numbers from `first` up to `end` went out, those from `from` to `first` never did.
struct Draw {
    from: u64,
    first: u64,
    end: u64,
    named: bool,
}

impl Proof {
    pub fn is_proved(&self, path: Path) -> bool {
        self.proved.contains(&path)
    }

    /// Whether what is sent now is bounded.
    pub fn is_wanted(&self) -> bool {
        self.challenge.is_some()
    }

    /// What is sent goes to this path from now on. True: it has to prove itself first.
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

    /// The peer has finished the handshake, which it can only who has read what we said in it.
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
        self.challenge.take_if(|challenge| challenge.path == path);
        if self.refilled.is_none_or(|at| now.since(at) >= REFILL_EVERY) {
            (self.refilled, self.spent) = (Some(now), 0);
        }
    }

    /// How many bytes may leave now.
    pub fn room(&self) -> usize {
        match &self.challenge {
            None => usize::MAX,
            Some(challenge) if challenge.lied => 0,
            Some(_) => UNPROVED_BYTES_MAX.saturating_sub(self.spent),
        }
    }

    /// Whether so many may; then they count as sent.
    pub fn admits(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.room();
        if fits {
            self.spend(bytes);
        }
        fits
    }

    pub fn spend(&mut self, bytes: usize) {
        if self.challenge.is_some() {
            self.spent = self.spent.saturating_add(bytes).min(UNPROVED_BYTES_MAX);
        }
    }

    /// The client itself has sent so much from `path`.
    pub fn heard(&mut self, path: Path, bytes: usize) {
        if self.challenge.as_ref().is_some_and(|challenge| challenge.path == path) {
            self.spent = self.spent.saturating_sub(CREDIT * bytes);
        }
    }

    /// Packets are about to leave: under numbers that nobody foresees.
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

    /// The time of a sender report that is about to leave, as it is to be told.
    pub fn report(&mut self, ntp: NtpTime, rng: &mut impl Rng) -> NtpTime {
        let Some(challenge) = &mut self.challenge else { return ntp };
        let chance = *challenge.chance.get_or_insert_with(|| rng.random::<u64>() & REPORT_CHANCE);
        let ntp = NtpTime(ntp.0 & !REPORT_CHANCE | chance);
        let told = Some((ntp.0 >> 16) as u32);
        // Those of several streams leave together.
        if !challenge.reports.contains(&told) {
            challenge.reports[challenge.next_report % REPORTS] = told;
            challenge.next_report += 1;
        }
        ntp
    }

    /// The path that this proves. RFC 3550 section 6.4.1: a receiver names the last sender report that it got by the middle of its time.
    pub fn on_report(&mut self, now: Instant, last_report: u32) -> Option<Path> {
        let Some(challenge) = self.challenge.as_mut().filter(|challenge| !challenge.lied) else { return None };
        let sent = || challenge.reports.iter().flatten();
        if sent().any(|sent| *sent == last_report) {
            let path = challenge.path;
            self.proves(now, path);
            return Some(path);
        }
        // One from before the path changed is still the last that it got.
        let ahead = |sent: &u32| (last_report.wrapping_sub(*sent) as i32) > 0;
        challenge.lied = last_report != 0 && sent().any(ahead);
        self.lies = self.lies.saturating_add(challenge.lied.into());
        None
    }

    /// The path that this proves.
    pub fn on_transport_feedback(&mut self, now: Instant, feedback: &TransportCc<'_>, log: &SentLog) -> Option<Path> {
        let drawn = |challenge: &&mut Box<Challenge>| !challenge.draws.is_empty() && !challenge.lied;
        let Some(challenge) = self.challenge.as_mut().filter(drawn) else { return None };
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
        Challenge { path, draws, reports: [None; REPORTS], next_report: 0, chance: None, lied }
    }
}
