use super::*;
use crate::base::id::ShardId;
use crate::shard::command::MediaKind;
use crate::signal::cluster::{ChannelSettings, Parting};
use crate::signal::fixture::{ANNA, BERTA, call, heard, said, told};
use crate::signal::ids::Ids;
use crate::signal::ortc;
use crate::signal::pause::Pause;

const THERE: NodeId = NodeId(7);
const ELSEWHERE: NodeId = NodeId(8);

fn ids() -> [ExternalId; 3] {
    let mut ids = Ids::new([9; 32]);
    [ids.external(), ids.external(), ids.external()]
}

fn carol() -> GhostEntry {
    let [id, ..] = ids();
    GhostEntry { id, user: "carol".into(), name: None, app_data: Value::Null, away: false, moderates: false }
}

fn comes(entry: GhostEntry) -> RosterOp {
    RosterOp::Peer { entry, replaces: None, by: None }
}

fn sends(external: ExternalId) -> RosterOp {
    let parameters = json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": 7 }],
    });
    let plan = ortc::plan_producer(MediaKind::Audio, &parameters).unwrap();
    RosterOp::Producer(Box::new(ProducerEntry {
        id: external,
        peer: ids()[0],
        shard: ShardId(3),
        plan,
        app_data: Value::Null,
        pause: Pause::default(),
        silent: false,
    }))
}

struct Room {
    channel: Channel,
    desk: Desk,
}

impl Room {
    fn new() -> Room {
        let (channel, desk) = call();
        Room { channel, desk }
    }

    /// What Anna hears of it; Berta hears the same.
    fn happens(&mut self, node: NodeId, told: RosterOp) -> Vec<String> {
        happened(Instant::ZERO, &mut self.channel, &mut self.desk, node, told);
        self.heard()
    }

    fn roster(&mut self, node: NodeId, told: Vec<RosterOp>) -> Vec<String> {
        roster(Instant::ZERO, &mut self.channel, &mut self.desk, node, told, false);
        self.heard()
    }

    fn heard(&mut self) -> Vec<String> {
        let (heard, commands) = said(&mut self.desk);
        assert_eq!(commands, [], "no shard here has a ghost's producer");
        heard.into_iter().filter(|(to, _)| *to == ANNA.0).map(|(_, text)| text).collect()
    }

    fn counts(&self) -> (usize, usize, u64) {
        let ghosts = self.desk.ghosts;
        let abroad = self.channel.abroad.as_ref();
        assert_eq!(
            abroad.map_or((0, 0), |abroad| (abroad.ghosts.len(), abroad.producers)),
            (ghosts.peers, ghosts.producers)
        );
        (ghosts.peers, ghosts.producers, ghosts.refused)
    }
}

#[test]
fn a_ghost_comes_changes_and_goes_as_a_peer_does_and_each_is_told_once() {
    let mut room = Room::new();
    let [_, mic, _] = ids();
    assert_eq!(room.happens(THERE, comes(carol())), ["peer-joined "]);
    assert_eq!(room.happens(THERE, comes(carol())), [""; 0]);
    assert_eq!(room.happens(THERE, sends(mic)), ["new-producer "]);
    assert_eq!(room.happens(THERE, sends(mic)), [""; 0]);
    let pause = Pause { own: false, muted: true };
    let paused = || RosterOp::Paused { id: mic, pause, by: Some(By::Operator) };
    assert_eq!(room.happens(THERE, paused()), ["producer-paused "]);
    assert_eq!(room.happens(THERE, paused()), [""; 0]);
    let named = GhostEntry { name: Some("Carol".into()), away: true, ..carol() };
    assert_eq!(room.happens(THERE, comes(named)), ["peer-updated ", "peer-away "]);
    assert_eq!(room.happens(THERE, RosterOp::Away { id: carol().id, away: false }), ["peer-back "]);
    assert_eq!((room.channel.here(), room.channel.producers_here(), room.counts()), (2, 1, (1, 1, 0)));
    let ended = || RosterOp::ProducerEnded { id: mic, reason: "stopped", by: Some(By::Hidden) };
    assert_eq!(room.happens(THERE, ended()), ["producer-closed stopped"]);
    assert_eq!(room.happens(THERE, sends(mic)), ["new-producer "]);
    let parting = Some(Parting { reason: "removed".into(), by: By::Operator, message: None });
    let left = RosterOp::PeerEnded { id: carol().id, parting };
    assert_eq!(room.happens(THERE, left), ["producer-closed peer-left", "peer-left removed"]);
    assert_eq!((room.channel.peers.len(), room.counts()), (2, (0, 0, 0)));
    assert!(
        room.desk.placement.expected().all(|(_, load)| load == Room::new().desk.placement.expected().next().unwrap().1)
    );
}

