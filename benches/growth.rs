//! The growth of costs: CPU of a delivered packet by receivers, channels, publishers and encodings; CPU of a join and a
//! leave by the members who are told; memory by transports. Prints Markdown tables; `--svg FILE` writes the picture.

#![expect(unsafe_code, reason = "an allocator that counts")]

#[path = "../tests/cpu/mod.rs"]
mod cpu;

use std::alloc::{GlobalAlloc, Layout};
use std::fmt::Write;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use weirgate::base::id::{ShardId, ShardLabel};
use weirgate::base::time::Instant;
use weirgate::signal::{Candidate, Entrance, Hub, HubSettings, LastN, Output};
use weirgate::sim::link::LinkSettings;
use weirgate::sim::rig::{Cast, Rig};
use weirgate::sim::world::{World, WorldSettings};

use cpu::{median, thread_cpu};

/// The program's allocator, with a count of the bytes held.
struct Counting;

const INNER: mimalloc::MiMalloc = mimalloc::MiMalloc;

static HELD: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes on to the program's allocator as it came; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are the ones that `INNER` asks for.
        unsafe { INNER.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: `at` came from `INNER`, as everything here does.
        unsafe { INNER.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that a value holds on the heap, found by dropping it.
fn held_by<T>(value: T) -> f64 {
    let before = HELD.load(Ordering::Relaxed);
    drop(value);
    (before - HELD.load(Ordering::Relaxed)) as f64
}

/// A step of the rig's clock: short, so that a whole measurement stays within consent.
const STEP: Duration = Duration::from_nanos(500);
const ROUNDS: usize = 5;
const PACKETS_PER_ROUND: u64 = 60_000;
/// The sizes of channel that joins are measured in.
const MEMBERS: [usize; 7] = [10, 30, 100, 300, 1_000, 2_500, 5_000];
const JOINS: usize = 40;

/// A course: the cost of one unit of what the user gets, by a number.
struct Course {
    name: &'static str,
    of: &'static str,
    unit: &'static str,
    points: Vec<(usize, f64)>,
}

/// Nanoseconds of CPU for a delivered packet.
fn forwarding(cast: Cast) -> f64 {
    let mut rig = Rig::of(cast, STEP);
    let round = |rig: &mut Rig| {
        let (before, mut spent) = (rig.sent.packets, Duration::ZERO);
        while rig.sent.packets - before < PACKETS_PER_ROUND {
            rig.next_frame();
            let start = thread_cpu();
            rig.deliver();
            spent += thread_cpu() - start;
        }
        spent.as_nanos() as f64 / (rig.sent.packets - before) as f64
    };
    let cost = median((0..ROUNDS).map(|_| round(&mut rig)).collect());
    assert_eq!(rig.sent.packets, rig.expected, "every packet goes to everyone");
    cost
}

fn course(
    name: &'static str,
    of: &'static str,
    unit: &'static str,
    counts: &[usize],
    cost: &dyn Fn(usize) -> f64,
) -> Course {
    let points = counts.iter().map(|count| (*count, cost(*count))).collect();
    let course = Course { name, of, unit, points };
    print(&course);
    course
}

fn hub() -> Hub {
    let candidate = Candidate { shard: None, ip: [192, 0, 2, 1].into(), port: 40_000, priority: 2_130_706_431 };
    Hub::new(HubSettings {
        shards: vec![(ShardId(0), ShardLabel(*b"aa"))],
        candidates: vec![candidate],
        fingerprint_sha256: "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF".repeat(2),
        spread: Default::default(),
        last_n: LastN::Peers,
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: Default::default(),
        seed: [7; 32],
    })
}

/// Drains the outputs of the hub; returns the number of texts.
fn told(hub: &mut Hub) -> usize {
    let mut texts = 0;
    while let Some(output) = hub.poll_output() {
        texts += usize::from(matches!(output, Output::Send { .. }));
    }
    texts
}

/// Nanoseconds of CPU for each member who is told of a join and of the leave after it.
fn joining(members: usize) -> f64 {
    let (mut hub, mut now) = (hub(), Instant::ZERO);
    let mut open = |hub: &mut Hub, user: &str| {
        now = now + Duration::from_millis(20);
        let session = hub.open(now, [127, 0, 0, 1].into(), &Entrance::named(user, "river")).expect("there is room");
        // Only those who ask for news get any.
        hub.handle_text(now, session, r#"{"type":"get-peers"}"#);
        (now, session)
    };
    for number in 1..members {
        open(&mut hub, &format!("member {number}"));
        told(&mut hub);
    }
    let times = (0..JOINS).map(|_| {
        let start = thread_cpu();
        let (now, session) = open(&mut hub, "the guest");
        let mut texts = told(&mut hub);
        hub.close(now, session);
        texts += told(&mut hub);
        (thread_cpu() - start).as_nanos() as f64 / texts as f64
    });
    median(times.collect())
}

/// The bytes of a shard with so many connected transports and no media.
fn connected(transports: usize) -> f64 {
    let mut world = World::new(WorldSettings::seeded(1));
    for number in 0..transports {
        let visitor = world.join(&format!("visitor {number}"), &format!("room {number}"));
        let transport = world.transport(visitor, "recv", LinkSettings::clean(Duration::from_millis(1)));
        world.connect(&transport);
    }
    world.run(Duration::from_millis(500));
    held_by(world.into_shards().collect::<Vec<_>>())
}

/// Bytes for each connected transport without media, beyond those of an empty shard.
fn idle(transports: usize) -> f64 {
    (connected(transports) - connected(0)) / transports as f64
}

/// Bytes for each receiver of one stream of video, whose transport it has to itself, beyond those of the stream alone.
fn receiving(receivers: usize) -> f64 {
    let held = |receivers| held_by(Rig::of(Cast::one_to(receivers), STEP).shard);
    (held(receivers + 1) - held(1)) / receivers as f64
}

fn print(course: &Course) {
    if course.points.is_empty() {
        return;
    }
    let counts: String = course.points.iter().map(|(count, _)| format!(" {count} |")).collect();
    let costs: String = course.points.iter().map(|(_, cost)| format!(" {cost:.0} |")).collect();
    println!("| {} |{counts}", course.of);
    println!("|---|{}", "---|".repeat(course.points.len()));
    println!("| {}, {} |{costs}\n", course.name, course.unit);
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 7] = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#34495e", "#d35400"];

/// All courses in one picture: the cost of a unit relative to that of the smallest number, both axes logarithmic.
fn picture(courses: &[Course]) -> String {
    let decades = 4.0;
    let (least, most) = (0.1_f64, 10.0_f64);
    let x = |count: f64| LEFT + count.log10() / decades * (WIDTH - LEFT - RIGHT);
    let y =
        |ratio: f64| TOP + (most / ratio.clamp(least, most)).log10() / (most / least).log10() * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        svg.write_fmt(text).expect("into a String");
        svg.push('\n');
    };
    for decade in 0..=4 {
        let count = 10f64.powi(decade);
        let (at, bottom) = (x(count), HEIGHT - BOTTOM);
        line(format_args!("<path d=\"M{at:.0} {TOP}V{bottom}\" stroke=\"#ddd\"/>"));
        line(format_args!("<text x=\"{at:.0}\" y=\"{}\" text-anchor=\"middle\">{count}</text>", bottom + 18.0));
    }
    for ratio in [0.1, 1.0, 10.0] {
        let (at, right) = (y(ratio), WIDTH - RIGHT);
        line(format_args!("<path d=\"M{LEFT} {at:.0}H{right}\" stroke=\"#ddd\"/>"));
        line(format_args!("<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{ratio}</text>", LEFT - 6.0, at + 4.0));
    }
    line(format_args!("<text x=\"{LEFT}\" y=\"18\">Cost of one unit, beside that at the smallest number</text>"));
    for (number, (course, colour)) in courses.iter().zip(COLOURS).enumerate() {
        let Some((_, first)) = course.points.first() else { continue };
        let points: String = course
            .points
            .iter()
            .map(|(count, cost)| format!("{:.1},{:.1} ", x(*count as f64), y(cost / first)))
            .collect();
        line(format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
        let (at, text) = (TOP + 16.0 * (number as f64 + 1.0), WIDTH - RIGHT + 14.0);
        line(format_args!("<text x=\"{text}\" y=\"{at}\" fill=\"{colour}\">{}</text>", course.name));
    }
    svg.push_str("</svg>\n");
    svg
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let packet = "CPU ns";
    let meeting = |publishers| Cast { publishers, watchers: 10, ..Cast::one_to(10) };
    // Words beside options choose courses by their names.
    let is_option = |at: usize| args[at].starts_with("--") || args[at - 1] == "--svg";
    let wanted: Vec<_> = (1..args.len()).filter(|at| !is_option(*at)).map(|at| &args[at]).collect();
    let course = |name, of, unit, counts: &[usize], cost: &dyn Fn(usize) -> f64| {
        let skipped = !wanted.is_empty() && !wanted.iter().any(|word| str::contains(name, word.as_str()));
        course(name, of, unit, if skipped { &[] } else { counts }, cost)
    };
    let courses = [
        course("packet to one receiver", "receivers", packet, &[1, 3, 10, 30, 100, 300, 1_000], &|count| {
            forwarding(Cast::one_to(count))
        }),
        course("packet, channels of two", "channels", packet, &[1, 3, 10, 30, 100, 300, 1_000], &|channels| {
            forwarding(Cast { channels, ..Cast::one_to(1) })
        }),
        course("packet, ten watchers", "publishers of one channel", packet, &[1, 3, 10, 30, 100], &|publishers| {
            forwarding(meeting(publishers))
        }),
        course("packet, ten receivers", "encodings sent", packet, &[1, 2, 3], &|encodings| {
            forwarding(Cast { encodings, ..Cast::one_to(10) })
        }),
        course("member told of a join or a leave", "members", packet, &MEMBERS, &joining),
        course("idle transport", "transports", "bytes", &[10, 100, 1_000, 3_000], &idle),
        course("receiver of video", "receivers", "bytes", &[1, 10, 100, 1_000], &receiving),
    ];
    if let Some(at) = args.iter().position(|arg| arg == "--svg")
        && let Some(file) = args.get(at + 1)
    {
        std::fs::write(file, picture(&courses)).expect("the picture can be written");
    }
}
