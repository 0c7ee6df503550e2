//! Channels over several nodes: what each client is told adds up to what is there, whatever the bus does. WEIRGATE_SEEDS of
//! drawn histories, from WEIRGATE_SEED_FROM on, where these are set.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use weirgate::base::id::ShardId;
use weirgate::shard::command::Command;
use weirgate::signal::{Entrance, SessionId};
use weirgate::sim::bus::EngineState;

use super::members::Cluster;

#[test]
fn a_comer_sees_who_is_on_other_nodes_from_the_start_and_they_see_it() {
    let mut cluster = Cluster::started(1, 3);
    let alice = cluster.join(0, "alice", "room");
    cluster.run(300);
    cluster.produce(0, alice, 7);
    cluster.ask(0, alice, "rename", json!({ "name": "Alice" }));
    cluster.ask(0, alice, "set-app-data", json!({ "appData": { "hand": true } }));
    let bob = cluster.join(1, "bob", "room");
    assert_eq!(cluster.client(1, bob).id, None, "its text waits for the others");
    cluster.run(40);
    assert_eq!(cluster.client(1, bob).others.len(), 1);
    assert_eq!(cluster.heard(1, bob), [""; 0], "the list has it all");
    assert_eq!(cluster.heard(0, alice), ["peer-joined"]);
    cluster.agree();
    let carol = cluster.join(2, "carol", "room");
    let elsewhere = cluster.join(2, "dora", "other");
    cluster.run(400);
    cluster.agree();
    assert_eq!((cluster.client(2, carol).others.len(), cluster.client(2, elsewhere).others.len()), (2, 0));
    let counts = cluster.nodes[&2].hub.counts();
    assert_eq!((counts.peers, counts.producers, counts.ghosts, counts.ghost_producers), (2, 0, 2, 1));
}

#[test]
fn what_happens_on_one_node_is_told_on_the_others_once_and_in_order() {
    let mut cluster = Cluster::started(1, 2);
    let alice = cluster.join(0, "alice", "room");
    let bob = cluster.join(1, "bob", "room");
    cluster.run(400);
    cluster.clear();
    cluster.produce(0, alice, 7);
    let camera = cluster.client(0, alice).own.producers.keys().next().unwrap().clone();
    cluster.ask(0, alice, "pause-producer", json!({ "producerId": camera }));
    cluster.ask(0, alice, "rename", json!({ "name": "Alice" }));
    cluster.ask(0, alice, "resume-producer", json!({ "producerId": camera }));
    cluster.run(20);
    cluster.agree();
    cluster.ask(0, alice, "close-producer", json!({ "producerId": camera }));
    cluster.leave(0, alice);
    cluster.run(20);
    let expected =
        ["new-producer", "producer-paused", "peer-updated", "producer-resumed", "producer-closed", "peer-left"];
    assert_eq!(cluster.heard(1, bob), expected);
    assert_eq!(cluster.client(1, bob).heard[4]["data"]["reason"], "closed");
    cluster.agree();
}

