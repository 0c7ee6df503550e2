//! Clients that know the five messages and nothing else, in every order they can bring.

use serde_json::{Value, json};
use weirgate::base::id::{ShardId, TransportId};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Announcement, Command, Event, RemoteDtlsRole};
use weirgate::signal::{Hub, HubSettings, IceServerSecret, IceServerUrl, IceServers};
use weirgate::wire::extension::Extension;

use crate::world::{FINGERPRINT, World, audio, connect, settings, video};

#[test]
fn servers_of_the_operators_come_with_a_transport_and_with_restart_ice_and_without_them_no_field() {
    let names = |data: &Value| data.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    let plain = world.get(alice, "create-transport", Value::Null, "transport-params");
    assert_eq!(names(&plain), ["dtlsParameters", "iceCandidates", "iceParameters", "id"]);

    let urls = vec![IceServerUrl::parse("turn:turn.example.org?transport=tcp").unwrap()];
    let (secret, lifetime) = (IceServerSecret::from_text("north"), Duration::from_secs(600));
    world.hub = Hub::new(HubSettings { ice_servers: IceServers { urls, secret, lifetime }, ..settings(1) });
    world.hub.tell_date(world.now, 1_800_000_000);
    let alice = world.join("alice", "room");
    let peer = world.get(alice, "subscribe", Value::Null, "subscribed")["peerId"].as_str().unwrap().to_owned();
    world.now = world.now + Duration::from_secs(5);
    let told = world.get(alice, "create-transport", Value::Null, "transport-params");
    let server = &told["iceServers"][0];
    assert_eq!(server["username"], json!(format!("1800000605:{peer}")));
    assert_eq!(server["credential"].as_str().unwrap().len(), 28);
    world.now = world.now + Duration::from_secs(60);
    let again = world.get(alice, "restart-ice", Value::Null, "ice-parameters");
    assert_eq!(again["iceServers"][0]["username"], json!(format!("1800000665:{peer}")));
}

#[test]
fn the_five_messages_are_answered_as_the_clients_read_them() {
    let mut world = World::new(1);
    let (_, produced, _) = world.publisher("bob", "room", 5000);
    let alice = world.join("alice", "room");

    let capabilities = world.capabilities(alice);
    assert_eq!(capabilities["codecs"][0]["mimeType"], "audio/opus");

    let transport = world.get(alice, "create-transport", Value::Null, "transport-params");
    let ice = &transport["iceParameters"];
    let ufrag = ice["usernameFragment"].as_str().unwrap();
    assert!(ufrag.starts_with("aa") && ufrag.len() >= 10 && ice["password"].as_str().unwrap().len() >= 24);
    assert_eq!(ice["iceLite"], true);
    let candidate = json!({ "foundation": "udp0", "priority": 2_130_706_431_u32, "ip": "192.0.2.1",
        "address": "192.0.2.1", "protocol": "udp", "port": 40_000, "type": "host" });
    assert_eq!(transport["iceCandidates"], json!([candidate]));
    let fingerprint = json!({ "algorithm": "sha-256", "value": FINGERPRINT });
    assert_eq!(transport["dtlsParameters"], json!({ "role": "auto", "fingerprints": [fingerprint] }));

    let reply = world.say(alice, "connect-transport", connect());
    assert_eq!(reply, json!({ "type": "transport-connected" }));
    let Some((ShardId(0), Command::Announce { announcement, .. })) = world.commands.last() else { panic!() };
    let Announcement { fingerprints, role: RemoteDtlsRole::ClientOrAuto, certain: false } = announcement else {
        panic!("{announcement:?}");
    };
    assert_eq!(fingerprints[0].value[..3], [0x11, 0x22, 0x33]);

    let (id, _) = world.produce(alice, video(7000, "0"));
    assert_eq!(id.len(), 36);
    let Some((_, Command::Produce { transport: None, paused: false, spec, .. })) = world.commands.last() else {
        panic!()
    };
    assert_eq!(spec.encodings[0].ssrc.map(|ssrc| ssrc.0), Some(7000));

    let consumer = world.consume(alice, json!({}));
    assert_eq!((&consumer["producerId"], &consumer["kind"]), (&json!(produced), &json!("audio")));
    assert_eq!((&consumer["paused"], &consumer["producerPaused"]), (&json!(false), &json!(false)));
    assert_eq!(consumer["type"], "simple");
    let parameters = &consumer["rtpParameters"];
    assert_eq!((&parameters["mid"], &parameters["rtcp"]["cname"]), (&json!("0"), &json!("cname-5000")));
    let Some((_, Command::Consume { paused: false, home: ShardId(0), spec, .. })) = world.commands.last() else {
        panic!()
    };
    assert_eq!(parameters["encodings"][0]["ssrc"], spec.ssrc.0);
}

