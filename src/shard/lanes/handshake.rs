//! The handshake of a lane: DTLS as with browsers, both certificates compared with what the nodes have told, and the keys
//! taken for a lane that begins, for one that begins anew, or for one that goes on under them.

use crate::base::buffer::Path;
use crate::base::time::Now;
use crate::router::keys::LaneSlotKey;
use crate::secure::dtls::{Keying, SecureOutput, SecureSession, SessionTag, Side, is_client_hello};
use crate::secure::lane::LaneKeys;
use crate::shard::command::LaneState;
use crate::shard::drops::ShardDrop;
use crate::shard::lanes::lanes::{Lanes, Work};
use crate::shard::lanes::slot::{LaneHandshake, LaneSlot, LaneUp, SlotState};
use crate::transport::lane::Lane;
use crate::wire::lane::LaneOrder;

/// Sessions of lanes are apart from those of transports.
const LANE_TAG: u64 = 1 << 63;
const VERSIONS: (u8, u8) = (1, 1);

fn tag(key: LaneSlotKey) -> SessionTag {
    let (slot, generation) = key.to_parts();
    SessionTag(LANE_TAG | u64::from(slot) << 32 | u64::from(generation))
}

/// The lane whose session has this tag; None: it is a transport's.
pub(crate) fn lane_of(SessionTag(tag): SessionTag) -> Option<LaneSlotKey> {
    (tag & LANE_TAG != 0).then(|| LaneSlotKey::from_parts((tag >> 32) as u32 & !(1 << 31), tag as u32))
}

enum Step {
    Established(Box<Keying>),
    Ended,
}

/// Sends what a session has to say; what came of it.
fn poll(session: &mut dyn SecureSession, mut transmit: impl FnMut(&[u8])) -> Option<Step> {
    while let Some(output) = session.poll() {
        match output {
            SecureOutput::Transmit(datagram) => transmit(&datagram),
            SecureOutput::Established(keying) => return Some(Step::Established(keying)),
            SecureOutput::Closed(_) => return Some(Step::Ended),
            SecureOutput::Application(_) => {}
        }
    }
    None
}

impl Lanes {
    pub(super) fn connect(&mut self, work: &mut Work<'_>, key: LaneSlotKey) {
        let handshake = open(work, key, Side::Client);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.state = SlotState::Opening(handshake);
        self.tell(work.commons, key, LaneState::Opening);
        self.poll_session(work, key);
    }

