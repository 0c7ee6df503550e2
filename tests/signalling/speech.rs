//! Levels, the active speaker and the last N as clients are told of them, from scripted shards.

use serde_json::{Value, json};
use weirgate::base::id::ProducerId;
use weirgate::base::time::{Duration, Instant};
use weirgate::media::loudness::Loudness;
use weirgate::shard::command::{Command, Event, Speech};
use weirgate::signal::{Hub, LastN, SessionId};

use crate::world::{World, audio, settings, video};

const TALKS: Speech = Speech { level: 30, immediate: 9, medium: 5, long: 8 };

struct Room {
    world: World,
    people: Vec<(SessionId, String, ProducerId)>,
    listener: SessionId,
}

impl Room {
    fn new(people: u32, last_n: LastN) -> Room {
        let mut world = World::new(1);
        world.hub = Hub::new(weirgate::signal::HubSettings { last_n, ..settings(1) });
        let people = (0..people).map(|n| world.publisher(&format!("user {n}"), "room", n + 1)).collect();
        let listener = world.join("listener", "room");
        Room { world, people, listener }
    }

    fn subscribed(people: u32, last_n: LastN) -> Room {
        let mut room = Room::new(people, last_n);
        room.world.get(room.listener, "subscribe", Value::Null, "subscribed");
        room.world.take_commands();
        room
    }

    /// A shard tells so much later, and the hub's own deadlines are kept.
    fn tells(&mut self, millis: u64, levels: &[(usize, Speech)]) {
        self.wait(millis);
        let levels = levels.iter().map(|(n, speech)| (self.people[*n].2, *speech)).collect();
        self.world.event(Event::Speech { levels });
    }

    fn wait(&mut self, millis: u64) {
        let until = self.world.now + Duration::from_millis(millis);
        while let Some(due) = self.world.hub.poll_timeout().filter(|due| *due <= until) {
            self.world.now = self.world.now.max(due);
            self.world.hub.handle_timeout(self.world.now);
            self.world.drain();
        }
        self.world.now = until;
    }

    fn heard(&mut self, kind: &str) -> Vec<Value> {
        self.world.heard_of(self.listener, kind)
    }

    fn withheld(&mut self) -> Vec<(usize, bool)> {
        let orders = self.world.take_commands().into_iter().filter_map(|command| match command {
            Command::Withhold { producer, withheld } => Some((producer, withheld)),
            _ => None,
        });
        orders.map(|(id, withheld)| (self.people.iter().position(|who| who.2 == id).unwrap(), withheld)).collect()
    }
}

fn listens(commands: Vec<Command>) -> Vec<(ProducerId, bool)> {
    let of = |command| match command {
        Command::Listen { producer, listen } => Some((producer, listen)),
        _ => None,
    };
    commands.into_iter().filter_map(of).collect()
}

#[test]
fn shards_listen_as_long_as_anybody_wants_to_know() {
    let mut room = Room::new(2, LastN::Off);
    let ids: Vec<_> = room.people.iter().map(|(.., id)| *id).collect();
    assert_eq!(listens(room.world.take_commands()), [], "nobody has subscribed");
    room.world.get(room.listener, "subscribe", Value::Null, "subscribed");
    assert_eq!(listens(room.world.take_commands()), [(ids[0], true), (ids[1], true)]);

    let first = room.people[0].0;
    room.world.produce(first, video(9, "1"));
    let mut levelless = audio(20, "2");
    levelless["rtpParameters"]["headerExtensions"].as_array_mut().unwrap().truncate(1);
    room.world.produce(first, levelless);
    assert_eq!(listens(room.world.take_commands()), [], "neither says how loud it is");
    let (_, later) = room.world.produce(first, audio(30, "3"));
    assert_eq!(listens(room.world.take_commands()), [(later, true)]);

    room.world.get(first, "subscribe", Value::Null, "subscribed");
    room.world.leave(room.listener);
    assert_eq!(listens(room.world.take_commands()), []);
    room.world.leave(first);
    assert_eq!(listens(room.world.take_commands()), [(ids[1], false)]);
    // The log waits for the shard's counts of a peer that has left.
    let waits = room.world.hub.poll_timeout();
    room.world.event(Event::Speech { levels: vec![(ids[1], TALKS)] });
    assert_eq!(room.world.hub.poll_timeout(), waits, "reports that cross with the order wake nobody");
}

