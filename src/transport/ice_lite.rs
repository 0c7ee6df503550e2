//! The ICE-lite agent of one transport (RFC 8445 section 2.5): it answers connectivity checks and keeps the valid
//! paths, the nominated one, and the time of consent. It sends nothing by itself, and knows nothing of sockets or of
//! other transports: the shard has found the transport by the ufrag before it calls.

use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::error_code::{CODE_ROLE_CONFLICT, CODE_UNKNOWN_ATTRIBUTE};
use stun::message::{BINDING_ERROR, BINDING_SUCCESS, Message, MessageType, Setter};
use stun::uattrs::UnknownAttributes;
use stun::xoraddr::XorMappedAddress;

use crate::base::buffer::Path;
use crate::base::limits::{CHECK_BYTES_MAX, CONSENT, REMOTE_ADDRESSES_PER_TRANSPORT_MAX};
use crate::base::time::{Duration, Instant};
use crate::transport::stun::{
    ICE_CONTROLLED, IntegrityKey, NOMINATION, NOMINATION_EARLIER, NotStun, PRIORITY, StunClass, StunView,
    USE_CANDIDATE, finish,
};
pub use crate::transport::stun::{StunPeek, peek};

/// How long a nominated path holds out against nominations of lower priority since its own last check, if that
/// nominated too: Firefox nominates every pair that works, and means the best of them. A client that checks the
/// selected path without nominating it has changed its mind, and is followed at once.
const NOMINATION_HOLD: Duration = Duration::from_secs(5);

/// The most unknown attributes that an error names.
const UNKNOWN_NAMED_MAX: usize = 8;

/// Our half of the credentials; the ufrag starts with the owner shard's label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceCredentialsLocal {
    pub ufrag: String,
    pub pwd: String,
}

/// The changes of one authenticated request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IceOutcome {
    /// `reply` holds an answer for the path of the request.
    pub replied: bool,
    /// This path passed its first check.
    pub path_validated: Option<Path>,
    /// This path is no longer valid: it was silent too long, or gave way to a newer one.
    pub path_removed: Option<Path>,
    pub selected_changed: bool,
    /// Consent had run out, and this check gave it back.
    pub revived: bool,
}

/// Why a datagram was dropped without an answer. Error replies to unauthenticated requests would let anybody use us to
/// send to an address that is not theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IceDrop {
    Malformed,
    /// Longer than [`CHECK_BYTES_MAX`].
    TooLong,
    /// A keep-alive (RFC 8445 section 11), which wants no answer.
    Indication,
    GoogPing,
    /// A response, or a method other than Binding.
    NotARequest,
    NoUsername,
    WrongUfrag,
    NoIntegrity,
    BadIntegrity,
    BadFingerprint,
}

impl IceDrop {
    pub const ALL: [IceDrop; 10] = [
        IceDrop::Malformed,
        IceDrop::TooLong,
        IceDrop::Indication,
        IceDrop::GoogPing,
        IceDrop::NotARequest,
        IceDrop::NoUsername,
        IceDrop::WrongUfrag,
        IceDrop::NoIntegrity,
        IceDrop::BadIntegrity,
        IceDrop::BadFingerprint,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            IceDrop::Malformed => "stun_malformed",
            IceDrop::TooLong => "stun_too_long",
            IceDrop::Indication => "stun_indication",
            IceDrop::GoogPing => "stun_goog_ping",
            IceDrop::NotARequest => "stun_not_a_request",
            IceDrop::NoUsername => "stun_no_username",
            IceDrop::WrongUfrag => "stun_wrong_ufrag",
            IceDrop::NoIntegrity => "stun_no_integrity",
            IceDrop::BadIntegrity => "stun_bad_integrity",
            IceDrop::BadFingerprint => "stun_bad_fingerprint",
        }
    }
}

struct Credentials {
    ufrag: String,
    key: IntegrityKey,
    /// Counts restarts: a nomination made with newer credentials outranks every older one.
    generation: u32,
}

