//! The whole estimator on a model of a path. Where a bound is that of libwebrtc's tests
//! (goog_cc_network_control_unittest) or of RFC 8867 it says so; the others are our own. `table` keeps the outcome
//! second by second.

#[path = "congestion/model.rs"]
mod model;
#[path = "congestion/states.rs"]
mod states;
#[path = "congestion/table.rs"]
mod table;

use model::{Model, PATH, Path, Source, Stalls};
use weirgate::base::time::Instant;
use weirgate::base::units::Bitrate;
use weirgate::media::congestion::Congestion;

#[test]
fn the_target_follows_the_capacity_of_the_link() {
    // libwebrtc, UpdatesTargetRateBasedOnLinkCapacity: 500 kbit/s for 25 s: 450 ± 100; 800 for 20 s: 750 ± 150; 100 and
    // twice the delay for 50 s: 90 ± 25. Its encoder stops at 1500.
    let mut model = Model::new(Path { kbps: 500, delay_ms: 100, ..PATH }, &[Source::Smooth(1_500)]);
    model.run(25);
    assert!((350..=550).contains(&model.target()), "{}", model.target());
    model.path.kbps = 800;
    model.run(20);
    assert!((600..=900).contains(&model.target()), "{}", model.target());
    (model.path.kbps, model.path.delay_ms) = (100, 200);
    model.run(50);
    assert!((65..=115).contains(&model.target()), "{}", model.target());
}

#[test]
fn a_layered_sender_finds_capacity_steps_within_seconds() {
    // (capacity, seconds, target from, to): down within 3 s, up again within 15 although far less is sent than would
    // fit.
    let steps = [
        (2_500, 5, 2_000, 3_300),
        (1_000, 3, 600, 1_100),
        (300, 3, 150, 340),
        (2_500, 15, 1_800, 3_300),
        (60, 6, 30, 80),
    ];
    let mut model = Model::new(PATH, &[Source::Layers(&[40, 190, 740, 2_300])]);
    for (kbps, seconds, from, to) in steps {
        model.path.kbps = kbps;
        model.run(seconds);
        assert!((from..=to).contains(&model.target()), "{} after {seconds} s at {kbps}", model.target());
    }
}

#[test]
fn a_steady_link_is_used_and_its_queue_stays_short() {
    for kbps in [500, 1_000, 2_000] {
        let mut model = Model::new(Path { kbps, ..PATH }, &[Source::Smooth(10_000)]);
        model.run(20);
        model.run(40);
        let used = model.throughput(40) * 100 / kbps;
        let queued = model.flows[0].queued_ms_max;
        assert!(used >= 75 && queued <= 250, "{used} % of {kbps} with {queued} ms");
    }
}

#[test]
fn two_flows_share_a_link() {
    // By Jain's index.
    let mut model = Model::new(Path { kbps: 2_000, ..PATH }, &[Source::Smooth(5_000); 2]);
    model.run(60);
    model.run(60);
    let [a, b] = [0, 1].map(|at: usize| model.flows[at].bytes as f64);
    let fairness = (a + b) * (a + b) / (2.0 * (a * a + b * b));
    assert!(fairness > 0.9, "{fairness}: {a} {b}");
    assert!((a + b) * 8.0 / 60.0 > 1_400e3, "and they use it: {}", (a + b) * 8.0 / 60e3);
}

#[test]
fn random_loss_does_not_starve() {
    // The draft holds its rate up to 10 %, and would go down from there without end.
    for (loss, least) in [(0.02, 800), (0.05, 800), (0.10, 500)] {
        let mut model = Model::new(Path { kbps: 2_000, loss, ..PATH }, &[Source::Smooth(1_000)]);
        model.run(30);
        model.run(30);
        assert!(model.target() >= least, "{} at {loss}", model.target());
    }
}

#[test]
fn a_queue_too_short_to_be_felt_is_noticed_by_its_loss() {
    let mut model = Model::new(Path { kbps: 500, queue_ms: 20, ..PATH }, &[Source::Smooth(3_000)]);
    model.run(30);
    model.run(10);
    let used = model.throughput(10);
    assert!(used > 350 && model.target() < 700, "{used} of 500, allowed {}", model.target());
}

#[test]
fn jitter_is_not_taken_for_congestion() {
    for jitter_ms in [5, 20] {
        let mut model = Model::new(Path { kbps: 3_000, jitter_ms, ..PATH }, &[Source::Smooth(1_000)]);
        model.run(20);
        model.run(20);
        assert!(model.target() >= 700, "{} with {jitter_ms} ms", model.target());
    }
}

#[test]
fn lost_feedback_is_lived_with() {
    let mut model = Model::new(Path { kbps: 1_000, feedback_loss: 0.2, ..PATH }, &[Source::Smooth(5_000)]);
    model.run(30);
    model.run(20);
    assert!((600..=1_150).contains(&model.target()), "{}", model.target());
    assert!(model.throughput(20) > 600);
}

#[test]
fn silence_takes_the_rate_to_the_floor_and_feedback_brings_it_back() {
    // libwebrtc, CongestionWindowPushbackOnNetworkDelay: under 40 kbit/s after 3 s without any feedback.
    let mut model = Model::new(PATH, &[Source::Smooth(900)]);
    model.run(10);
    model.path.feedback_loss = 1.0;
    model.run(3);
    assert!(model.target() < 40, "{}", model.target());
    model.path.feedback_loss = 0.0;
    model.run(15);
    assert!(model.target() >= 700, "{}", model.target());
}

