//! The log lines about peers, all under one target. Names chosen by strangers are written without control characters,
//! addresses only where the operator wants them, and no more lines than a disk takes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tracing::field::{DisplayValue, display};
use tracing::{Level, info};

use crate::base::buffer::Path;
use crate::base::id::ShardId;
use crate::base::limits::{PEER_LINES_BURST, PEER_LINES_PER_SECOND};
use crate::base::time::{Duration, Instant};
use crate::shard::command::{Connected, Totals};
use crate::signal::ids::ExternalId;

/// `weirgate::peer` in a filter.
pub const TARGET: &str = "weirgate::peer";

/// The names that the log may show.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Addresses of clients.
    pub addresses: bool,
    /// Where each shard listens, in the order of [`crate::base::buffer::LocalIndex`].
    pub local: Vec<(ShardId, Vec<SocketAddr>)>,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings { addresses: true, local: Vec::new() }
    }
}

/// The subject of a line; the same in all lines of one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Who {
    pub(super) channel: Arc<str>,
    pub(super) peer: ExternalId,
    pub(super) user: Arc<str>,
}

impl Who {
    /// As a line shows them: channel, peer, user.
    fn shown(&self) -> (String, String, String) {
        (shown(&self.channel), self.peer.to_string(), shown(&self.user))
    }
}

/// A name without characters that end a line, colour a terminal or turn text around.
pub(super) fn shown(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if is_printable(c) { text.push(c) } else { text.extend(c.escape_unicode()) }
    }
    text
}

/// By the tables of the standard library, which work on a text only: quotes, backslashes and marks on the letter before
/// them are fine.
fn is_printable(c: char) -> bool {
    let mut letter = *b"x\0\0\0\0";
    let len = 1 + c.encode_utf8(&mut letter[1..]).len();
    let escaped = std::str::from_utf8(&letter[..len]).is_ok_and(|text| text.escape_debug().nth(2).is_some());
    !escaped || matches!(c, '"' | '\'' | '\\')
}

/// When a transport reached each step, counted from its creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Steps {
    pub(super) announced: Option<Duration>,
    pub(super) checked: Option<Duration>,
    pub(super) connected: Option<Duration>,
    pub(super) first_in: Option<Duration>,
    pub(super) first_out: Option<Duration>,
}

/// The totals of a peer.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct PeerTotals {
    pub(super) transports: u32,
    pub(super) connected: u32,
    /// Requests and objects that a limit refused.
    pub(super) refused: u64,
    pub(super) media: Totals,
}