impl Credentials {
    fn new(local: &IceCredentialsLocal, generation: u32) -> Credentials {
        Credentials { ufrag: local.ufrag.clone(), key: IntegrityKey::new(&local.pwd), generation }
    }
}

#[derive(Clone, Copy)]
struct Validated {
    path: Path,
    checked_at: Instant,
    /// The last check of this path nominated it.
    nominated: bool,
}

/// The nomination of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nomination {
    UseCandidate,
    /// draft-thatcher-ice-renomination: the highest number counts, for good.
    Numbered(u32),
}

impl Nomination {
    /// NOMINATION counts with and without USE-CANDIDATE. libwebrtc never sends a zero.
    fn of(view: &StunView<'_>) -> Option<Nomination> {
        let number = |kind| view.attribute(kind)?.try_into().ok().map(u32::from_be_bytes).filter(|number| *number > 0);
        match number(NOMINATION).or_else(|| number(NOMINATION_EARLIER)) {
            Some(number) => Some(Nomination::Numbered(number)),
            None => view.attribute(USE_CANDIDATE).map(|_| Nomination::UseCandidate),
        }
    }

    fn number(self) -> u32 {
        match self {
            Nomination::UseCandidate => 0,
            Nomination::Numbered(number) => number,
        }
    }
}

#[derive(Clone, Copy)]
struct Nominated {
    path: Path,
    priority: u32,
    generation: u32,
    nomination: Nomination,
}

/// An authentic check, as far as it concerns its path.
struct Check {
    path: Path,
    priority: u32,
    generation: u32,
    nomination: Option<Nomination>,
}

/// The fields that decide where to send come first.
#[repr(C)]
pub struct IceLite {
    nominated: Option<Nominated>,
    /// Oldest first; never more than [`REMOTE_ADDRESSES_PER_TRANSPORT_MAX`].
    validated: Vec<Validated>,
    current: Credentials,
    /// From before a restart, until the new ones are used.
    previous: Option<Credentials>,
    checked_at: Option<Instant>,
}

impl IceLite {
    pub fn new(credentials: IceCredentialsLocal) -> IceLite {
        IceLite {
            current: Credentials::new(&credentials, 0),
            previous: None,
            validated: Vec::new(),
            nominated: None,
            checked_at: None,
        }
    }

    /// ICE restart: the old credentials stay valid until the new ones are used. Paths and selection stay as they are,
    /// and so do DTLS and SRTP (RFC 8842 section 4.5).
    pub fn restart(&mut self, credentials: IceCredentialsLocal) {
        let next = Credentials::new(&credentials, self.current.generation.wrapping_add(1));
        let replaced = std::mem::replace(&mut self.current, next);
        // Of two sets given out in a row without a check in between, the client still uses the older.
        self.previous.get_or_insert(replaced);
    }