#[test]
fn nothing_is_known_without_feedback_and_remb_counts_where_there_is_no_other() {
    let mut congestion = Congestion::default();
    assert_eq!(congestion.target(), None);
    congestion.on_remb(Instant::ZERO, Bitrate::kbps(450));
    assert_eq!(congestion.target(), Some(Bitrate::kbps(450)));
    congestion.set_max(Some(Bitrate::kbps(200)));
    assert_eq!((congestion.target(), congestion.max()), (Some(Bitrate::kbps(200)), Some(Bitrate::kbps(200))));
    let mut model = Model::new(PATH, &[Source::Smooth(900)]);
    model.flows[0].congestion.on_remb(Instant::ZERO, Bitrate::kbps(100));
    model.run(3);
    assert_eq!(model.flows[0].congestion.target(), None, "transport-cc knows better");
    assert!(model.flows[0].congestion.available() > Some(Bitrate::kbps(500)));
    model.flows[0].congestion.set_max(Some(Bitrate::kbps(250)));
    model.run(3);
    assert_eq!(model.target(), 250);
}

/// A server or a client that stands still for a moment: the path is wide, and late packets say nothing of it.
#[test]
fn a_machine_that_stalls_is_not_a_path_that_is_full() {
    let wide = Path { kbps: 1_000_000, delay_ms: 10, ..PATH };
    let steady = Stalls::default();
    for (length, every) in [(50, 350), (100, 350), (100, 1_000), (150, 3_100), (200, 1_000), (200, 3_100)] {
        let stalls = Stalls { every, length, ..steady };
        // A busy one takes 4 ms for each packet that waits.
        let busy = Stalls { catch_up_us: 4_000, ..stalls };
        for (kbps, per_second) in [(&[800][..], 15), (&[3_000], 30), (&[20_000], 30)] {
            let pictures = Source::Pictures { layers: kbps, per_second, key_every: 60, key_size: 8 };
            for (sender, receiver) in [(stalls, steady), (steady, stalls), (stalls, stalls), (steady, busy)] {
                if receiver.catch_up_us > 1_000 && kbps[0] > 800 {
                    continue;
                }
                let mut model = Model::new(wide, &[pictures]);
                (model.sender_stalls, model.receiver_stalls) = (sender, receiver);
                model.run(10);
                let held = model.flows[0].target_min;
                assert_eq!(held, None, "{kbps:?} kbit/s, {length} ms each {every}: {sender:?} {receiver:?}");
            }
        }
    }
}

#[test]
fn a_way_that_becomes_longer_is_not_one_that_is_full() {
    for (kbps, per_second) in [(&[300][..], 15), (&[800], 15), (&[3_000], 30)] {
        let pictures = Source::Pictures { layers: kbps, per_second, key_every: 60, key_size: 8 };
        let mut model = Model::new(Path { kbps: 1_000_000, delay_ms: 10, jitter_ms: 3, ..PATH }, &[pictures]);
        for delay_ms in [10, 60, 10, 110, 310, 10, 210] {
            model.path.delay_ms = delay_ms;
            model.run(5);
            assert_eq!(model.flows[0].target_min, None, "{kbps:?} kbit/s, {delay_ms} ms");
        }
    }
}

/// Two machines that stall send everything in bursts, and a queue of 250 ms cuts them off: too much must still be seen
/// as too much.
#[test]
fn a_narrow_path_is_noticed_through_stalls() {
    for length in [0, 50, 100] {
        let pictures = Source::Pictures { layers: &[190, 740], per_second: 15, key_every: 60, key_size: 8 };
        let mut model = Model::new(Path { kbps: 50_000, delay_ms: 10, queue_ms: 250, ..PATH }, &[pictures]);
        let stalls = Stalls { every: 430, length, ..Stalls::default() };
        (model.sender_stalls, model.receiver_stalls) = (stalls, stalls);
        model.run(5);
        model.path.kbps = 300;
        model.run(10);
        assert!(model.target() < 330, "{length}: {}", model.target());
    }
}

/// Each packet is delayed by itself, and by more than the spacing: they overtake each other.
#[test]
fn nothing_is_held_back_on_a_wide_path_with_jitter() {
    for jitter_ms in [5, 10, 20, 40] {
        for (kbps, per_second) in [(&[800][..], 15), (&[3_000], 30)] {
            let pictures = Source::Pictures { layers: kbps, per_second, key_every: 60, key_size: 8 };
            let mut model = Model::new(Path { kbps: 1_000_000, delay_ms: 30, jitter_ms, ..PATH }, &[pictures]);
            model.run(60);
            let held = model.flows[0].target_min;
            assert!(held.is_none_or(|held| held >= kbps[0]), "{kbps:?} kbit/s, {jitter_ms} ms: {held:?}");
        }
    }
}

#[test]
fn a_longer_way_that_loses_on_its_own_is_not_taken_for_a_full_queue_for_good() {
    for delay_ms in [200, 400] {
        let mut model = Model::new(Path { kbps: 5_000, delay_ms: 10, loss: 0.05, ..PATH }, &[Source::Smooth(1_000)]);
        model.run(10);
        model.path.delay_ms = delay_ms;
        model.run(20);
        assert!(model.target() >= 600, "{delay_ms} ms: {}", model.target());
    }
}

/// A large picture fills the queue for a moment: that is no reason to allow less than the path has just carried.
#[test]
fn who_sends_little_is_allowed_what_the_path_carries() {
    for kbps in [250, 300, 400, 600] {
        let pictures = Source::Pictures { layers: &[190, 740], per_second: 15, key_every: 60, key_size: 8 };
        let mut model = Model::new(Path { kbps: 5_000, delay_ms: 20, ..PATH }, &[pictures]);
        model.run(5);
        model.path.kbps = kbps;
        model.run(5);
        let second = |_| {
            model.run(1);
            model.target()
        };
        let course: Vec<_> = (0..60).map(second).collect();
        assert!(course.iter().all(|target| *target >= kbps * 2 / 3), "{kbps}: {course:?}");
    }
}