#[test]
fn consume_is_answered_at_once_and_orders_one_import_for_all_consumers() {
    let mut cluster = Cluster::started(1, 2);
    let alice = cluster.join(0, "alice", "room");
    cluster.run(300);
    cluster.produce(0, alice, 7);
    let bobs: Vec<SessionId> = (0..2).map(|n| cluster.join(1, &format!("bob{n}"), "room")).collect();
    cluster.run(300);
    cluster.clear();
    cluster.nodes.get_mut(&1).unwrap().commands.clear();
    let capabilities = json!({
        "codecs": [{ "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 2 }],
        "headerExtensions": [],
    });
    for bob in &bobs {
        cluster.ask(1, *bob, "create-transport", Value::Null);
        cluster.ask(1, *bob, "consume", json!({ "rtpCapabilities": capabilities }));
        let reply = cluster.client(1, *bob).replies.last().unwrap().clone();
        assert_eq!(reply["type"], "consumer-params", "{reply}");
        assert_eq!(reply["data"]["producerId"], json!(cluster.client(0, alice).own.producers.keys().next().unwrap()));
        assert!(!reply["data"]["rtpParameters"]["rtcp"]["cname"].as_str().unwrap().is_empty());
    }
    let commands = &cluster.nodes[&1].commands;
    let imports: Vec<_> = commands
        .iter()
        .filter_map(|(shard, command)| match command {
            Command::Import { producer, from, .. } => Some((*shard, *producer, from.1)),
            _ => None,
        })
        .collect();
    let [(landing, producer, ShardId(0))] = imports[..] else { panic!("{imports:?}") };
    let homes = commands.iter().filter_map(|(_, command)| match command {
        Command::Consume { producer: of, home, .. } => Some((*of, *home)),
        _ => None,
    });
    assert_eq!(homes.collect::<Vec<_>>(), [(producer, landing); 2]);
    let about = |command: &Command| matches!(command, Command::PauseProducer { .. } | Command::CloseProducer { .. });
    let camera = cluster.client(0, alice).own.producers.keys().next().unwrap().clone();
    cluster.ask(0, alice, "pause-producer", json!({ "producerId": camera }));
    cluster.run(20);
    assert_eq!(cluster.heard(1, bobs[0]), ["producer-paused", "consumer-paused"]);
    cluster.leave(0, alice);
    cluster.run(20);
    let expected = ["producer-paused", "consumer-paused", "consumer-closed", "producer-closed", "peer-left"];
    assert_eq!(cluster.heard(1, bobs[0]), expected);
    let commands = &cluster.nodes[&1].commands;
    assert!(!commands.iter().any(|(_, command)| about(command)), "its shard is told by its home");
    let drops =
        commands.iter().filter(|(shard, command)| *shard == landing && *command == Command::DropImport { producer });
    assert_eq!(drops.count(), 1);
    cluster.agree();
}

#[test]
fn a_moderator_acts_on_peers_of_other_nodes() {
    let mut cluster = Cluster::started(1, 2);
    let boss = cluster.moderator(0, "boss", "room");
    let bob = cluster.join(1, "bob", "room");
    let carl = cluster.join(1, "carl", "room");
    cluster.run(300);
    cluster.produce(1, bob, 7);
    cluster.run(20);
    cluster.clear();
    let (peer, camera) = {
        let bob = cluster.client(1, bob);
        (bob.id.clone().unwrap(), bob.own.producers.keys().next().unwrap().clone())
    };
    cluster.ask(0, boss, "mute-producer", json!({ "producerId": camera }));
    cluster.ask(0, boss, "rename", json!({ "peerId": peer, "name": "Robert" }));
    cluster.ask(0, boss, "set-grants", json!({ "peerId": peer, "grants": { "moderate": true } }));
    cluster.run(30);
    assert!(cluster.client(0, boss).replies.iter().all(|reply| reply["type"] == "ok"));
    assert_eq!(cluster.heard(0, boss), ["producer-paused", "peer-updated"]);
    assert_eq!(cluster.heard(1, bob), ["producer-muted", "peer-updated", "grants-changed"]);
    let by = json!(cluster.client(0, boss).id);
    assert!(cluster.client(1, carl).heard.iter().all(|heard| heard["data"]["by"] == by));
    assert_eq!(cluster.client(0, boss).heard[0]["data"]["muted"], true);
    cluster.agree();
    // The new moderator's right holds here too.
    let boss_id = cluster.client(0, boss).id.clone().unwrap();
    cluster.ask(1, bob, "rename", json!({ "peerId": boss_id, "name": "Former" }));
    cluster.run(30);
    assert_eq!(cluster.client(0, boss).own.name, "Former");
    let carl_id = cluster.client(1, carl).id.clone().unwrap();
    cluster.ask(1, carl, "rename", json!({ "peerId": boss_id, "name": "Nobody" }));
    assert_eq!(cluster.client(1, carl).replies.last().unwrap()["data"]["code"], "forbidden");
    cluster.clear();
    cluster.ask(0, boss, "remove-peer", json!({ "peerId": carl_id, "reason": "be kind" }));
    cluster.run(30);
    assert!(!cluster.nodes[&1].clients.contains_key(&carl));
    let left = &cluster.client(0, boss).heard[0];
    assert_eq!((&left["type"], &left["data"]["reason"]), (&json!("peer-left"), &json!("removed")));
    assert_eq!(left["data"]["message"], "be kind");
    cluster.agree();
}

#[test]
fn a_ban_and_a_lock_hold_on_every_node_that_has_the_channel() {
    let mut cluster = Cluster::started(1, 3);
    let boss = cluster.moderator(0, "boss", "room");
    let bob = cluster.join(1, "mallory", "room");
    cluster.run(300);
    let peer = cluster.client(1, bob).id.clone().unwrap();
    let again = cluster.join(0, "mallory", "room");
    cluster.run(300);
    cluster.ask(0, boss, "remove-peer", json!({ "peerId": peer, "banSeconds": 60 }));
    cluster.run(30);
    assert!(!cluster.nodes[&1].clients.contains_key(&bob) && !cluster.nodes[&0].clients.contains_key(&again));
    cluster.join(1, "carl", "room");
    cluster.run(300);
    assert!(cluster.come(1, &Entrance::named("mallory", "room")).is_none());
    // It is not known on a node without the channel, until the others have answered.
    let third = cluster.come(2, &Entrance::named("mallory", "room")).unwrap();
    cluster.run(300);
    assert!(!cluster.nodes[&2].clients.contains_key(&third));
    cluster.agree();
    cluster.ask(0, boss, "set-channel", json!({ "locked": true }));
    cluster.run(30);
    assert!(cluster.come(1, &Entrance::named("eve", "room")).is_none());
    let eve = cluster.come(2, &Entrance::named("eve", "room")).unwrap();
    cluster.run(300);
    assert!(!cluster.nodes[&2].clients.contains_key(&eve));
    cluster.ask(0, boss, "set-channel", json!({ "waiting": true }));
    cluster.run(30);
    let eve = cluster.come(2, &Entrance::named("eve", "room")).unwrap();
    cluster.run(300);
    assert_eq!(cluster.heard(2, eve), ["waiting"]);
    cluster.ask(0, boss, "set-channel", json!({ "locked": false }));
    cluster.run(300);
    assert_eq!(cluster.heard(2, eve)[..2], ["waiting", "admitted"]);
}

#[test]
fn messages_go_to_all_and_to_one_in_the_order_of_their_sender() {
    let mut cluster = Cluster::started(1, 3);
    let alice = cluster.join(0, "alice", "room");
    let bob = cluster.join(1, "bob", "room");
    let carol = cluster.join(2, "carol", "room");
    cluster.run(400);
    let to = cluster.client(1, bob).id.clone().unwrap();
    for n in 0..50 {
        let data = if n % 3 == 0 { json!({ "peerId": to, "data": n }) } else { json!({ "data": n }) };
        cluster.ask(0, alice, "send-message", data);
        cluster.run(n % 7);
    }
    cluster.run(30);
    let said = |place, client| -> Vec<u64> {
        cluster.client(place, client).messages.iter().map(|message| message["data"].as_u64().unwrap()).collect()
    };
    assert_eq!(said(1, bob), (0..50).collect::<Vec<_>>());
    assert_eq!(said(2, carol), (0..50).filter(|n| n % 3 != 0).collect::<Vec<_>>());
    assert_eq!(said(0, alice), [0; 0]);
    let from = json!(cluster.client(0, alice).id);
    assert!(cluster.client(1, bob).messages.iter().all(|message| message["from"] == from));
    assert_eq!(cluster.client(1, bob).messages[0]["to"], json!(to));
}

#[test]
fn a_dead_nodes_peers_leave_and_a_hidden_one_is_nobodys() {
    let mut cluster = Cluster::started(1, 2);
    let alice = cluster.join(0, "alice", "room");
    let bob = cluster.join(1, "bob", "room");
    let mut hidden = Entrance::named("ear", "room");
    hidden.grants.hidden = true;
    cluster.come(1, &hidden).unwrap();
    cluster.run(400);
    cluster.produce(1, bob, 7);
    cluster.run(30);
    assert_eq!(cluster.client(0, alice).others.len(), 1);
    cluster.clear();
    cluster.kill(1);
    cluster.run(7_500);
    assert_eq!(cluster.heard(0, alice), ["producer-closed", "peer-left"]);
    assert_eq!(cluster.client(0, alice).heard[0]["data"]["reason"], "fault");
    cluster.agree();
}

#[test]
fn two_that_enter_at_once_find_each_other_and_without_a_bus_nobody_waits() {
    let mut cluster = Cluster::started(1, 2);
    cluster.join(0, "alice", "room");
    cluster.join(1, "bob", "room");
    cluster.run(400);
    cluster.agree();
    cluster.bus.set(cluster.now, 0, EngineState::Dead);
    cluster.run(4_000);
    let carol = cluster.join(0, "carol", "alone");
    assert!(cluster.client(0, carol).id.is_some(), "she is answered at once");
    cluster.join(1, "dora", "alone");
    cluster.run(30_000);
    assert_eq!(cluster.client(0, carol).others.len(), 0);
    assert_eq!(cluster.nodes[&0].hub.counts().ghosts, 1, "what is known stays");
    cluster.bus.set(cluster.now, 0, EngineState::Running);
    assert!(cluster.until_agreed(6_000) > 0);
}

#[test]
fn when_all_have_left_nothing_is_left() {
    let mut cluster = Cluster::started(1, 2);
    let counts = |cluster: &Cluster| {
        cluster
            .nodes
            .values()
            .map(|node| {
                let counts = node.hub.counts();
                let objects = (counts.channels, counts.peers, counts.producers, counts.consumers, counts.transports);
                (objects, counts.ghosts, counts.ghost_producers, node.hub.channels_listened(), counts.expected_load)
            })
            .collect::<Vec<_>>()
    };
    let before = counts(&cluster);
    let people: Vec<_> = (0..6).map(|n| (n % 2, cluster.join(n % 2, &format!("u{n}"), "room"))).collect();
    cluster.run(400);
    for (place, client) in &people {
        cluster.produce(*place, *client, 7);
    }
    cluster.run(100);
    assert_eq!(cluster.nodes[&0].hub.counts().ghost_producers, 3);
    for (place, client) in people {
        cluster.leave(place, client);
    }
    cluster.run(59_000);
    assert_eq!(cluster.nodes[&0].hub.channels_listened(), 1, "it is listened to for a while");
    cluster.run(2_000);
    assert_eq!(counts(&cluster), before);
}

struct Person {
    place: usize,
    client: SessionId,
    ssrc: u32,
}

/// One step of a client, whoever it is.
fn act(cluster: &mut Cluster, rng: &mut SmallRng, people: &mut Vec<Person>) {
    let alive = |cluster: &Cluster, person: &Person| {
        cluster.nodes.get(&person.place).is_some_and(|node| node.clients.contains_key(&person.client))
    };
    people.retain(|person| alive(cluster, person));
    let (place, channel) = (rng.random_range(0..4), ["room", "hall"][rng.random_range(0..2)]);
    if people.len() < 3 || rng.random_bool(0.25) {
        if cluster.nodes.contains_key(&place) {
            let user = format!("u{}", rng.random_range(0..1_000));
            let client = match rng.random_bool(0.3) {
                true => cluster.moderator(place, &user, channel),
                false => cluster.join(place, &user, channel),
            };
            people.push(Person { place, client, ssrc: 1 });
        }
        return;
    }
    let at = rng.random_range(0..people.len());
    let Person { place, client, .. } = people[at];
    let producers: Vec<String> = cluster.client(place, client).own.producers.keys().cloned().collect();
    let one = producers.get(rng.random_range(0..producers.len().max(1))).cloned();
    let others: Vec<String> = cluster.client(place, client).others.keys().cloned().collect();
    let other = others.get(rng.random_range(0..others.len().max(1))).cloned();
    let n: u32 = rng.random_range(0..100);
    match (n % 10, one, other) {
        (0, ..) => cluster.leave(place, client),
        (1..=3, ..) => {
            people[at].ssrc += 1;
            cluster.produce(place, client, people[at].ssrc);
        }
        (4, Some(id), _) => cluster.ask(place, client, "close-producer", json!({ "producerId": id })),
        (5, Some(id), _) => cluster.ask(place, client, "pause-producer", json!({ "producerId": id })),
        (6, Some(id), _) => cluster.ask(place, client, "resume-producer", json!({ "producerId": id })),
        (7, _, Some(id)) => cluster.ask(place, client, "rename", json!({ "peerId": id, "name": format!("n{n}") })),
        (8, _, Some(id)) if n < 30 => cluster.ask(place, client, "remove-peer", json!({ "peerId": id })),
        _ => cluster.ask(place, client, "set-app-data", json!({ "appData": n })),
    }
}

fn fault(cluster: &mut Cluster, rng: &mut SmallRng) {
    let (engine, place) = (rng.random_range(0..2), rng.random_range(0..4));
    match rng.random_range(0..9) {
        0 => cluster.bus.set(cluster.now, engine, EngineState::Dead),
        1 => cluster.bus.set(cluster.now, engine, EngineState::Hanging),
        2 | 3 => cluster.bus.set(cluster.now, engine, EngineState::Running),
        4 => cluster.bus.cut(engine, true),
        5 => cluster.bus.cut(engine, false),
        6 => cluster.bus.disturb(rng.random_range(0.0..0.2), rng.random_range(0.0..0.2)),
        7 => cluster.kill(place),
        _ => {
            cluster.kill(place);
            cluster.start(place);
        }
    }
}

/// A minute of people and faults; then all is well again, and everybody is told so.
fn history(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::new(2, seed);
    (0..4).for_each(|place| cluster.start(place));
    cluster.run(500);
    let mut people = Vec::new();
    for _ in 0..120 {
        if rng.random_bool(0.15) {
            fault(&mut cluster, &mut rng);
        } else {
            act(&mut cluster, &mut rng, &mut people);
        }
        let pause = if rng.random_bool(0.5) { rng.random_range(0..30) } else { rng.random_range(0..2_000) };
        cluster.run(pause);
    }
    for engine in 0..2 {
        cluster.bus.set(cluster.now, engine, EngineState::Running);
        cluster.bus.cut(engine, false);
    }
    cluster.bus.disturb(0.0, 0.0);
    cluster.run(15_000);
    if let Some(difference) = cluster.differs() {
        panic!("seed {seed}: {difference}");
    }
    for place in 0..4 {
        let clients = cluster.nodes.get(&place).map(|node| node.clients.keys().copied().collect::<Vec<_>>());
        clients.unwrap_or_default().into_iter().for_each(|client| cluster.leave(place, client));
    }
    cluster.run(61_000);
    for node in cluster.nodes.values() {
        let counts = node.hub.counts();
        let left = (counts.channels, counts.ghosts, counts.ghost_producers, counts.producers, counts.transports);
        assert_eq!((left, node.hub.channels_listened()), ((0, 0, 0, 0, 0), 0), "seed {seed}");
        assert!(counts.expected_load.iter().all(|(_, load)| *load == 0), "seed {seed}");
    }
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

#[test]
fn after_any_faults_every_client_knows_what_is_there() {
    let (from, count) = (setting("WEIRGATE_SEED_FROM", 0), setting("WEIRGATE_SEEDS", 50));
    (from..from + count).for_each(history);
}