    /// Handles one STUN datagram whose ufrag is (supposed to be) ours. With `replied`, `reply` holds the answer, which
    /// leaves by `path` (RFC 8445 section 7.3.1.2) and is at most 16 bytes longer than the request.
    pub fn handle(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<IceOutcome, IceDrop> {
        reply.clear();
        if datagram.len() > CHECK_BYTES_MAX {
            return Err(IceDrop::TooLong);
        }
        let view = StunView::parse(datagram).map_err(|NotStun| IceDrop::Malformed)?;
        match view.class() {
            StunClass::BindingRequest => {}
            StunClass::BindingIndication => return Err(IceDrop::Indication),
            StunClass::GoogPing => return Err(IceDrop::GoogPing),
            StunClass::BindingResponse | StunClass::Other => return Err(IceDrop::NotARequest),
        }
        let ufrag = view.local_ufrag().ok_or(IceDrop::NoUsername)?;
        let credentials = if ufrag == self.current.ufrag.as_bytes() {
            &self.current
        } else {
            self.previous.as_ref().filter(|old| ufrag == old.ufrag.as_bytes()).ok_or(IceDrop::WrongUfrag)?
        };
        if !view.has_integrity() {
            return Err(IceDrop::NoIntegrity);
        }
        if !view.integrity_holds(&credentials.key) {
            return Err(IceDrop::BadIntegrity);
        }
        // After the integrity: a sender without the password costs no more than one pass over its bytes.
        if !view.fingerprint_holds() {
            return Err(IceDrop::BadFingerprint);
        }

        let transaction = TransactionId(view.transaction());
        let refused = IceOutcome { replied: true, ..IceOutcome::default() };
        let unknown: Vec<AttrType> = view
            .attributes()
            .filter(|(kind, _)| must_be_understood(*kind))
            .take(UNKNOWN_NAMED_MAX)
            .map(|(kind, _)| AttrType(kind))
            .collect();
        if !unknown.is_empty() {
            let named = UnknownAttributes(unknown);
            answer(reply, BINDING_ERROR, transaction, &[&CODE_UNKNOWN_ATTRIBUTE, &named], &credentials.key);
            return Ok(refused);
        }
        // RFC 8445 section 7.3.1.1: a lite agent is always controlled and never gives way.
        if view.attribute(ICE_CONTROLLED).is_some() {
            answer(reply, BINDING_ERROR, transaction, &[&CODE_ROLE_CONFLICT], &credentials.key);
            return Ok(refused);
        }

        let mapped = XorMappedAddress { ip: path.remote.ip(), port: path.remote.port() };
        answer(reply, BINDING_SUCCESS, transaction, &[&mapped], &credentials.key);
        let generation = credentials.generation;
        let priority = match view.attribute(PRIORITY) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        };
        Ok(self.passed(now, &Check { path, priority, generation, nomination: Nomination::of(&view) }))
    }

    /// A check on `check.path` was authentic and has been answered.
    fn passed(&mut self, now: Instant, check: &Check) -> IceOutcome {
        let mut outcome = IceOutcome { replied: true, ..IceOutcome::default() };
        let selected = self.selected();
        outcome.revived = self.checked_at.is_some() && !self.has_consent(now);
        self.checked_at = Some(now);
        if check.generation == self.current.generation {
            self.previous = None;
        }

        if let Some(nomination) = check.nomination.filter(|nomination| self.may_select(now, check, *nomination)) {
            let Check { path, priority, generation, .. } = *check;
            self.nominated = Some(Nominated { path, priority, generation, nomination });
        }
        // RFC 7675 section 5.1 counts by pair: a pair that is checked now is better than a nominated one that is not.
        let lapsed = |held: &Nominated| held.path != check.path && self.silence_of(now, held.path) >= CONSENT;
        if self.nominated.as_ref().is_some_and(lapsed) {
            self.nominated = None;
        }

        let fresh = Validated { path: check.path, checked_at: now, nominated: check.nomination.is_some() };
        match self.validated.iter_mut().find(|known| known.path == check.path) {
            Some(known) => *known = fresh,
            None => {
                outcome.path_validated = Some(check.path);
                self.validated.push(fresh);
            }
        }
        outcome.path_removed = self.remove_one(now, check.path);
        outcome.selected_changed = self.selected() != selected;
        outcome
    }

    /// The controlling side decides which path is used (RFC 8445 section 8.1.1); this reads its intention.
    fn may_select(&self, now: Instant, check: &Check, nomination: Nomination) -> bool {
        let Some(held) = self.nominated else { return true };
        if held.generation != check.generation {
            return true;
        }
        if held.path == check.path {
            return nomination.number() >= held.nomination.number();
        }
        let silence = self.silence_of(now, held.path);
        match (nomination, held.nomination) {
            (Nomination::Numbered(number), _) if number != held.nomination.number() => {
                number > held.nomination.number() || silence >= CONSENT
            }
            // A client that numbers its nominations means the highest, unless it has given that path up.
            (Nomination::UseCandidate, Nomination::Numbered(_)) => silence >= NOMINATION_HOLD,
            _ => {
                let insists = self.validated.iter().any(|known| known.path == held.path && known.nominated);
                check.priority >= held.priority || silence >= NOMINATION_HOLD || !insists
            }
        }
    }