#[test]
fn a_node_ends_and_changes_its_own_alone() {
    let mut room = Room::new();
    room.happens(THERE, comes(carol()));
    let [_, mic, _] = ids();
    room.happens(THERE, sends(mic));
    let anna = room.channel.peers[&ANNA].external;
    let camera = *room.channel.by_external.iter().find(|(external, _)| **external != mic).unwrap().0;
    let of = |id: ExternalId, from: NodeId| (from, GhostEntry { id, ..carol() });
    let (entry_of_ours, entry_of_theirs) = (of(anna, THERE), of(carol().id, ELSEWHERE));
    let mut lies = vec![
        (THERE, RosterOp::PeerEnded { id: anna, parting: None }),
        (THERE, RosterOp::ProducerEnded { id: camera, reason: "closed", by: None }),
        (THERE, RosterOp::Away { id: anna, away: true }),
        (THERE, sends(camera)),
        (THERE, RosterOp::Said { from: By::Peer(anna), to: None, data: json!(1) }),
        (ELSEWHERE, RosterOp::PeerEnded { id: carol().id, parting: None }),
        (ELSEWHERE, RosterOp::Paused { id: mic, pause: Pause { own: true, muted: false }, by: None }),
        (ELSEWHERE, RosterOp::Silent { id: mic, silent: true }),
        (ELSEWHERE, sends(ids()[2])),
        (ELSEWHERE, RosterOp::Banned { user: "anna".into(), seconds: 9, by: By::Peer(carol().id), notice: None }),
    ];
    lies.extend([entry_of_ours, entry_of_theirs].map(|(from, entry)| (from, comes(entry))));
    let all = lies.len() as u64;
    for (from, lie) in lies {
        let shown = format!("{lie:?}");
        assert_eq!(room.happens(from, lie), [""; 0], "{shown}");
    }
    assert_eq!((room.counts(), room.desk.bans.len()), ((1, 1, all), 0));
    assert_eq!(room.roster(ELSEWHERE, vec![]), [""; 0], "it has none");
    assert_eq!(room.counts().0, 1);
}

#[test]
fn a_roster_says_what_has_ended_and_what_was_missed() {
    let mut room = Room::new();
    let [_, mic, cam] = ids();
    assert_eq!(room.roster(THERE, vec![comes(carol()), sends(mic)]), ["peer-joined ", "new-producer "]);
    assert_eq!(room.roster(THERE, vec![comes(carol()), sends(mic)]), [""; 0], "asked twice");
    assert_eq!(room.roster(THERE, vec![comes(carol()), sends(cam)]), ["producer-closed closed", "new-producer "]);
    assert_eq!(room.roster(THERE, vec![]), ["producer-closed peer-left", "peer-left "]);
    assert_eq!(room.counts(), (0, 0, 0));
    let ban = RosterOp::Banned { user: "anna".into(), seconds: 9, by: By::Operator, notice: None };
    room.roster(THERE, vec![ban.clone()]);
    assert_eq!(room.desk.bans.len(), 0, "it may have been lifted");
    roster(Instant::ZERO, &mut room.channel, &mut room.desk, THERE, vec![ban], true);
    assert_eq!((room.desk.bans.len(), room.desk.dismissals.len()), (1, 1));
}