#[test]
fn consume_gives_one_producer_after_the_other_and_then_says_that_there_is_none() {
    let mut world = World::new(1);
    let (bob, first, _) = world.publisher("bob", "room", 5000);
    let (second, _) = world.produce(bob, video(6000, "1"));
    let (_, third, _) = world.publisher("carol", "room", 5000);
    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);
    world.produce(alice, audio(1, "0"));
    for expected in [first, second, third] {
        assert_eq!(world.consume(alice, json!({}))["producerId"], json!(expected));
    }
    let capabilities = world.capabilities(alice);
    let (code, _) = world.refused(alice, "consume", json!({ "rtpCapabilities": capabilities }));
    assert_eq!(code, "no-producer");
}

/// AV1 in profile 1 is another codec: neither the router nor a receiver of profile 0 has it.
#[test]
fn av1_of_another_profile_is_unsupported_and_a_receiver_of_one_is_passed_over() {
    let av1 = |parameters: Value| {
        let mut data = video(6000, "1");
        data["rtpParameters"]["codecs"][0]["mimeType"] = json!("video/AV1");
        data["rtpParameters"]["codecs"][0]["parameters"] = parameters;
        data
    };
    let mut world = World::new(1);
    let bob = world.join("bob", "room");
    world.create(bob, Value::Null);
    let (code, message) = world.refused(bob, "produce", av1(json!({ "profile": 1 })));
    assert_eq!(code, "unsupported");
    assert!(
        message.starts_with("data.rtpParameters.codecs[0]: video/AV1/90000 profile=1 is not supported"),
        "{message}"
    );
    let (first, _) = world.produce(bob, av1(json!({})));
    let mut other = video(7000, "2");
    other["rtpParameters"]["codecs"][0]["payloadType"] = json!(99);
    other["rtpParameters"]["codecs"][1]["parameters"]["apt"] = json!(99);
    let (second, _) = world.produce(bob, other);

    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);
    let receives = |parameters: Value| {
        let codec = |name: &str, payload_type: u8, parameters: Value| {
            json!({ "kind": "video", "mimeType": name, "preferredPayloadType": payload_type, "clockRate": 90000,
                "parameters": parameters })
        };
        let codecs = [codec("video/AV1", 122, parameters), codec("video/VP8", 100, json!({}))];
        json!({ "codecs": codecs, "headerExtensions": [] })
    };
    let profile_1 = receives(json!({ "profile": 1 }));
    let consumer = world.get(alice, "consume", json!({ "rtpCapabilities": profile_1 }), "consumer-params");
    assert_eq!(consumer["producerId"], json!(second), "passed over");
    let named = json!({ "rtpCapabilities": profile_1, "producerId": first });
    assert_eq!(world.refused(alice, "consume", named).0, "unsupported");
    let profile_0 = receives(json!({ "profile": "0", "level-idx": 5 }));
    let consumer = world.get(alice, "consume", json!({ "rtpCapabilities": profile_0 }), "consumer-params");
    assert_eq!(consumer["producerId"], json!(first));
}