/// Faults on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure<'a> {
    /// This long after connect-transport.
    NoCheck(Duration),
    Handshake(&'a str),
    Limit(&'a str),
    /// Its consent ran out (RFC 7675).
    Silent,
}

#[derive(Default)]
pub(super) struct PeerLog {
    settings: LogSettings,
    /// A token bucket that counts in nanoseconds of patience.
    spent: u64,
    filled_at: Instant,
    left_out: u64,
}

const COST: u64 = 1_000_000_000 / PEER_LINES_PER_SECOND;
const CREDIT_MAX: u64 = COST * PEER_LINES_BURST;

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl PeerLog {
    pub(super) fn new(settings: LogSettings) -> PeerLog {
        PeerLog { settings, ..PeerLog::default() }
    }

    /// Whether a line may be written now.
    fn admits(&mut self, now: Instant) -> bool {
        if !tracing::enabled!(target: TARGET, Level::INFO) {
            return false;
        }
        let elapsed = u64::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        self.filled_at = self.filled_at.max(now);
        self.spent = self.spent.saturating_sub(elapsed);
        if self.spent + COST > CREDIT_MAX {
            self.left_out += 1;
            return false;
        }
        self.spent += COST;
        if self.left_out > 0 {
            let left_out = std::mem::take(&mut self.left_out);
            info!(target: TARGET, left_out, "too many lines about peers: some were left out");
        }
        true
    }

    fn remote<A: std::fmt::Display>(&self, address: A) -> Option<DisplayValue<A>> {
        self.settings.addresses.then(|| display(address))
    }

    fn local(&self, shard: ShardId, path: Path) -> Option<SocketAddr> {
        let of_shard = self.settings.local.iter().find(|(id, _)| *id == shard);
        of_shard?.1.get(usize::from(path.leg.local().0)).copied()
    }

    pub(super) fn joined(&mut self, now: Instant, who: &Who, remote: IpAddr) {
        if self.admits(now) {
            let (channel, peer, user) = who.shown();
            let remote = self.remote(remote);
            info!(target: TARGET, channel, peer, user, remote, "joined");
        }
    }

    pub(super) fn broken(&mut self, now: Instant, who: &Who, why: &str) {
        if self.admits(now) {
            let (channel, peer, user) = who.shown();
            info!(target: TARGET, channel, peer, user, why, "connection broken, may come back");
        }
    }

    /// `away`: none for one whose old socket was open.
    pub(super) fn back(&mut self, now: Instant, who: &Who, remote: IpAddr, away: Option<Duration>) {
        if self.admits(now) {
            let (channel, peer, user) = who.shown();
            let remote = self.remote(remote);
            info!(target: TARGET, channel, peer, user, remote, away_ms = away.map(millis), "back");
        }
    }

    pub(super) fn connected(
        &mut self,
        now: Instant,
        who: &Who,
        transport: &str,
        shard: ShardId,
        report: &Connected,
        steps: &Steps,
    ) {
        if !self.admits(now) {
            return;
        }
        let (channel, peer, user) = who.shown();
        let Connected { path, handshake, srtp } = report;
        info!(
            target: TARGET,
            channel,
            peer,
            user,
            transport,
            protocol = path.leg.protocol(),
            local = self.local(shard, *path).map(display),
            remote = self.remote(path.remote),
            dtls = handshake.map(|handshake| format!("DTLS 1.2 {}", handshake.suite)),
            srtp,
            announced_ms = steps.announced.map(millis),
            checked_ms = steps.checked.map(millis),
            connected_ms = steps.connected.map(millis),
            handshake_ms = handshake.map(|handshake| millis(handshake.took)),
            first_in_ms = steps.first_in.map(millis),
            first_out_ms = steps.first_out.map(millis),
            "connected"
        );
    }

    pub(super) fn left(&mut self, now: Instant, who: &Who, why: &str, stayed: Duration, totals: &PeerTotals) {
        if !self.admits(now) {
            return;
        }
        let (channel, peer, user) = who.shown();
        let media = &totals.media;
        info!(
            target: TARGET,
            channel,
            peer,
            user,
            why,
            seconds = stayed.as_secs(),
            transports = totals.transports,
            connected = totals.connected,
            bytes_in = media.bytes_received,
            bytes_out = media.bytes_sent,
            packets_in = media.packets_received,
            packets_out = media.packets_sent,
            lost_in = media.lost_received,
            lost_out = media.lost_sent,
            refused = totals.refused,
            worst = media.worst.map(|(verdict, _)| verdict.name()),
            worst_seconds = media.worst.map(|(_, span)| span.as_secs()),
            "left"
        );
    }

    pub(super) fn failed(&mut self, now: Instant, who: &Who, transport: Option<&str>, failure: Failure<'_>) {
        if !self.admits(now) {
            return;
        }
        let (channel, peer, user) = who.shown();
        match failure {
            Failure::NoCheck(waited) => info!(
                target: TARGET,
                channel,
                peer,
                user,
                transport,
                waited_ms = millis(waited),
                "no check came: its network or a firewall lets no UDP through to here, or it was told a wrong address \
                 (--announce)"
            ),
            Failure::Handshake(why) => {
                info!(target: TARGET, channel, peer, user, transport, why = shown(why), "handshake refused");
            }
            Failure::Limit(why) => {
                info!(target: TARGET, channel, peer, user, transport, why, "refused by a limit");
            }
            Failure::Silent => info!(
                target: TARGET,
                channel,
                peer,
                user,
                transport,
                "fell silent: no check came for 30 s, and nothing is sent to it until one does"
            ),
        }
    }

    /// A socket that a limit keeps out, so that it is no peer.
    pub(super) fn kept_out(&mut self, now: Instant, channel: &str, user: &str, remote: IpAddr, why: &str) {
        if self.admits(now) {
            let (channel, user, remote) = (shown(channel), shown(user), self.remote(remote));
            info!(target: TARGET, channel, user, remote, why, "refused by a limit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_no_line_and_turn_nothing_around() {
        for fine in ["Zoë \"Å\" 🎥", "e\u{301}", "नमस्ते", "it's C:\\"] {
            assert_eq!(shown(fine), fine);
        }
        assert_eq!(shown("a\nb\u{1b}[31m\u{85}"), "a\\u{a}b\\u{1b}[31m\\u{85}");
        assert_eq!(shown("a\u{202e}b\u{2028}c\u{feff}"), "a\\u{202e}b\\u{2028}c\\u{feff}");
    }
}