#[test]
fn what_a_dead_node_had_ends_by_fault_and_nobody_elses() {
    let mut room = Room::new();
    room.happens(THERE, comes(carol()));
    room.happens(THERE, sends(ids()[1]));
    room.happens(ELSEWHERE, comes(GhostEntry { id: ids()[2], ..carol() }));
    gone(&mut room.channel, &mut room.desk, THERE, true);
    assert_eq!(room.heard(), ["producer-closed fault", "peer-left "]);
    assert_eq!(room.counts(), (1, 0, 0));
    forget(&mut room.channel, &mut room.desk);
    assert_eq!((room.counts(), room.channel.peers.len()), ((0, 0, 0), 2));
}

#[test]
fn what_is_here_is_told_and_what_is_of_others_is_not_told_back() {
    let mut room = Room::new();
    room.happens(THERE, comes(carol()));
    room.happens(THERE, sends(ids()[1]));
    let untold = |room: &mut Room| room.channel.abroad.as_mut().unwrap().take().len();
    assert_eq!(untold(&mut room), 0);
    room.channel.peers.get_mut(&ANNA).unwrap().cname = Some("anna".into());
    closing::remove_peer(&mut room.channel, &mut room.desk, ANNA);
    assert_eq!(untold(&mut room), 2, "her producer and she herself");
    gone(&mut room.channel, &mut room.desk, THERE, false);
    assert_eq!(untold(&mut room), 0);
}

#[test]
fn there_are_only_so_many_ghosts() {
    let mut room = Room::new();
    let mut ids = Ids::new([3; 32]);
    room.channel.subscribers.clear();
    for _ in 0..=GHOSTS_PER_CHANNEL_MAX {
        room.happens(THERE, comes(GhostEntry { id: ids.external(), ..carol() }));
    }
    assert_eq!(room.counts(), (GHOSTS_PER_CHANNEL_MAX, 0, 1));
    let mut one = Room::new();
    one.happens(THERE, comes(carol()));
    for _ in 0..=PRODUCERS_PER_PEER_MAX {
        one.happens(THERE, sends(ids.external()));
    }
    assert_eq!(one.counts(), (1, PRODUCERS_PER_PEER_MAX, 1));
}

#[test]
fn settings_hold_by_the_higher_counter_and_the_first_comers_are_judged_by_them() {
    let mut room = Room::new();
    let set = |counter, locked| {
        let node = THERE;
        RosterOp::Settings {
            settings: ChannelSettings { counter, node, locked, waiting: false, peers_max: None },
            by: None,
        }
    };
    assert_eq!(room.happens(THERE, set(2, true)), ["channel-changed "]);
    assert_eq!(room.happens(THERE, set(1, false)), [""; 0]);
    assert_eq!(room.happens(THERE, set(2, false)), [""; 0]);
    room.channel.peers.get_mut(&BERTA).unwrap().grants.moderate = true;
    assert_eq!(judge(Instant::ZERO, &mut room.channel, &mut room.desk), []);
    let gone: Vec<_> = room.desk.dismissals.drain(..).map(|gone| gone.peer).collect();
    assert_eq!(gone, [ANNA], "Berta moderates");
}

#[test]
fn a_message_from_elsewhere_is_for_all_or_for_one() {
    let mut room = Room::new();
    room.happens(THERE, comes(carol()));
    let (from, berta) = (By::Peer(carol().id), room.channel.peers[&BERTA].external);
    let says = |to| RosterOp::Said { from, to, data: json!("hi") };
    for (to, expected) in [(None, vec![(1, "message "), (2, "message ")]), (Some(berta), vec![(2, "message ")])] {
        happened(Instant::ZERO, &mut room.channel, &mut room.desk, THERE, says(to));
        assert_eq!(said(&mut room.desk).0, told(&expected));
    }
    room.channel.subscribers.remove(&BERTA);
    happened(Instant::ZERO, &mut room.channel, &mut room.desk, THERE, says(Some(berta)));
    assert_eq!(heard(&mut room.desk).0, vec![]);
}
