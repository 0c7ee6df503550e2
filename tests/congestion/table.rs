//! The course of each path, second by second, kept as `tests/data/congestion.txt`: a change of the estimator shows what
//! it does to each path, and has to be confirmed.

use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};

use crate::model::{Model, PATH, Path, Source};

const FILE: &str = "tests/data/congestion.txt";
const UPDATE: &str = "WEIRGATE_UPDATE_CONGESTION_TABLE";
const HEAD: &str = "\
# What congestion control makes of a path: a column a second, rates in kbit/s. `allowed` is the estimate, `arrives` what
# the receiver gets of it, probes included, `waits` the longest queue in ms. Two flows have two rows of each.
# Written by `WEIRGATE_UPDATE_CONGESTION_TABLE=1 cargo test --test congestion table`; the test compares with tolerance.
";

#[derive(Clone, Copy)]
enum Event {
    Capacity(u64),
    Joins(Source),
    /// A TCP for so many seconds.
    Download(u64),
}
use Event::{Capacity, Download, Joins};

#[derive(Clone, Copy)]
enum Row {
    Allowed,
    Arrives,
    Waits,
}
use Row::{Allowed, Arrives, Waits};

struct Scenario {
    name: &'static str,
    path: Path,
    source: Source,
    seconds: u64,
    events: &'static [(u64, Event)],
    /// Means of the first flow over these seconds.
    bounds: &'static [(Row, Range<usize>, RangeInclusive<u64>)],
}

const WIDE: Source = Source::Smooth(5_000);
const LAYERS: Source = Source::Pictures { layers: &[150, 500, 1_500], per_second: 15, key_every: 75, key_size: 6 };
const BASE: Scenario = Scenario { name: "", path: PATH, source: WIDE, seconds: 30, events: &[], bounds: &[] };

