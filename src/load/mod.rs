//! `weirgate load`: puts load on any server that speaks the protocol, checks every received packet, and reports the
//! cost. It knows the server by its protocol and its process id alone. Peers join in `signalling`, media is in `media`;
//! this file has the order of events. Called by main.

mod cpu;
mod dial;
mod media;
mod options;
mod payload;
mod progress;
mod repair;
mod report;
mod signalling;
mod sink;
mod size;
mod source;
mod tally;
mod transport;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::thread::sleep;

use clap::Parser;

use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::secure::certificate::Identity;
use dial::Trust;
use media::{MediaCommand, MediaSettings, MediaWorker};
use options::{Options, seconds};
use progress::{Progress, read};
use report::{Report, SearchStep, SetUp};
use signalling::{JoinSettings, LoadSignalling};
use size::Size;
use source::Rhythm;
use tally::Measured;

const POLL: Duration = Duration::from_millis(20);
const LINE_GAP: Duration = Duration::from_secs(1);
/// The bounds within which a search calls a step held.
const LOSS_MAX: f64 = 0.01;
const P99_MAX: Duration = Duration::from_millis(50);
/// The wait after publishers were switched on or off, before a step is measured.
const STEP_WARMUP: Duration = Duration::from_secs(3);
/// From this share of the server's core on, a search goes on in eighths: a step that is far too much leaves queues and
/// estimates to those after it.
const NEAR: f64 = 0.5;
/// A wait with one publisher, after a step was too much: its queues must not count in the next step.
const REST: Duration = Duration::from_secs(3);

/// Neither set up nor measured.
const FAILED: u8 = 1;
/// Measured, and not right.
const NOT_CLEAN: u8 = 3;

/// `args` are those after the program's name, `load` first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        // Prints help to stdout and errors to stderr, and knows the exit code of each.
        Err(error) => error.exit(),
    };
    match run(&options) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(FAILED)
        }
    }
}

