//! Who speaks, as subscribers are told, and the last N: ten people take turns, cough, fall silent, on one shard and on
//! several.

use std::collections::BTreeSet;

use rand::Rng;
use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::shard::command::Metrics;
use weirgate::signal::ChannelSpread;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::sink::SinkStats;
use weirgate::sim::visitor::{Publication, Subscription, metric};
use weirgate::sim::world::{World, WorldSettings};

use crate::support::{AUDIO, CLEAN, DELAY, Page, millis, seconds};

const SILENT: u8 = 110;
const NOBODY: [usize; 0] = [];

/// People with a microphone each, and one more who only listens.
struct Meeting {
    world: World,
    pages: Vec<Page>,
    voices: Vec<Publication>,
    listener: Page,
    heard: Vec<Subscription>,
    lively: BTreeSet<usize>,
}

impl Meeting {
    fn new(settings: WorldSettings, people: usize, link: LinkSettings) -> Meeting {
        let mut world = World::new(settings);
        let pages: Vec<_> = (0..people).map(|n| Page::join(&mut world, &format!("user {n}"), link)).collect();
        let voices: Vec<_> = pages.iter().map(|page| world.publish(&page.send, &AUDIO)).collect();
        for voice in &voices {
            world.source(voice).set_level(SILENT);
        }
        let listener = Page::join(&mut world, "listener", link);
        world.ask(listener.visitor, "subscribe", Value::Null);
        let heard = voices.iter().map(|voice| world.subscribe(&listener.recv, Some(&voice.id))).collect();
        world.run(seconds(2));
        Meeting { world, pages, voices, listener, heard, lively: BTreeSet::new() }
    }

    /// Syllables of a few packets with gaps between, for whoever is lively.
    fn run(&mut self, span: Duration) {
        let until = self.world.now() + span;
        while self.world.now() < until {
            for (n, voice) in self.voices.iter().enumerate() {
                let level = match self.lively.contains(&n) {
                    true if self.world.rng().random_bool(0.75) => self.world.rng().random_range(20..40),
                    true => 65,
                    false => self.world.rng().random_range(85..SILENT),
                };
                self.world.source(voice).set_level(level);
            }
            self.world.run(millis(80));
        }
    }

    fn only(&mut self, speaker: usize) {
        self.lively = [speaker].into();
    }

    fn told_active(&mut self) -> Vec<usize> {
        let told = self.world.heard(self.listener.visitor, "active-speaker");
        told.iter().map(|data| self.place_of(&data["producerId"])).collect()
    }

    fn place_of(&self, id: &Value) -> usize {
        self.voices.iter().position(|voice| *id == json!(voice.id)).unwrap_or_else(|| panic!("{id} is of nobody"))
    }

    fn sinks(&self) -> Vec<SinkStats> {
        self.heard.iter().map(|subscription| self.world.sink(subscription)).collect()
    }

    /// The producers whose packets came meanwhile.
    fn forwarded_in(&mut self, span: Duration) -> Vec<usize> {
        let before = self.sinks();
        self.run(span);
        let after = self.sinks();
        (0..after.len()).filter(|n| after[*n].packets > before[*n].packets + 5).collect()
    }

    fn withheld(&mut self, n: usize) -> Value {
        let subscription = self.heard[n].clone();
        self.world.ask(subscription.visitor, "get-stats", json!({ "consumerId": subscription.id }))["withheld"].clone()
    }
}

fn alone(seed: u64) -> WorldSettings {
    WorldSettings::seeded(seed)
}

fn spread(seed: u64) -> WorldSettings {
    WorldSettings { shards: 4, spread: ChannelSpread::Always, ..WorldSettings::seeded(seed) }
}

#[test]
fn the_active_speaker_follows_the_turns() {
    let mut waits = Vec::new();
    for settings in [alone(400), alone(401), alone(402), spread(403), spread(404)] {
        let mut meeting = Meeting::new(settings.clone(), 10, LinkSettings::lossy(DELAY, 0.02));
        for turn in 0..8 {
            let speaker = turn * 7 % 10;
            meeting.only(speaker);
            let mut waited = Duration::ZERO;
            let mut told = Vec::new();
            while told.is_empty() && waited < seconds(3) {
                meeting.run(millis(80));
                waited += millis(80);
                told = meeting.told_active();
            }
            assert_eq!(told, [speaker], "seed {}, turn {turn}", settings.seed);
            waits.push(waited);
            meeting.run(seconds(3));
            assert_eq!(meeting.told_active(), NOBODY, "seed {}, turn {turn}: nobody else spoke", settings.seed);
        }
    }
    waits.sort();
    let (half, most) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(half <= millis(960) && most <= millis(1_440), "{waits:?}");
}

#[test]
fn coughs_and_short_words_switch_nothing() {
    for settings in [alone(410), alone(411), spread(412)] {
        let mut meeting = Meeting::new(settings, 10, CLEAN);
        for n in 0..10 {
            meeting.lively = [n].into();
            meeting.run(millis(240));
            meeting.lively.clear();
            meeting.run(millis(1_500));
        }
        assert_eq!(meeting.told_active(), NOBODY, "from silence");
        meeting.only(3);
        meeting.run(seconds(2));
        assert_eq!(meeting.told_active(), [3]);
        for n in [0, 1, 2, 4, 5, 6, 7, 8, 9] {
            // Into the speech, and into a pause for thought.
            for speaks in [true, false] {
                meeting.lively = if speaks { [3, n].into() } else { [n].into() };
                meeting.run(millis(240));
                meeting.lively = if speaks { [3].into() } else { BTreeSet::new() };
                meeting.run(millis(400));
                meeting.only(3);
                meeting.run(millis(1_500));
            }
        }
        assert_eq!(meeting.told_active(), NOBODY);
    }
}