/// Where no other source is named the bounds are our own.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "capacity 1000, 2500, 600, 1000 (the course of RFC 8867 section 5.1, 15 s each)",
        path: Path { queue_ms: 300, ..PATH },
        seconds: 60,
        events: &[(15, Capacity(2_500)), (30, Capacity(600)), (45, Capacity(1_000))],
        bounds: &[(Arrives, 5..15, 700..=1_000), (Arrives, 35..45, 420..=600), (Arrives, 50..60, 600..=1_000)],
        ..BASE
    },
    Scenario {
        // libwebrtc: 450 ± 100, 750 ± 150, 90 ± 25 at the end of each.
        name: "capacity 500, 800, 100 (libwebrtc UpdatesTargetRateBasedOnLinkCapacity)",
        path: Path { kbps: 500, delay_ms: 100, ..PATH },
        source: Source::Smooth(1_500),
        seconds: 65,
        events: &[(25, Capacity(800)), (45, Capacity(100))],
        bounds: &[(Allowed, 24..25, 350..=550), (Allowed, 44..45, 600..=900), (Allowed, 62..65, 65..=115)],
    },
    Scenario {
        name: "pictures in layers of 150, 500 and 1500; capacity 3000, 900, 300, 3000",
        path: Path { kbps: 3_000, ..PATH },
        source: LAYERS,
        seconds: 60,
        events: &[(10, Capacity(900)), (25, Capacity(300)), (40, Capacity(3_000))],
        bounds: &[(Arrives, 15..25, 400..=700), (Arrives, 30..40, 130..=260), (Arrives, 55..60, 1_300..=1_700)],
    },
    Scenario {
        name: "pictures of 150 to a path of 400, which could be in layers of 500 and 1500",
        path: Path { kbps: 400, ..PATH },
        source: LAYERS,
        bounds: &[(Allowed, 5..30, 230..=400)],
        ..BASE
    },
    Scenario {
        name: "delay 20 ms",
        path: Path { delay_ms: 20, ..PATH },
        bounds: &[(Arrives, 10..30, 750..=1_000)],
        ..BASE
    },
    Scenario {
        name: "delay 100 ms",
        path: Path { delay_ms: 100, ..PATH },
        bounds: &[(Arrives, 10..30, 700..=1_000)],
        ..BASE
    },
    Scenario {
        name: "delay 300 ms",
        path: Path { delay_ms: 300, ..PATH },
        bounds: &[(Arrives, 10..30, 500..=1_000)],
        ..BASE
    },
    Scenario {
        name: "loss 2 %",
        path: LOSSY_2,
        source: Source::Smooth(1_000),
        bounds: &[(Allowed, 10..30, 800..=2_000)],
        ..BASE
    },
    Scenario {
        name: "loss 5 %",
        path: LOSSY_5,
        source: Source::Smooth(1_000),
        bounds: &[(Allowed, 10..30, 800..=2_000)],
        ..BASE
    },
    Scenario {
        // libwebrtc: over 100 after two minutes.
        name: "loss 10 %, delay 200 ms (libwebrtc LossBasedControlDoesModestBackoffToHighLoss)",
        path: Path { delay_ms: 200, loss: 0.10, ..LOSSY_2 },
        source: Source::Smooth(1_500),
        seconds: 120,
        bounds: &[(Allowed, 115..120, 100..=2_000), (Allowed, 10..120, 400..=2_000)],
        ..BASE
    },
    Scenario {
        name: "loss 20 %",
        path: Path { loss: 0.20, ..LOSSY_2 },
        source: Source::Smooth(1_000),
        bounds: &[(Allowed, 10..30, 150..=2_000)],
        ..BASE
    },
    Scenario { name: "jitter 10 ms", path: JITTERY, bounds: &[(Arrives, 10..30, 600..=1_000)], ..BASE },
    Scenario {
        name: "jitter 30 ms",
        path: Path { jitter_ms: 30, ..PATH },
        bounds: &[(Arrives, 10..30, 500..=1_000)],
        ..BASE
    },
    Scenario {
        name: "jitter 20 ms and loss 2 %, beside room for 2000",
        path: Path { jitter_ms: 20, ..LOSSY_2 },
        source: Source::Smooth(1_000),
        bounds: &[(Allowed, 10..30, 700..=2_000)],
        ..BASE
    },
    Scenario {
        name: "queue of 20 ms",
        path: Path { queue_ms: 20, ..PATH },
        bounds: &[(Arrives, 10..30, 700..=1_000)],
        ..BASE
    },
    Scenario {
        name: "queue of 3 s",
        path: Path { queue_ms: 3_000, ..PATH },
        bounds: &[(Arrives, 10..30, 700..=1_000), (Waits, 10..30, 0..=150)],
        ..BASE
    },
    Scenario {
        name: "a second flow joins after 15 s (as RFC 8867 section 5.4), capacity 2000",
        path: Path { kbps: 2_000, ..PATH },
        seconds: 60,
        events: &[(15, Joins(WIDE))],
        bounds: &[(Arrives, 40..60, 550..=1_350)],
        ..BASE
    },
    Scenario {
        // libwebrtc: under 750 after 10 s of both, and no lower bound. Ours: no starving.
        name: "a TCP from 10 s to 40 s, queue of 300 ms (libwebrtc IsFairToTCP, RFC 8867 section 5.6)",
        path: Path { queue_ms: 300, ..PATH },
        seconds: 60,
        events: &[(10, Download(30))],
        bounds: &[(Allowed, 19..20, 0..=750), (Arrives, 20..40, 100..=750), (Arrives, 55..60, 150..=1_000)],
        ..BASE
    },
    Scenario {
        name: "the same beside pictures in layers of 150, 500 and 1500",
        path: Path { kbps: 2_000, queue_ms: 300, ..PATH },
        source: LAYERS,
        seconds: 60,
        events: &[(10, Download(30))],
        bounds: &[(Arrives, 20..40, 130..=1_500), (Arrives, 50..60, 1_300..=1_700)],
    },
    Scenario {
        name: "TCPs of 2 s at 10 s and 30 s, queue of 200 ms (libwebrtc CrossInducedLoss, RFC 8867 section 5.7)",
        path: Path { delay_ms: 100, queue_ms: 200, ..PATH },
        seconds: 50,
        events: &[(10, Download(2)), (30, Download(2))],
        bounds: &[(Arrives, 20..30, 500..=1_000), (Arrives, 40..50, 500..=1_000)],
        ..BASE
    },
];