/// Extensions that a consumer did not agree to are not in its shard's spec.
#[test]
fn a_shard_is_told_of_the_extensions_that_were_agreed_alone() {
    let mut world = World::new(1);
    let (_, _, _) = world.publisher("bob", "room", 5000);
    let mid = json!({ "kind": "audio", "uri": Extension::Mid.uri(), "preferredId": 1 });
    for (agreed, extensions) in [(json!([]), &[][..]), (json!([mid]), &[Extension::Mid])] {
        let alice = world.join("alice", "room");
        world.create(alice, Value::Null);
        let mut capabilities = world.capabilities(alice);
        capabilities["headerExtensions"] = agreed;
        let consumer = world.get(alice, "consume", json!({ "rtpCapabilities": capabilities }), "consumer-params");
        assert_eq!(consumer["rtpParameters"]["headerExtensions"].as_array().map(Vec::len), Some(extensions.len()));
        let Some((_, Command::Consume { spec, .. })) = world.commands.last() else { panic!() };
        let told: Vec<_> = Extension::ALL.into_iter().filter(|e| spec.extensions.contains(*e)).collect();
        assert_eq!(told, extensions);
    }
}

#[test]
fn consume_passes_over_what_cannot_be_received_and_who_is_silent() {
    let mut world = World::new(1);
    let (bob, audio_id, audio_number) = world.publisher("bob", "room", 5000);
    let (video_id, _) = world.produce(bob, video(6000, "1"));
    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);

    let mut deaf = world.capabilities(alice);
    deaf["codecs"].as_array_mut().unwrap().retain(|codec| codec["kind"] == "video");
    let consumer = world.get(alice, "consume", json!({ "rtpCapabilities": deaf }), "consumer-params");
    assert_eq!(consumer["producerId"], json!(video_id));
    let named = json!({ "rtpCapabilities": deaf, "producerId": audio_id });
    assert_eq!(world.refused(alice, "consume", named).0, "unsupported");

    world.event(Event::ProducerSilent { producer: audio_number, silent: true });
    let capabilities = world.capabilities(alice);
    assert_eq!(world.refused(alice, "consume", json!({ "rtpCapabilities": capabilities })).0, "no-producer");
    world.event(Event::ProducerSilent { producer: audio_number, silent: false });
    assert_eq!(world.consume(alice, json!({}))["producerId"], json!(audio_id));
}

#[test]
fn steps_out_of_order_are_named() {
    let mut world = World::new(1);
    world.publisher("bob", "room", 5000);
    let alice = world.join("alice", "room");
    let capabilities = world.capabilities(alice);
    assert_eq!(world.refused(alice, "connect-transport", connect()).0, "wrong-step");
    assert_eq!(world.refused(alice, "produce", audio(1, "0")).0, "wrong-step");
    let (code, message) = world.refused(alice, "consume", json!({ "rtpCapabilities": capabilities }));
    assert!(code == "wrong-step" && message.contains("create-transport"), "{message}");

    let (_, transport) = world.create(alice, Value::Null);
    world.get(alice, "connect-transport", connect(), "transport-connected");
    world.connected(transport);
    assert_eq!(world.refused(alice, "connect-transport", connect()).0, "wrong-step");
}

#[test]
fn an_announcement_without_a_transport_goes_to_all_that_are_not_connected() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    let numbers: Vec<_> = (0..4).map(|_| world.create(alice, Value::Null)).collect();
    let named = json!({ "transportId": numbers[3].0, "dtlsParameters": connect()["dtlsParameters"] });
    world.get(alice, "connect-transport", named.clone(), "transport-connected");
    world.connected(numbers[1].1);
    world.take_commands();
    world.get(alice, "connect-transport", connect(), "transport-connected");
    let target = |command| match command {
        Command::Announce { transport, announcement } => (transport, announcement.certain),
        other => panic!("{other:?}"),
    };
    let targets: Vec<_> = world.take_commands().into_iter().map(target).collect();
    assert_eq!(targets, [(numbers[0].1, false), (numbers[2].1, false)]);
    assert_eq!(world.refused(alice, "connect-transport", named).0, "wrong-step", "it was connected by name before");
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    CreateSend,
    ConnectSend,
    Produce,
    SendConnected,
    Bound,
    CreateReceive,
    Consume,
    ConnectReceive,
    ReceiveConnected,
    ConsumeMore,
}