    pub(super) fn connect_beside(&mut self, work: &mut Work<'_>, key: LaneSlotKey) {
        let handshake = open(work, key, Side::Client);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.beside = Some(handshake);
        }
        self.poll_session(work, key);
    }

    /// Takes a datagram of DTLS from the address of a known node.
    pub(super) fn take_dtls(&mut self, work: &mut Work<'_>, key: LaneSlotKey, datagram: &[u8]) {
        let (now, hello) = (work.now.mono, is_client_hello(datagram));
        let Some(slot) = self.slots.get_mut(key) else { return };
        let ours_goes_on = self.nodes.own.is_some_and(|own| own < slot.node);
        match &mut slot.state {
            SlotState::Waiting { .. } if hello => slot.state = SlotState::Opening(open(work, key, Side::Server)),
            // Both have begun: the other end answers ours.
            SlotState::Opening(handshake) if hello && handshake.side == Side::Client => {
                if ours_goes_on {
                    return;
                }
                slot.state = SlotState::Opening(open(work, key, Side::Server));
            }
            SlotState::Up(_) if hello && slot.beside.is_none() => slot.beside = Some(open(work, key, Side::Server)),
            _ => {}
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        let session = match (&mut slot.state, &mut slot.beside) {
            (SlotState::Up(_), Some(handshake)) | (SlotState::Opening(handshake), _) => &mut handshake.session,
            (SlotState::Up(up), None) => &mut up.session,
            (SlotState::Waiting { .. }, _) => return work.commons.ledger.drops.count(ShardDrop::LaneStranger),
        };
        if let Err(why) = session.handle_datagram(now, datagram) {
            work.commons.ledger.drops.secure(why);
        }
        self.poll_session(work, key);
    }

    /// Takes what the sessions of a lane have to say.
    pub(crate) fn poll_session(&mut self, work: &mut Work<'_>, key: LaneSlotKey) {
        self.touched = true;
        let (Some(local), Some(slot)) = (self.local, self.slots.get_mut(key)) else { return };
        let path = Path::udp(local, slot.remote);
        let ready = &mut work.commons.outlet.ready;
        let mut transmit = |datagram: &[u8]| ready.push(path, datagram);
        if let Some(handshake) = &mut slot.beside {
            match poll(handshake.session.as_mut(), &mut transmit) {
                Some(Step::Established(keying)) => return self.keys_beside(work, key, keying),
                Some(Step::Ended) => slot.beside = None,
                None => {}
            }
        }
        match &mut slot.state {
            SlotState::Waiting { .. } => {}
            SlotState::Opening(handshake) => match poll(handshake.session.as_mut(), &mut transmit) {
                Some(Step::Established(keying)) => self.established(work, key, &keying),
                Some(Step::Ended) => self.fail(work.commons, work.now, key, LaneState::Dead),
                None => {}
            },
            SlotState::Up(up) => {
                if let Some(Step::Ended) = poll(up.session.as_mut(), &mut transmit) {
                    self.fail(work.commons, work.now, key, LaneState::Closed);
                }
            }
        }
    }

    fn established(&mut self, work: &mut Work<'_>, key: LaneSlotKey, keying: &Keying) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !self.nodes.is_of(slot.node, &keying.peer_certificate) {
            work.commons.ledger.drops.count(ShardDrop::LaneCertificate);
            return self.fail(work.commons, work.now, key, LaneState::Dead);
        }
        let waiting = SlotState::Waiting { until: work.now.mono };
        if let SlotState::Opening(LaneHandshake { session, .. }) = std::mem::replace(&mut slot.state, waiting) {
            let lane = Lane::new(work.now.mono, LaneKeys::new(keying, 0));
            slot.state = SlotState::Up(Box::new(LaneUp { lane, session }));
            self.begin(work, key);
        }
        // What the session has left to say, such as its last flight.
        self.poll_session(work, key);
    }

    /// The first words on a lane: who we are, and what we want.
    fn begin(&mut self, work: &mut Work<'_>, key: LaneSlotKey) {
        let (now, Some(own)) = (work.now, self.nodes.own) else { return };
        let shard = self.shard.0;
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.succeeded();
        let renewed = slot.imports.renew();
        if let Some(lane) = slot.lane() {
            lane.bus_up = self.nodes.bus_up;
            let zero = now.wall.offset_nanos(-i64::try_from(now.mono.as_nanos()).unwrap_or(i64::MAX));
            lane.order(&LaneOrder::Open { versions: VERSIONS, features: 0, node: own, shard, zero });
        }
        for (producer, handle) in renewed {
            if let Some(import) = self.imports.get_mut(&producer) {
                import.handle = handle;
            }
            self.subscribe(now.mono, producer);
        }
        self.tell(work.commons, key, LaneState::Up);
    }

    /// A handshake beside a lane that is up is done.
    fn keys_beside(&mut self, work: &mut Work<'_>, key: LaneSlotKey, keying: Box<Keying>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if !self.nodes.is_of(slot.node, &keying.peer_certificate) {
            work.commons.ledger.drops.count(ShardDrop::LaneCertificate);
            slot.beside = None;
            return;
        }
        let (SlotState::Up(up), Some(handshake)) = (&mut slot.state, &mut slot.beside) else { return };
        match (handshake.side, up.lane.wants_keys(work.now.mono)) {
            (Side::Client, Some(phase)) => {
                up.lane.renew(work.now.mono, LaneKeys::new(&keying, phase), true);
                if let Some(LaneHandshake { session, .. }) = slot.beside.take() {
                    up.session = session;
                }
            }
            (Side::Client, None) => slot.beside = None,
            // The first datagram under them says whether its lane goes on or begins anew.
            (Side::Server, _) => handshake.keying = Some(keying),
        }
        self.poll_session(work, key);
    }

    /// Uses the keys of the handshake beside a lane for a datagram that is not under the lane's own.
    pub(super) fn try_beside(&mut self, work: &mut Work<'_>, key: LaneSlotKey, datagram: &[u8]) {
        let Some(phase) = datagram.get(1).copied() else { return };
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (SlotState::Up(up), Some(handshake)) = (&mut slot.state, &mut slot.beside) else { return };
        let Some(keying) = &handshake.keying else { return };
        let next = up.lane.phase().checked_add(1).unwrap_or(1);
        if phase != 0 && phase != next {
            return;
        }
        let mut keys = LaneKeys::new(keying, phase);
        // Anybody can send such a datagram: only one that opens counts.
        if keys.opener.open(&mut datagram.to_vec()).is_err() {
            return;
        }
        let keys = LaneKeys::new(keying, phase);
        let Some(LaneHandshake { session, .. }) = slot.beside.take() else { return };
        if phase == 0 {
            let (end, remote) = ((slot.node, slot.shard), slot.remote);
            self.fail(work.commons, work.now, key, LaneState::Dead);
            let Some(fresh) = self.slot_at(work.now.mono, end, remote) else { return };
            if let Some(slot) = self.slots.get_mut(fresh) {
                let lane = Lane::new(work.now.mono, keys);
                slot.state = SlotState::Up(Box::new(LaneUp { lane, session }));
                self.begin(work, fresh);
            }
        } else {
            up.lane.renew(work.now.mono, keys, false);
            up.session = session;
        }
    }

    /// The other end has said who it is. False: it is somebody else, or speaks no version of ours.
    pub(super) fn is_who(&self, slot: &LaneSlot, order: &LaneOrder<'_>) -> bool {
        let LaneOrder::Open { versions: (from, to), node, shard, .. } = order else { return false };
        (*node, *shard) == (slot.node, slot.shard.0) && *from <= VERSIONS.1 && *to >= VERSIONS.0
    }
}

fn open(work: &mut Work<'_>, key: LaneSlotKey, side: Side) -> LaneHandshake {
    let now: Now = work.now;
    LaneHandshake { session: work.engine.open(now.mono, side, tag(key)), side, since: now.mono, keying: None }
}
