//! The rate at which the receiver gets packets, from the arrival times in its feedback: a short window, and a Bayesian
//! mean over windows as in libwebrtc, so that one small window moves it little.

use super::sent_log::Arrived;
use crate::base::units::Bitrate;

const WINDOW_START_US: i64 = 250_000;
const WINDOW_US: i64 = 150_000;
/// The uncertainty of a window that differs from the mean; twice as much where little was sent to begin with.
const UNCERTAINTY: f64 = 10.0;
const UNCERTAINTY_LIMITED: f64 = 20.0;
const VARIANCE_START: f64 = 50.0;
/// The certainty that the mean loses with each window.
const DRIFT: f64 = 5.0;

#[derive(Debug)]
pub struct AcknowledgedRate {
    window_since: Option<i64>,
    bytes: u64,
    kbps: Option<f64>,
    variance: f64,
}

impl Default for AcknowledgedRate {
    fn default() -> AcknowledgedRate {
        AcknowledgedRate { window_since: None, bytes: 0, kbps: None, variance: VARIANCE_START }
    }
}

impl AcknowledgedRate {
    pub fn rate(&self) -> Option<Bitrate> {
        self.kbps.map(|kbps| Bitrate((kbps * 1e3) as u64))
    }

    /// Feedback was lost: arrivals meanwhile are unknown.
    pub fn on_gap(&mut self) {
        (self.window_since, self.bytes) = (None, 0);
    }

    /// Packets in order of arrival. `limited`: less was sent than was allowed.
    pub fn on_packet(&mut self, packet: &Arrived, limited: bool) {
        let now = packet.arrived_us;
        let Some(since) = self.window_since.filter(|since| *since <= now) else {
            (self.window_since, self.bytes) = (Some(now), 0);
            return;
        };
        self.bytes += u64::from(packet.bytes);
        let window = if self.kbps.is_none() { WINDOW_START_US } else { WINDOW_US };
        let elapsed = now - since;
        if elapsed < window {
            return;
        }
        // Bits a millisecond. A pause longer than the window is part of it, and shows as a low rate.
        let sample = self.bytes as f64 * 8e3 / elapsed as f64;
        (self.window_since, self.bytes) = (Some(now), 0);
        self.on_window(sample, limited);
    }

    fn on_window(&mut self, sample: f64, limited: bool) {
        let Some(mean) = self.kbps else {
            self.kbps = Some(sample);
            return;
        };
        let scale = if limited && sample < mean { UNCERTAINTY_LIMITED } else { UNCERTAINTY };
        // Compared with the larger: a mean near zero would make every later window uncertain.
        let uncertainty = scale * (mean - sample).abs() / mean.max(sample).max(1.0);
        let sample_variance = uncertainty * uncertainty;
        let variance = self.variance + DRIFT;
        self.kbps = Some((sample_variance * mean + variance * sample) / (sample_variance + variance));
        self.variance = sample_variance * variance / (sample_variance + variance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Instant;
    use crate::media::congestion::sent_log::Purpose;

    fn feed(rate: &mut AcknowledgedRate, from_ms: i64, to_ms: i64, bytes: u16) {
        for ms in (from_ms..to_ms).step_by(10) {
            rate.on_packet(
                &Arrived { sent: Instant::ZERO, arrived_us: ms * 1_000, bytes, purpose: Purpose::Video },
                false,
            );
        }
    }

    #[test]
    fn it_tells_the_rate_and_follows_it() {
        let mut rate = AcknowledgedRate::default();
        feed(&mut rate, 0, 200, 1_250);
        assert_eq!(rate.rate(), None);
        feed(&mut rate, 200, 2_000, 1_250);
        let told = rate.rate().expect("after a window").bps();
        assert!((990_000..1_010_000).contains(&told), "{told}");
        feed(&mut rate, 2_000, 5_000, 375);
        let told = rate.rate().expect("still").bps();
        assert!((295_000..340_000).contains(&told), "{told}");
    }

    #[test]
    fn after_minutes_of_next_to_nothing_it_follows_what_is_sent_again() {
        let mut rate = AcknowledgedRate::default();
        feed(&mut rate, 0, 60_000, 40);
        assert!(rate.rate().expect("known").bps() < 40_000);
        feed(&mut rate, 60_000, 61_500, 1_250);
        let told = rate.rate().expect("known").bps();
        assert!(told > 900_000, "{told}");
    }

    #[test]
    fn lost_feedback_is_no_lost_throughput() {
        let mut rate = AcknowledgedRate::default();
        feed(&mut rate, 0, 2_000, 1_250);
        rate.on_gap();
        feed(&mut rate, 3_000, 3_300, 1_250);
        assert!(rate.rate().expect("known").bps() > 990_000);
    }
}