/// Every way to run two sequences at once.
fn interleavings(left: &[Step], right: &[Step]) -> Vec<Vec<Step>> {
    let (Some((&first, left_rest)), Some((&second, right_rest))) = (left.split_first(), right.split_first()) else {
        return vec![[left, right].concat()];
    };
    let with = |step: Step, rest: Vec<Vec<Step>>| {
        rest.into_iter().map(move |tail| [vec![step], tail].concat()).collect::<Vec<_>>()
    };
    [with(first, interleavings(left_rest, right)), with(second, interleavings(left, right_rest))].concat()
}

/// Runs one order and gives the transports: made to send, made to receive, and those that the consumers went to.
fn run(order: &[Step]) -> (TransportId, TransportId, Vec<TransportId>) {
    let mut world = World::new(1);
    world.publisher("bob", "room", 5000);
    world.publisher("carol", "room", 6000);
    let alice = world.join("alice", "room");
    let (mut send, mut receive, mut producer, mut consumed_on) = (None, None, None, Vec::new());
    for step in order {
        match step {
            Step::CreateSend => send = Some(world.create(alice, Value::Null).1),
            Step::CreateReceive => receive = Some(world.create(alice, Value::Null).1),
            Step::ConnectSend | Step::ConnectReceive => {
                world.get(alice, "connect-transport", connect(), "transport-connected");
            }
            Step::Produce => producer = Some(world.produce(alice, audio(1, "0")).1),
            Step::SendConnected => world.connected(send.unwrap()),
            Step::ReceiveConnected => world.connected(receive.unwrap()),
            Step::Bound => world.event(Event::ProducerBound { producer: producer.unwrap(), transport: send.unwrap() }),
            Step::Consume | Step::ConsumeMore => {
                world.consume(alice, json!({}));
                let Some((_, Command::Consume { transport, .. })) = world.commands.last() else { panic!() };
                consumed_on.push(*transport);
            }
        }
    }
    (send.unwrap(), receive.unwrap(), consumed_on)
}

/// How many orders there were in which a client can be told from one that made its transports the other way round.
fn receives_where_it_should(sending: &[Step], receiving: &[Step], ambiguous: impl Fn(&[Step]) -> bool) -> usize {
    let orders = interleavings(sending, receiving).into_iter().filter(|order| !ambiguous(order));
    let check = |order: Vec<Step>| {
        let (send, receive, consumed_on) = run(&order);
        assert_eq!(consumed_on, [receive, receive], "{order:?}, sending on {send:?}");
    };
    orders.map(check).count()
}

fn at(order: &[Step], step: Step) -> usize {
    order.iter().position(|other| *other == step).expect("every step is in the order")
}

#[test]
fn a_strict_mediasoup_client_receives_on_its_receiving_transport_in_every_order() {
    use Step::*;
    let sending = [CreateSend, ConnectSend, Produce, SendConnected, Bound];
    let receiving = [CreateReceive, Consume, ConnectReceive, ReceiveConnected, ConsumeMore];
    // Neither is connected, or the wrong one is the newer: nobody can tell.
    let ambiguous = |order: &[Step]| {
        at(order, CreateReceive) < at(order, CreateSend)
            && at(order, CreateSend) < at(order, Consume)
            && at(order, Consume) < at(order, SendConnected)
    };
    assert!(receives_where_it_should(&sending, &receiving, ambiguous) > 150);
}