const LOSSY_2: Path = Path { kbps: 2_000, loss: 0.02, ..PATH };
const LOSSY_5: Path = Path { loss: 0.05, ..LOSSY_2 };
const JITTERY: Path = Path { jitter_ms: 10, ..PATH };

/// The rows of each flow, a number a second.
#[derive(Default)]
struct Course {
    allowed: Vec<u64>,
    arrives: Vec<u64>,
    waits: Vec<u64>,
}

impl Course {
    fn row(&self, row: Row) -> &[u64] {
        match row {
            Allowed => &self.allowed,
            Arrives => &self.arrives,
            Waits => &self.waits,
        }
    }
}

impl Scenario {
    fn run(&self) -> (Vec<u64>, Vec<Course>) {
        let mut model = Model::new(self.path, &[self.source]);
        let (mut capacity, mut courses) = (Vec::new(), vec![Course::default()]);
        for second in 0..self.seconds {
            for (_, event) in self.events.iter().filter(|(at, _)| *at == second) {
                match *event {
                    Capacity(kbps) => model.path.kbps = kbps,
                    Joins(source) => {
                        model.join(source);
                        let before = || vec![0; second as usize];
                        courses.push(Course { allowed: before(), arrives: before(), waits: before() });
                    }
                    Download(seconds) => model.download(seconds),
                }
            }
            model.run(1);
            capacity.push(model.path.kbps);
            for (flow, course) in model.flows.iter().zip(&mut courses) {
                course.allowed.push(flow.target_kbps());
                course.arrives.push(flow.bytes * 8 / 1_000);
                course.waits.push(flow.queued_ms_max);
            }
        }
        (capacity, courses)
    }
}

fn line(out: &mut String, name: &str, numbers: &[u64]) {
    write!(out, "{name:<9}").expect("into a String");
    numbers.iter().for_each(|number| write!(out, "{number:>5}").expect("into a String"));
    out.push('\n');
}

/// How far apart two numbers of a row may be.
fn alike(row: &str, kept: u64, now: u64) -> bool {
    let slack = if row == "waits" { 40 } else { 30 };
    kept.abs_diff(now) <= slack + kept.max(now) / 8
}

#[test]
fn table() {
    let mut told = HEAD.to_owned();
    let mut faults = Vec::new();
    for scenario in SCENARIOS {
        let (capacity, courses) = scenario.run();
        write!(told, "\n## {}\n", scenario.name).expect("into a String");
        line(&mut told, "capacity", &capacity);
        for course in &courses {
            line(&mut told, "allowed", &course.allowed);
            line(&mut told, "arrives", &course.arrives);
            line(&mut told, "waits", &course.waits);
        }
        for (row, seconds, bounds) in scenario.bounds {
            let seen = &courses[0].row(*row)[seconds.clone()];
            let mean = seen.iter().sum::<u64>() / seen.len() as u64;
            if !bounds.contains(&mean) {
                faults.push(format!("{}: {mean} is not within {bounds:?}: {seen:?}", scenario.name));
            }
        }
    }
    assert!(faults.is_empty(), "out of bounds:\n{}\n{told}", faults.join("\n"));
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(&file, told).expect("the table can be written");
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept.lines().count(), told.lines().count(), "{FILE} is of other scenarios: {UPDATE}=1 writes it anew");
    for (kept, now) in kept.lines().zip(told.lines()) {
        let numbers = |line: &str| line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<u64>, _>>();
        match (numbers(kept), numbers(now)) {
            (Ok(before), Ok(after)) if !now.starts_with('#') => {
                let row = now.split_whitespace().next().unwrap_or_default();
                let same = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| alike(row, *a, *b));
                assert!(same, "{FILE} says otherwise ({UPDATE}=1 writes it anew):\n{kept}\nnow:\n{now}");
            }
            _ => assert_eq!(kept, now, "{FILE} is of other scenarios: {UPDATE}=1 writes it anew"),
        }
    }
}