#[test]
fn subscribers_are_told_who_speaks_and_how_loud() {
    let mut room = Room::subscribed(3, LastN::Off);
    let bystander = room.world.join("bystander", "room");
    let elsewhere = room.world.join("elsewhere", "another room");
    room.world.get(elsewhere, "subscribe", Value::Null, "subscribed");
    room.tells(1_000, &[(1, TALKS), (2, Speech { level: 50, ..Speech::SILENCE })]);
    let heard = room.world.heard(room.listener);
    let active = heard.iter().find(|message| message["type"] == "active-speaker").unwrap()["data"].clone();
    assert_eq!(active["producerId"], room.people[1].1);
    let levels = heard.iter().find(|message| message["type"] == "audio-levels").unwrap()["data"]["levels"].clone();
    assert_eq!((&levels[0]["producerId"], &levels[0]["volume"]), (&json!(room.people[1].1), &json!(-30)));
    assert_eq!((&levels[1]["producerId"], &levels[1]["volume"]), (&json!(room.people[2].1), &json!(-50)));
    assert_eq!(levels[0]["peerId"], active["peerId"]);
    assert_eq!(room.world.heard(bystander), [] as [Value; 0], "it has not subscribed");
    assert_eq!(room.world.heard(elsewhere), [] as [Value; 0], "it is in another channel");

    // A later subscriber is told at once.
    let snapshot = room.world.get(bystander, "subscribe", Value::Null, "subscribed");
    assert_eq!((&snapshot["activeSpeaker"], &snapshot["lastN"]), (&active, &Value::Null));

    // The shard falls silent without a word: so do they.
    room.wait(2_000);
    assert_eq!(room.heard("audio-levels"), [json!({ "levels": [] })]);
    assert_eq!(room.world.hub.poll_timeout(), None, "nobody looks at a quiet channel");

    let speaker = room.people[1].0;
    room.world.leave(speaker);
    assert_eq!(room.heard("active-speaker"), [json!({ "producerId": null, "peerId": null })]);
}

#[test]
fn however_often_shards_tell_clients_are_told_at_a_rate() {
    let mut room = Room::subscribed(40, LastN::Off);
    for n in 0..1_000u64 {
        let level = |who: usize| 20 + ((n * 7 + who as u64 * 13) % 40) as u8;
        let levels: Vec<_> = (0..40).map(|who| (who, Speech { level: level(who), ..TALKS })).collect();
        room.tells(10, &levels);
    }
    let heard = room.world.heard(room.listener);
    let count = |kind: &str| heard.iter().filter(|message| message["type"] == kind).count();
    assert!((15..=21).contains(&count("audio-levels")), "{}", count("audio-levels"));
    assert_eq!(count("active-speaker"), 1, "all speak at once: the first keeps the word");
    let of_levels = heard.iter().filter(|message| message["type"] == "audio-levels");
    assert!(of_levels.map(|message| message["data"]["levels"].as_array().unwrap().len()).all(|listed| listed <= 16));
}

#[test]
fn peers_set_the_last_n_where_the_server_lets_them() {
    for last_n in [LastN::Off, LastN::Fixed(5)] {
        let mut room = Room::subscribed(1, last_n);
        let (code, message) = room.world.refused(room.listener, "set-last-n", json!({ "n": 3 }));
        assert!(code == "unsupported" && message.contains("--last-n peers"), "{message}");
    }
    let mut room = Room::subscribed(4, LastN::Peers);
    for wrong in [json!(0), json!(101), json!(1.5), json!("3"), json!(-1)] {
        let (code, message) = room.world.refused(room.people[0].0, "set-last-n", json!({ "n": wrong }));
        assert!(code == "bad-field" && message.contains("data.n: a whole number from 1 to 100"), "{message}");
    }
    assert_eq!(room.world.take_commands(), [], "nothing wrong reaches a shard");
    let first = room.people[0].0;
    assert_eq!(room.world.get(first, "set-last-n", json!({ "n": 2 }), "last-n"), json!({ "n": 2 }));
    assert_eq!(room.withheld(), [(2, true), (3, true)]);
    assert_eq!(room.heard("last-n-changed")[0]["n"], 2);
    room.world.get(first, "set-last-n", json!({ "n": 2 }), "last-n");
    assert_eq!(room.heard("last-n-changed"), [] as [Value; 0], "it is so already");

    room.tells(20, &[(3, TALKS)]);
    assert_eq!(room.withheld(), [(1, true), (3, false)], "let in at once");
    let stranger = room.world.publisher("late", "room", 77);
    room.people.push(stranger);
    assert_eq!(room.withheld(), [(4, true)]);
    let leaver = room.people[0].0;
    room.world.leave(leaver);
    assert_eq!(room.withheld(), [(1, false)]);
    let other = room.people[1].0;
    assert_eq!(room.world.get(other, "set-last-n", json!({ "n": null }), "last-n"), json!({ "n": null }));
    assert_eq!(room.withheld(), [(2, false), (4, false)]);
}

