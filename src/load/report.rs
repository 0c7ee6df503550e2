//! The outcome for people and for programs: a table and JSON with the same figures.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::base::histogram::Histogram;
use crate::base::time::Duration;
use crate::load::options::Options;
use crate::load::progress::SetupTimes;
use crate::load::size::Size;
use crate::load::tally::Measured;

/// The state that the set-up reached.
#[derive(Clone, Default)]
pub struct SetUp {
    /// Until everything ran.
    pub took: Duration,
    pub joined: usize,
    pub connected: usize,
    pub started: usize,
    pub failures: usize,
    pub first_failure: Option<String>,
    pub times: SetupTimes,
    pub cpu_server: Option<Duration>,
    pub cpu_own: Option<Duration>,
}

/// One step of a search, with this many publishers.
pub struct SearchStep {
    pub publishers: usize,
    pub measured: Measured,
    pub held: bool,
}

pub struct Report<'a> {
    pub options: &'a Options,
    pub size: Size,
    pub set_up: SetUp,
    /// None when nothing was measured. With a search, the best step that was held.
    pub measured: Option<Measured>,
    pub steps: Vec<SearchStep>,
}

fn micros(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| (duration.as_nanos() as f64 / 100.0).round() / 10.0)
}

fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10f64.powi(places);
    (value * factor).round() / factor
}

fn delays(histogram: &Histogram) -> Value {
    json!({
        "p50": micros(histogram.quantile(0.5)), "p90": micros(histogram.quantile(0.9)),
        "p99": micros(histogram.quantile(0.99)), "p999": micros(histogram.quantile(0.999)),
        "max": micros(histogram.max()),
    })
}

fn waits(histogram: &Histogram) -> Value {
    let millis = |duration: Option<Duration>| duration.map(|it| rounded(it.as_secs_f64() * 1_000.0, 2));
    json!({
        "count": histogram.count(), "p50": millis(histogram.quantile(0.5)), "p99": millis(histogram.quantile(0.99)),
        "max": millis(histogram.max()),
    })
}

fn measured_json(measured: &Measured) -> Value {
    let tally = &measured.tally;
    json!({
        "seconds": rounded(measured.length.as_secs_f64(), 3),
        "expected_packets": measured.expected,
        "delivered_packets": tally.counted,
        "delivered_packets_per_second": rounded(measured.packets_a_second(), 1),
        "delivered_mbit_per_second":
            rounded(tally.counted_bytes as f64 * 8.0 / 1e6 / measured.length.as_secs_f64().max(1e-9), 2),
        "lost_packets": measured.lost(),
        "loss_percent": rounded(measured.loss() * 100.0, 4),
        "streams": measured.streams,
        "streams_with_loss": measured.streams_with_loss,
        "worst_stream_loss_percent": rounded(measured.worst_loss * 100.0, 4),
        "sequence_holes": measured.holes,
        "dropped_on_purpose_sending": tally.lost_sending,
        "dropped_on_purpose_receiving": tally.lost_receiving,
        "delay_us": delays(&tally.delays),
        "video_delay_us": delays(&tally.video_delays),
        "audio_delay_us": delays(&tally.audio_delays),
        "server_cpu_ns_per_packet": measured.cpu_nanos_a_packet().map(|nanos| rounded(nanos, 0)),
        "server_cpu_share": measured.share(measured.cpu_server).map(|share| rounded(share, 4)),
        "generator_cpu_share": measured.share(measured.cpu_own).map(|share| rounded(share, 4)),
        "generator_late_frames": measured.late_frames,
        "generator_send_failures": tally.send_failed,
        "padding_packets": tally.padding_only,
        "nacked_packets": tally.asked,
        "retransmitted_packets": tally.repairs,
        "repaired_packets": tally.repaired,
        "publishers_nacked_packets": tally.nacked,
        "key_frames_requested": tally.key_frames_requested,
        "compared_packets": tally.compared,
        "wrong_packets": tally.wrong.json(),
    })
}