#[test]
fn a_client_that_connects_before_it_consumes_receives_there_in_every_order() {
    use Step::*;
    let sending = [CreateSend, ConnectSend, Produce, SendConnected, Bound];
    let receiving = [CreateReceive, ConnectReceive, Consume, ReceiveConnected, ConsumeMore];
    let ambiguous = |order: &[Step]| at(order, CreateReceive) < at(order, CreateSend);
    assert!(receives_where_it_should(&sending, &receiving, ambiguous) > 100);
}

#[test]
fn every_order_on_one_transport_works() {
    use Step::*;
    for order in interleavings(&[ConnectSend, SendConnected], &[Produce, Bound]) {
        let order = [vec![CreateSend, CreateReceive], order, vec![Consume, ConsumeMore]].concat();
        let (_, receive, consumed_on) = run(&order);
        assert_eq!(consumed_on, [receive, receive]);
    }
    for place in 0..=3 {
        let mut world = World::new(1);
        world.publisher("bob", "room", 5000);
        let alice = world.join("alice", "room");
        let (_, only) = world.create(alice, Value::Null);
        for step in 0..4 {
            if step == place {
                world.consume(alice, json!({}));
                let Some((_, Command::Consume { transport, .. })) = world.commands.last() else { panic!() };
                assert_eq!(*transport, only);
            }
            match step {
                0 => drop(world.get(alice, "connect-transport", connect(), "transport-connected")),
                1 => world.connected(only),
                2 => {
                    let (_, producer) = world.produce(alice, audio(1, "0"));
                    world.event(Event::ProducerBound { producer, transport: only });
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_named_or_directed_transport_is_taken_whatever_else_there_is() {
    let mut world = World::new(1);
    world.publisher("bob", "room", 5000);
    world.publisher("carol", "room", 5000);
    let alice = world.join("alice", "room");
    let (_, receive) = world.create(alice, json!({ "direction": "recv" }));
    let (_, idle) = world.create(alice, Value::Null);
    let (named, named_number) = world.create(alice, json!({ "direction": "send" }));
    world.connected(idle);
    let carrier = |world: &World| match world.commands.last() {
        Some((_, Command::Consume { transport, .. })) => *transport,
        other => panic!("{other:?}"),
    };
    let consumer = world.consume(alice, json!({ "transportId": named }));
    assert_eq!((carrier(&world), &consumer["transportId"]), (named_number, &json!(named)));
    world.consume(alice, json!({}));
    assert_eq!(carrier(&world), receive);
}

#[test]
fn a_connected_transport_without_producers_comes_before_an_unconnected_one() {
    let mut world = World::new(1);
    world.publisher("bob", "room", 5000);
    let alice = world.join("alice", "room");
    let (_, sends) = world.create(alice, Value::Null);
    let (_, idle) = world.create(alice, Value::Null);
    world.create(alice, Value::Null);
    let (_, producer) = world.produce(alice, audio(1, "0"));
    world.connected(sends);
    world.connected(idle);
    world.event(Event::ProducerBound { producer, transport: sends });
    world.consume(alice, json!({}));
    let Some((_, Command::Consume { transport, .. })) = world.commands.last() else { panic!() };
    assert_eq!(*transport, idle);
}

#[test]
fn audio_and_video_of_a_peer_share_one_cname_also_when_it_gave_none() {
    let mut world = World::new(1);
    let bob = world.join("bob", "room");
    world.create(bob, Value::Null);
    for (mut parameters, cname) in [(audio(1, "0"), json!("")), (video(2, "1"), json!("later"))] {
        parameters["rtpParameters"]["rtcp"]["cname"] = cname;
        world.produce(bob, parameters);
    }
    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);
    let (one, two) = (world.consume(alice, json!({})), world.consume(alice, json!({})));
    let cname = |consumer: &Value| consumer["rtpParameters"]["rtcp"]["cname"].as_str().unwrap().to_owned();
    assert!(!cname(&one).is_empty());
    assert_eq!(cname(&one), cname(&two));
    assert_eq!(two["rtpParameters"]["msid"], "stream track");
}