#[test]
fn a_server_that_sets_the_last_n_needs_no_subscriber_for_it() {
    let mut room = Room::new(3, LastN::Fixed(2));
    let commands = room.world.take_commands();
    let third = room.people[2].2;
    assert_eq!(commands.iter().filter(|command| matches!(command, Command::Listen { listen: true, .. })).count(), 3);
    assert!(commands.contains(&Command::Withhold { producer: third, withheld: true }));
    room.tells(100, &[(2, TALKS)]);
    assert_eq!(room.withheld(), [(1, true), (2, false)]);
    let snapshot = room.world.get(room.listener, "subscribe", Value::Null, "subscribed");
    assert_eq!(snapshot["lastN"], 2);
    // Without a way to tell how loud it is, it is left alone.
    let first = room.people[0].0;
    let mut levelless = audio(20, "2");
    levelless["rtpParameters"]["headerExtensions"].as_array_mut().unwrap().truncate(1);
    room.world.produce(first, levelless);
    assert_eq!(room.withheld(), []);
}

/// A talker's levels from a seed: words of 200 to 900 ms, pauses of 100 to 400 ms between.
struct Talker {
    seed: u64,
    loudness: Loudness,
    until_ms: u64,
    speaks: bool,
}

impl Talker {
    fn draw(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn packet(&mut self, now_ms: u64, has_the_word: bool) {
        if now_ms >= self.until_ms {
            self.speaks = !self.speaks;
            let lasts = if self.speaks { 200 + self.draw(700) } else { 100 + self.draw(300) };
            self.until_ms = now_ms + lasts;
        }
        let level = if has_the_word && self.speaks { 22 + self.draw(18) } else { 72 + self.draw(12) };
        self.loudness.on_packet(Instant::from_nanos(now_ms * 1_000_000), Some(level as u8));
    }
}

#[test]
fn the_word_goes_round_among_seeded_talkers() {
    let mut slowest = Duration::ZERO;
    for seed in 0..40u64 {
        let mut room = Room::subscribed(4, LastN::Off);
        let talker = |n: u64| Talker { seed: seed * 4 + n, loudness: Loudness::default(), until_ms: 0, speaks: false };
        let mut talkers: Vec<_> = (0..4).map(talker).collect();
        room.wait(1_000);
        let mut holder = 0;
        for turn in 0..10 {
            holder = (holder + 1 + (seed as usize + turn) % 3) % 4;
            let began = room.world.now;
            let mut told = Vec::new();
            for step in 0..400u64 {
                room.wait(20);
                let now = room.world.now;
                for (n, talker) in talkers.iter_mut().enumerate() {
                    // In the second half of a turn somebody else coughs.
                    let coughs = n == (holder + 2) % 4 && (300..315).contains(&step);
                    if step == 0 && n == holder {
                        (talker.speaks, talker.until_ms) = (true, now.as_millis() + 600);
                    }
                    match coughs {
                        true => talker.loudness.on_packet(now, Some(15)),
                        false => talker.packet(now.as_millis(), n == holder),
                    }
                }
                if step % 15 == 0 {
                    let levels: Vec<_> =
                        talkers.iter_mut().enumerate().map(|(n, who)| (n, who.loudness.tell(now))).collect();
                    room.tells(0, &levels);
                }
                for speaker in room.heard("active-speaker") {
                    told.push((speaker["producerId"].clone(), room.world.now.since(began)));
                }
            }
            let expected = json!(room.people[holder].1);
            assert!(told.len() == 1 && told[0].0 == expected, "seed {seed}, turn {turn}: {told:?}");
            slowest = slowest.max(told[0].1);
        }
    }
    assert!(slowest <= Duration::from_millis(1_600), "{slowest:?}");
}
