use super::*;
use crate::shard::command::{Fingerprint, HashAlgorithm, RemoteDtlsRole};
use crate::signal::fixture::{ANNA, BERTA, CAMERA, call, said, told};

fn turn(channel: &mut Channel, desk: &mut Desk, me: PeerId, request: Request) -> Result<Answer, Code> {
    let holder = Holder::new([192, 0, 2, 1].into(), "user");
    let mut turn = Turn { now: Instant::ZERO, me, holder: &holder, channel, desk };
    turn.take(request, None).map_err(|refusal| refusal.code)
}

fn connect(transport: Option<String>) -> Request {
    let fingerprints = vec![Fingerprint { algorithm: HashAlgorithm::Sha256, value: vec![7; 32] }];
    let role = RemoteDtlsRole::ClientOrAuto;
    Request::ConnectTransport { transport, announcement: Announcement { fingerprints, role, certain: false } }
}

#[test]
fn what_is_another_peers_is_not_found() {
    let (mut channel, mut desk) = call();
    let producer = channel.producer(CAMERA).unwrap().1.external.to_string();
    let requests = || {
        let producer = producer.clone();
        [Request::PauseProducer { producer: producer.clone() }, Request::CloseProducer { producer }]
    };
    for request in requests() {
        assert_eq!(turn(&mut channel, &mut desk, BERTA, request).err(), Some(Code::NotFound));
    }
    assert_eq!(said(&mut desk), (vec![], vec![]));
    for request in requests() {
        assert!(turn(&mut channel, &mut desk, ANNA, request).is_ok());
    }
    assert!(channel.producers.is_empty());
}

#[test]
fn a_pause_is_told_and_commanded_when_it_changes_something() {
    let (mut channel, mut desk) = call();
    let producer = channel.producer(CAMERA).unwrap().1.external.to_string();
    let mut pause = || {
        let request = Request::PauseProducer { producer: producer.clone() };
        assert!(turn(&mut channel, &mut desk, ANNA, request).is_ok());
        said(&mut desk)
    };
    let news = told(&[(BERTA.0, "producer-paused "), (BERTA.0, "consumer-paused ")]);
    assert_eq!(pause(), (news, vec![Command::PauseProducer { producer: CAMERA }]));
    assert_eq!(pause(), (vec![], vec![]), "it is paused");
}

#[test]
fn an_announcement_is_for_the_transport_that_it_names_or_for_all_that_wait() {
    let (mut channel, mut desk) = call();
    assert_eq!(turn(&mut channel, &mut desk, ANNA, connect(None)).err(), Some(Code::WrongStep), "none waits");
    for _ in 0..2 {
        assert!(turn(&mut channel, &mut desk, ANNA, Request::CreateTransport { direction: None }).is_ok());
    }
    said(&mut desk);
    let waiting = channel.peers[&ANNA].transports.iter().filter(|(_, transport)| transport.awaits_announcement());
    let waiting: Vec<_> = waiting.map(|(id, transport)| (*id, transport.external.to_string())).collect();
    let mut connects = |named| {
        let outcome = turn(&mut channel, &mut desk, ANNA, connect(named));
        let announced = said(&mut desk).1.into_iter().map(|command| match command {
            Command::Announce { transport, announcement } => (transport, announcement.certain),
            other => panic!("{other:?}"),
        });
        outcome.map(|_| announced.collect::<Vec<_>>())
    };
    let [(first, _), (second, name)] = &waiting[..] else { panic!("two of them") };
    assert_eq!(connects(None), Ok(vec![(*first, false), (*second, false)]));
    assert_eq!(connects(Some(name.clone())), Ok(vec![(*second, true)]));
    assert_eq!(connects(None), Ok(vec![(*first, false)]), "the other is named");
    assert_eq!(connects(Some(name.clone())), Err(Code::WrongStep));
}