    /// Removes the path that was silent longest, if there are too many or its own consent has run out (RFC 7675 counts
    /// by pair); never the nominated one nor `checked`.
    fn remove_one(&mut self, now: Instant, checked: Path) -> Option<Path> {
        let nominated = self.nominated.map(|held| held.path);
        let candidates = self.validated.iter().filter(|known| known.path != checked && Some(known.path) != nominated);
        let oldest = *candidates.min_by_key(|known| known.checked_at)?;
        if self.validated.len() <= REMOTE_ADDRESSES_PER_TRANSPORT_MAX && now.since(oldest.checked_at) < CONSENT {
            return None;
        }
        self.validated.retain(|known| known.path != oldest.path);
        Some(oldest.path)
    }

    /// The time since its last check; a path that was never checked has been silent for ever.
    pub fn silence_of(&self, now: Instant, path: Path) -> Duration {
        let known = self.validated.iter().find(|known| known.path == path);
        known.map_or(Duration::MAX, |known| now.since(known.checked_at))
    }

    /// The path to send on: the nominated one; while none is nominated the one that has been valid for longest, so that
    /// a second candidate pair does not silence the first.
    pub fn selected(&self) -> Option<Path> {
        match (self.nominated, self.validated.as_slice()) {
            (Some(nominated), _) => Some(nominated.path),
            (None, [oldest, ..]) => Some(oldest.path),
            (None, []) => None,
        }
    }

    pub fn is_nominated(&self) -> bool {
        self.nominated.is_some()
    }

    pub fn is_valid_path(&self, path: Path) -> bool {
        self.validated.iter().any(|known| known.path == path)
    }

    pub fn paths(&self) -> impl Iterator<Item = Path> {
        self.validated.iter().map(|known| known.path)
    }

    /// The ufrags that are valid now, the newest first.
    pub fn ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.current).chain(&self.previous).map(|credentials| credentials.ufrag.as_str())
    }

    /// When consent ends if no further check comes; None before the first one.
    pub fn consent_deadline(&self) -> Option<Instant> {
        self.checked_at.map(|at| at + CONSENT)
    }

    /// RFC 7675 section 5.1: whether anything may be sent.
    pub(crate) fn has_consent(&self, now: Instant) -> bool {
        self.consent_deadline().is_some_and(|deadline| now < deadline)
    }

    /// The path belongs to another transport now.
    pub fn forget_path(&mut self, path: Path) {
        self.validated.retain(|known| known.path != path);
        self.nominated = self.nominated.filter(|held| held.path != path);
    }
}

/// RFC 8489 section 14: types below 0x8000 must be understood. Those of RFC 8489 and RFC 8445 are, and 0x0030, which is
/// NOMINATION as drafts numbered it.
fn must_be_understood(kind: u16) -> bool {
    const UNDERSTOOD: [u16; 12] =
        [0x0001, 0x0006, 0x0008, 0x0009, 0x000a, 0x0014, 0x0015, 0x001c, 0x0020, 0x0024, 0x0025, 0x0030];
    kind < 0x8000 && !UNDERSTOOD.contains(&kind)
}

/// Writes an error or a success with the attributes given and no others: nothing of a request is echoed (a client that
/// sees GOOG_MISC_INFO come back starts to send GOOG-PING).
fn answer(reply: &mut Vec<u8>, kind: MessageType, to: TransactionId, setters: &[&dyn Setter], key: &IntegrityKey) {
    let mut message = Message { typ: kind, transaction_id: to, ..Message::new() };
    message.write_header();
    for setter in setters {
        // Fails only for over-long texts and codes without a reason: neither occurs here.
        let written = setter.add_to(&mut message);
        debug_assert!(written.is_ok(), "an attribute of our own fits");
    }
    finish(&mut message, key);
    reply.extend_from_slice(&message.raw);
}

#[cfg(test)]
#[path = "ice_lite_tests.rs"]
mod tests;