/// The text of `weirgate load --help`.
pub fn help() -> String {
    <Options as clap::CommandFactory>::command().render_help().to_string()
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let size = options.size();
    // A descriptor for each transport, each WebSocket, and some more.
    let descriptors = (size.transports() + size.plan().len() + 64) as u64;
    let granted = raise_open_files(descriptors);
    if granted < descriptors {
        return Err(format!("{descriptors} open files are needed, {granted} are allowed: raise `ulimit -n`"));
    }
    // Threads that are started later inherit it.
    if let Some(cpu) = options.cpu.filter(|cpu| !core_affinity::set_for_current(core_affinity::CoreId { id: *cpu })) {
        return Err(format!("this process may not run on cpu {cpu}: choose another with --cpu"));
    }
    if let Some(pid) = options.pid {
        cpu::used(pid).map_err(|error| format!("the CPU time of process {pid} cannot be read: {error}"))?;
    }
    let report = Generator::start(options, size)?.measure();
    let table = report.table();
    let json = format!("{:#}\n", report.json());
    let written = match options.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            eprint!("{table}");
            std::io::stdout().write_all(json.as_bytes())
        }
        Some(path) => {
            print!("{table}");
            fs::write(path, json)
        }
        None => {
            print!("{table}");
            Ok(())
        }
    };
    written.map_err(|error| format!("the report cannot be written: {error}"))?;
    Ok(match (report.is_set_up(), report.is_clean()) {
        (false, _) => ExitCode::from(FAILED),
        (true, false) => ExitCode::from(NOT_CLEAN),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// The limit on open files after it was raised as far as it goes; unlimited where it cannot be read.
fn raise_open_files(wanted: u64) -> u64 {
    let Ok((soft, hard)) = rlimit::Resource::NOFILE.get() else { return u64::MAX };
    if soft >= wanted {
        return soft;
    }
    // Root may pass the hard limit.
    let raised = [(wanted, hard.max(wanted)), (hard, hard)];
    let set = raised.into_iter().find(|(soft, hard)| rlimit::Resource::NOFILE.set(*soft, *hard).is_ok());
    set.map_or(soft, |(soft, _)| soft)
}

struct Generator<'a> {
    options: &'a Options,
    size: Size,
    progress: Arc<Progress>,
    commands: Sender<MediaCommand>,
    started: Instant,
    next_line: Instant,
    last_delivered: u64,
    /// The server's CPU time before the first join.
    cpu_server: Option<Duration>,
    // In the order of their end: the server closes transports with their WebSocket.
    _signalling: LoadSignalling,
    _media: MediaWorker,
}

impl<'a> Generator<'a> {
    fn start(options: &'a Options, size: Size) -> Result<Generator<'a>, String> {
        let started = Clock::process().mono();
        let cpu_server = options.pid.and_then(|pid| cpu::used(pid).ok());
        let identity = Identity::generate().map_err(|error| error.to_string())?;
        let fingerprint_sha256 = identity.fingerprint_sha256();
        let progress = Arc::new(Progress::default());
        let settings = MediaSettings {
            profiles: options.profile.offer(),
            identity,
            loss: options.loss / 100.0,
            gro: options.gro,
            collect_gap: seconds(options.collect / 1_000.0),
            server: options.pid,
            seed: rand::random(),
        };
        let media =
            MediaWorker::start(settings, progress.clone()).map_err(|error| format!("no media thread: {error}"))?;
        let commands = media.commands();
        if options.search {
            // Switched on one after the other.
            let _ = commands.send(MediaCommand::Activate(1));
        }
        let join = JoinSettings {
            url: socket_url(&options.url),
            trust: Trust::new(options.insecure).map_err(|error| format!("no TLS: {error}"))?,
            run: rand::random(),
            size,
            peers: size.plan(),
            joins_a_second: options.ramp,
            video: (size.video_kbit > 0)
                .then(|| Rhythm::video(size.video_kbit, options.fps, seconds(options.spacing / 1_000.0))),
            audio: (size.audio_packets > 0).then(|| Rhythm::audio(size.audio_packets)),
            idle: options.idle,
            gro: options.gro,
            fingerprint_sha256,
        };
        let signalling = LoadSignalling::start(join, commands.clone(), progress.clone())
            .map_err(|error| format!("no signalling thread: {error}"))?;
        Ok(Generator {
            options,
            size,
            progress,
            commands,
            started,
            next_line: started + LINE_GAP,
            last_delivered: 0,
            cpu_server,
            _signalling: signalling,
            _media: media,
        })
    }

    fn measure(mut self) -> Report<'a> {
        let set_up = self.set_up();
        let mut report = Report { options: self.options, size: self.size, set_up, measured: None, steps: Vec::new() };
        let runs = report.set_up.connected > 0 && (self.options.idle || report.set_up.started > 0);
        if runs {
            self.command(MediaCommand::Settle);
            if self.options.search {
                report.steps = self.search();
                let best = report.steps.iter().filter(|step| step.held).max_by_key(|step| step.publishers);
                report.measured = best.map(|step| step.measured.clone());
            } else {
                self.watch(seconds(self.options.warmup));
                report.measured = self.window(seconds(self.options.duration));
            }
        }
        (report.set_up.failures, report.set_up.first_failure) = self.progress.failures();
        report
    }

    /// Waits until everything that was planned runs, or its time is over.
    fn set_up(&mut self) -> SetUp {
        let peers = self.size.plan().len();
        let ramp = seconds(peers as f64 / self.options.ramp);
        let limit = self.started + ramp + seconds(self.options.setup);
        // In a search the first publisher alone sends.
        let streams = match (self.options.idle, self.options.search) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => self.size.streams(),
        };
        let consumed = if self.options.idle { 0 } else { self.size.streams() };
        let (progress, transports) = (self.progress.clone(), self.size.transports());
        let done = || {
            read(&progress.joined) == peers
                && read(&progress.transports_connected) == transports
                && read(&progress.consumed) == consumed
                && read(&progress.started) >= streams
        };
        while !done() && Clock::process().mono() < limit {
            // Nobody comes when the first who tried were refused.
            if progress.failures().0 == peers {
                break;
            }
            self.tell();
            sleep(POLL);
        }
        let (failures, first_failure) = progress.failures();
        SetUp {
            took: Clock::process().mono().since(self.started),
            joined: read(&progress.joined),
            connected: read(&progress.transports_connected),
            started: read(&progress.started),
            failures,
            first_failure,
            times: progress.times(),
            cpu_server: self.options.pid.and_then(|pid| cpu::used(pid).ok()?.checked_sub(self.cpu_server?)),
            cpu_own: cpu::used(std::process::id()).ok(),
        }
    }

    fn command(&self, command: MediaCommand) {
        // It fails only when the media thread has ended, which no answer shows.
        let _ = self.commands.send(command);
    }

    fn watch(&mut self, length: Duration) {
        let until = Clock::process().mono() + length;
        loop {
            let left = until.since(Clock::process().mono());
            if left.is_zero() {
                return;
            }
            self.tell();
            sleep(left.min(POLL));
        }
    }

    fn window(&mut self, length: Duration) -> Option<Measured> {
        self.command(MediaCommand::Begin);
        self.watch(length);
        let (reply, replied) = mpsc::channel();
        self.command(MediaCommand::End(reply));
        replied.recv().ok()
    }

    /// Doubles the publishers until it is too much, then halves the distance.
    fn search(&mut self) -> Vec<SearchStep> {
        let all = self.size.publishers_in_all();
        let mut steps: Vec<SearchStep> = Vec::new();
        let (mut held, mut refused) = (0, all + 1);
        while refused - held > 1 {
            let share = steps.last().and_then(|step| step.measured.share(step.measured.cpu_server));
            let publishers = match refused > all {
                true if share.is_some_and(|share| share > NEAR) => (held + held.div_ceil(8)).min(all),
                true => (held * 2).clamp(1, all),
                false => held.midpoint(refused),
            };
            self.command(MediaCommand::Activate(publishers));
            self.watch(STEP_WARMUP);
            let Some(measured) = self.window(seconds(self.options.duration)) else { break };
            let in_time = measured.tally.delays.quantile(0.99).is_some_and(|p99| p99 <= P99_MAX);
            let step = SearchStep { publishers, held: in_time && measured.loss() <= LOSS_MAX, measured };
            if step.held {
                held = publishers;
            } else {
                refused = publishers;
                self.command(MediaCommand::Activate(1));
                self.watch(REST);
            }
            let mut line = format!("{publishers} publishers: ");
            // Writing to a string cannot fail.
            let _ = report::write_line(&mut line, &step.measured);
            eprint!("{line}");
            steps.push(step);
        }
        steps
    }

    /// A line a second.
    fn tell(&mut self) {
        let now = Clock::process().mono();
        if now < self.next_line {
            return;
        }
        self.next_line = now + LINE_GAP;
        let progress = &self.progress;
        let delivered = progress.delivered.load(Ordering::Relaxed);
        let rate = delivered.saturating_sub(std::mem::replace(&mut self.last_delivered, delivered));
        let failures = match progress.failures() {
            (0, _) => String::new(),
            (count, why) => format!(", {count} failures: {}", why.unwrap_or_default()),
        };
        eprintln!(
            "{:>5.0} s  {} joined, {} of {} connected, {} streams, {rate} packets/s{failures}",
            now.since(self.started).as_secs_f64(),
            read(&progress.joined),
            read(&progress.transports_connected),
            read(&progress.transports_open),
            read(&progress.started),
        );
    }
}

/// The protocol's path, where none is given.
fn socket_url(given: &str) -> String {
    let authority = given.find("://").map_or(0, |at| at + 3);
    match given[authority..].find(['/', '?']) {
        None => format!("{given}/socket"),
        Some(at) if given[authority + at..] == *"/" => format!("{given}socket"),
        Some(_) => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_path_gets_the_protocols() {
        for (given, right) in [
            ("ws://127.0.0.1:4443", "ws://127.0.0.1:4443/socket"),
            ("ws://127.0.0.1:4443/", "ws://127.0.0.1:4443/socket"),
            ("ws://host:1/other", "ws://host:1/other"),
            ("ws://host:1/socket?x=1", "ws://host:1/socket?x=1"),
        ] {
            assert_eq!(socket_url(given), right);
        }
    }
}