#[test]
fn levels_are_told_while_they_change_and_not_too_often() {
    let mut meeting = Meeting::new(alone(420), 4, CLEAN);
    let levels = |meeting: &mut Meeting| meeting.world.heard(meeting.listener.visitor, "audio-levels");
    assert_eq!(levels(&mut meeting), [] as [Value; 0], "all are silent");
    meeting.lively = [1, 2].into();
    meeting.run(seconds(10));
    let told = levels(&mut meeting);
    assert!((5..=20).contains(&told.len()), "{}", told.len());
    let last = told.last().unwrap()["levels"].as_array().unwrap().clone();
    let who: BTreeSet<_> = last.iter().map(|entry| meeting.place_of(&entry["producerId"])).collect();
    assert_eq!(who, [1, 2].into());
    // Between two words it is quieter.
    let mut volumes: Vec<_> = told
        .iter()
        .flat_map(|levels| levels["levels"].as_array().unwrap())
        .map(|entry| entry["volume"].as_i64().unwrap())
        .collect();
    volumes.sort_unstable();
    assert!((-50..-20).contains(&volumes[volumes.len() / 2]), "{volumes:?}");

    // A pause by DTX: nothing comes any more at all.
    for voice in meeting.voices.clone() {
        meeting.world.source(&voice).set_paused(true);
    }
    meeting.world.run(seconds(3));
    assert_eq!(levels(&mut meeting).last(), Some(&json!({ "levels": [] })));
    assert!(meeting.world.hub_counts().peers > 0);
    meeting.world.run(seconds(5));
    assert_eq!(levels(&mut meeting), [] as [Value; 0]);
}

/// The faults that a consumer must never see: a missing number, or a packet that was there already.
fn assert_whole(meeting: &Meeting) {
    for (n, sink) in meeting.sinks().iter().enumerate() {
        assert_eq!((sink.lost, sink.nacked, sink.duplicates, sink.foreign), (0, 0, 0, 0), "user {n}: {sink:?}");
    }
}

fn beyond_last_n(world: &mut World, shards: u16) -> i64 {
    let counted = |metrics: Metrics| metric(&metrics, "beyond_last_n");
    (0..shards).map(|shard| counted(world.metrics(shard))).sum()
}

#[test]
fn the_last_n_are_forwarded_without_a_gap() {
    for settings in [alone(430), alone(431), spread(432), spread(433)] {
        let shards = settings.shards;
        let mut meeting = Meeting::new(settings, 10, CLEAN);
        assert_eq!(meeting.forwarded_in(seconds(1)).len(), 10);
        assert_eq!(beyond_last_n(&mut meeting.world, shards), 0);
        meeting.world.ask(meeting.pages[0].visitor, "set-last-n", json!({ "n": 3 }));
        assert_eq!(meeting.world.heard(meeting.listener.visitor, "last-n-changed")[0]["n"], 3);
        meeting.run(millis(100));
        assert_eq!(meeting.forwarded_in(seconds(1)).len(), 3);
        for turn in 0..12 {
            let speakers = [turn * 3 % 10, turn * 7 % 10];
            meeting.lively = speakers.into();
            // A new speaker is let in before its first words are over.
            meeting.run(millis(400));
            let forwarded = meeting.forwarded_in(millis(800));
            assert!(speakers.iter().all(|speaker| forwarded.contains(speaker)), "{turn}: {speakers:?} {forwarded:?}");
            assert!(forwarded.len() <= 4, "{turn}: three, and one that left: {forwarded:?}");
        }
        assert!(beyond_last_n(&mut meeting.world, shards) > 0);
        let forwarded = meeting.forwarded_in(seconds(1));
        for n in 0..10 {
            assert_eq!(meeting.withheld(n), json!(!forwarded.contains(&n)), "user {n}");
        }
        assert_whole(&meeting);

        meeting.world.ask(meeting.pages[0].visitor, "set-last-n", json!({ "n": null }));
        meeting.run(millis(100));
        assert_eq!(meeting.forwarded_in(seconds(1)).len(), 10);
        assert_whole(&meeting);
    }
}

#[test]
fn who_is_let_in_keeps_its_timestamps_in_step_with_the_clock() {
    let mut meeting = Meeting::new(alone(440), 3, CLEAN);
    meeting.world.ask(meeting.pages[0].visitor, "set-last-n", json!({ "n": 1 }));
    meeting.world.tap(meeting.listener.recv.end);
    for turn in 0..6 {
        meeting.only(turn % 3);
        meeting.run(seconds(3));
    }
    let ssrcs: Vec<_> = meeting.heard.iter().map(|heard| heard.ssrc).collect();
    let tap = meeting.world.end(meeting.listener.recv.end).tap_down.take().expect("it listens");
    for ssrc in ssrcs {
        let packets: Vec<_> = tap.heard().iter().filter(|packet| packet.ssrc == ssrc).collect();
        assert!(packets.len() > 200, "{}", packets.len());
        for (before, after) in packets.iter().zip(&packets[1..]) {
            assert_eq!(after.seq.0, before.seq.0.wrapping_add(1));
            let ticks = f64::from(after.timestamp.wrapping_sub(before.timestamp)) / 48_000.0;
            let passed = after.sent_at.since(before.sent_at).as_secs_f64();
            assert!((ticks - passed).abs() < 0.025, "{ticks} {passed}");
        }
    }
}