impl Report<'_> {
    /// Everything that was planned ran.
    pub fn is_set_up(&self) -> bool {
        // A search may end before all were switched on.
        let streams = match (self.options.idle, self.options.search) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => self.size.streams(),
        };
        self.set_up.failures == 0
            && self.set_up.joined == self.size.plan().len()
            && self.set_up.connected == self.size.transports()
            && self.set_up.started >= streams
    }

    /// Every received packet is what was sent.
    pub fn is_clean(&self) -> bool {
        let searched = self.options.search;
        let clean = |measured: &Measured| {
            measured.tally.wrong.sum() == 0 && (searched || self.options.loss > 0.0 || measured.lost() == 0)
        };
        self.measured.iter().all(clean) && self.set_up.failures == 0
    }

    pub fn json(&self) -> Value {
        let size = self.size;
        let step = |SearchStep { publishers, held, measured }: &SearchStep| json!({ "publishers": publishers, "held": held, "measured": measured_json(measured) });
        json!({
            "url": self.options.url,
            "load": {
                "channels": size.channels, "publishers": size.publishers, "subscribers": size.subscribers,
                "peers": size.peers, "video_kbit": size.video_kbit, "fps": self.options.fps,
                "audio_packets": size.audio_packets, "spacing_ms": self.options.spacing,
                "loss_percent": self.options.loss, "ramp": self.options.ramp,
                "profile": self.options.profile.offer()[0].name(),
            },
            "setup": {
                "seconds": rounded(self.set_up.took.as_secs_f64(), 3),
                "peers": size.plan().len(), "joined": self.set_up.joined,
                "transports": size.transports(), "connected": self.set_up.connected,
                "streams": size.streams(), "started": self.set_up.started,
                "failures": self.set_up.failures, "first_failure": self.set_up.first_failure,
                "server_cpu_seconds": self.set_up.cpu_server.map(|cpu| rounded(cpu.as_secs_f64(), 3)),
                "generator_cpu_seconds": self.set_up.cpu_own.map(|cpu| rounded(cpu.as_secs_f64(), 3)),
                "answered_ms": waits(&self.set_up.times.answered),
                "connected_ms": waits(&self.set_up.times.connected),
                "first_packet_ms": waits(&self.set_up.times.first_packet),
            },
            "measured": self.measured.as_ref().map(measured_json),
            "search": if self.options.search { json!(self.steps.iter().map(step).collect::<Vec<_>>()) } else { Value::Null },
            "ok": self.is_set_up() && self.is_clean(),
        })
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let set_up = &self.set_up;
        let peers = self.size.plan().len();
        writeln!(
            out,
            "set up      {} of {peers} peers joined, {} of {} transports connected, {} of {} streams started in {:.1} s",
            set_up.joined,
            set_up.connected,
            self.size.transports(),
            set_up.started,
            if self.options.idle { 0 } else { self.size.streams() },
            set_up.took.as_secs_f64()
        )?;
        let times = &set_up.times;
        for (name, histogram) in
            [("answered", &times.answered), ("connected", &times.connected), ("first packet", &times.first_packet)]
        {
            if let (Some(p50), Some(p99), Some(max)) =
                (histogram.quantile(0.5), histogram.quantile(0.99), histogram.max())
            {
                let millis = |it: Duration| it.as_secs_f64() * 1_000.0;
                let (p50, p99, max) = (millis(p50), millis(p99), millis(max));
                writeln!(out, "  {name:<12} p50 {p50:.1}  p99 {p99:.1}  max {max:.1} ms")?;
            }
        }
        if let (Some(server), Some(own)) = (set_up.cpu_server, set_up.cpu_own) {
            let (server, own) = (server.as_secs_f64(), own.as_secs_f64());
            writeln!(out, "  cpu          server {server:.2} s, generator {own:.2} s")?;
        }
        if let Some(why) = &set_up.first_failure {
            writeln!(out, "failures    {}, the first: {why}", set_up.failures)?;
        }
        for step in &self.steps {
            let verdict = if step.held { "held" } else { "not held" };
            write!(out, "search      {:>3} publishers {verdict:<8} ", step.publishers)?;
            write_line(out, &step.measured)?;
        }
        match &self.measured {
            Some(measured) => self.write_measured(measured, out),
            None => Ok(()),
        }
    }

    fn write_measured(&self, measured: &Measured, out: &mut String) -> std::fmt::Result {
        let tally = &measured.tally;
        writeln!(
            out,
            "delivered   {} of {} packets, {:.0} a second, {:.1} Mbit/s",
            tally.counted,
            measured.expected,
            measured.packets_a_second(),
            tally.counted_bytes as f64 * 8.0 / 1e6 / measured.length.as_secs_f64()
        )?;
        writeln!(
            out,
            "lost        {} ({:.3} %), in {} of {} streams",
            measured.lost(),
            measured.loss() * 100.0,
            measured.streams_with_loss,
            measured.streams
        )?;
        for (name, histogram) in
            [("delay", &tally.delays), ("  video", &tally.video_delays), ("  audio", &tally.audio_delays)]
        {
            if histogram.count() > 0 {
                let at = |share: f64| micros(histogram.quantile(share)).unwrap_or_default();
                let max = micros(histogram.max()).unwrap_or_default();
                let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
                writeln!(out, "{name:<11} p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p999:.0}  max {max:.0} us")?;
            }
        }
        if let (Some(nanos), Some(share)) = (measured.cpu_nanos_a_packet(), measured.share(measured.cpu_server)) {
            writeln!(out, "server      {nanos:.0} ns of CPU a delivered packet, {share:.3} of a core")?;
        } else if let Some(share) = measured.share(measured.cpu_server) {
            writeln!(out, "server      {share:.4} of a core")?;
        }
        if let Some(share) = measured.share(measured.cpu_own) {
            let late = measured.late_frames;
            writeln!(out, "generator   {share:.3} of a core, {late} frames late, {} sends failed", tally.send_failed)?;
        }
        let wrong: Vec<_> = tally.wrong.named().into_iter().filter(|(_, count)| *count > 0).collect();
        if !wrong.is_empty() {
            writeln!(out, "wrong       {wrong:?}")?;
        }
        Ok(())
    }
}

/// A step in one line.
pub fn write_line(out: &mut String, measured: &Measured) -> std::fmt::Result {
    let p99 = micros(measured.tally.delays.quantile(0.99)).unwrap_or_default();
    write!(
        out,
        "{:>8.0} packets/s  loss {:.3} %  p99 {p99:.0} us",
        measured.packets_a_second(),
        measured.loss() * 100.0
    )?;
    if let (Some(nanos), Some(share)) = (measured.cpu_nanos_a_packet(), measured.share(measured.cpu_server)) {
        write!(out, "  server {nanos:.0} ns/packet, {share:.3} of a core")?;
    }
    if let Some(share) = measured.share(measured.cpu_own) {
        write!(out, "  generator {share:.3}")?;
    }
    writeln!(out)
}
