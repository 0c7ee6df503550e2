//! The rate allowed to a publisher without transport-cc, told by REMB (draft-alvestrand-rmcat-remb-03). It lets an
//! encoder reach its full rate and backs off when packets are lost; finer control is left to real congestion control.
//! It writes no RTCP; one per publishing transport.

use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};

const START: Bitrate = Bitrate::mbps(2);
const FLOOR: Bitrate = Bitrate::kbps(100);
const INTERVAL: Duration = Duration::from_secs(1);
/// Above this share of loss the rate falls; below the other it may grow.
const LOSS_HIGH: f64 = 0.10;
const LOSS_LOW: f64 = 0.02;

#[derive(Clone, Debug)]
pub struct RembEstimator {
    cap: Bitrate,
    estimate: Bitrate,
    received: DataSize,
    /// The highest loss since the last estimate.
    loss: f64,
    since: Option<Instant>,
    due: Option<Instant>,
}

impl RembEstimator {
    /// The result never exceeds `cap`.
    pub fn new(cap: Bitrate) -> RembEstimator {
        RembEstimator {
            cap,
            estimate: START.min(cap),
            received: DataSize::default(),
            loss: 0.0,
            since: None,
            due: None,
        }
    }

    pub fn on_packet(&mut self, bytes: usize, now: Instant) {
        self.received += DataSize(bytes as u64);
        self.due.get_or_insert(self.since.map_or(now, |since| since + INTERVAL));
    }

    /// The share of packets lost in a reporting interval, 0 to 1.
    pub fn on_loss(&mut self, fraction: f64) {
        self.loss = self.loss.max(fraction);
    }

    /// The allowed rate, once a second while packets come, the first time with the first packet.
    pub fn poll(&mut self, now: Instant) -> Option<Bitrate> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        if let Some(since) = self.since {
            let rate = self.received.per(now.since(since));
            if self.loss > LOSS_HIGH {
                // Based on the received rate: an allowance that nobody uses would fall for long without effect.
                self.estimate = scale(self.estimate.min(rate), 85).max(FLOOR);
            } else if self.loss < LOSS_LOW {
                self.estimate = self.estimate.max(scale(rate, 150));
            }
            self.estimate = self.estimate.min(self.cap);
        }
        self.received = DataSize::default();
        self.loss = 0.0;
        self.since = Some(now);
        self.due = None;
        Some(self.estimate)
    }
}

fn scale(rate: Bitrate, percent: u64) -> Bitrate {
    Bitrate(rate.bps() / 100 * percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// A second of an encoder that sends `rate`; returns the rate that it is then allowed.
    fn second(remb: &mut RembEstimator, second: u64, rate: Bitrate, loss: f64) -> Bitrate {
        let bytes = (rate.bps() / 8 / 100) as usize;
        for n in 1..=100 {
            remb.on_packet(bytes, at(second * 1_000 + n * 10));
        }
        remb.on_loss(loss);
        remb.poll(at(second * 1_000 + 1_000)).expect("due once a second")
    }

    #[test]
    fn an_encoder_reaches_the_cap_and_stays_there() {
        let mut remb = RembEstimator::new(Bitrate::mbps(10));
        assert_eq!(remb.poll(at(0)), None);
        remb.on_packet(0, at(0));
        let mut allowed = remb.poll(at(0)).unwrap();
        assert_eq!(allowed, START);
        assert!(remb.poll(at(500)).is_none());
        for n in 0..5 {
            allowed = second(&mut remb, n, allowed, 0.0);
        }
        assert_eq!(allowed, Bitrate::mbps(10));
        assert_eq!(second(&mut remb, 5, Bitrate::kbps(300), 0.0), allowed, "a quiet scene takes nothing away");
    }

    #[test]
    fn loss_backs_off_down_to_the_floor() {
        let mut remb = RembEstimator::new(Bitrate::mbps(10));
        remb.on_packet(0, at(0));
        remb.poll(at(0));
        let first = second(&mut remb, 0, Bitrate::mbps(1), 0.2);
        assert!(first <= Bitrate::kbps(850) && first > Bitrate::kbps(840));
        assert_eq!(second(&mut remb, 1, first, 0.05), first, "some loss: neither up nor down");
        let mut allowed = first;
        for n in 2..60 {
            allowed = second(&mut remb, n, allowed, 0.5);
        }
        assert_eq!(allowed, FLOOR);
        assert!(second(&mut remb, 60, allowed, 0.0) > FLOOR);
    }

    #[test]
    fn silence_has_no_deadline() {
        let mut remb = RembEstimator::new(Bitrate::mbps(10));
        remb.on_packet(100, at(0));
        remb.poll(at(0));
        assert_eq!((remb.due, remb.poll(at(60_000))), (None, None));
        remb.on_packet(100, at(60_000));
        assert!(remb.poll(at(60_000)).is_some());
    }
}
