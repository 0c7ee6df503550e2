//! The sockets of peers: a peer gets one, loses it when its connection breaks, and is taken up by the next. The part of
//! [`Hub`] that the server's edge opens and closes sockets by.

use std::net::IpAddr;

use serde_json::json;

use crate::base::id::PeerId;
use crate::base::time::{Duration, Instant};
use crate::signal::auth::OpenError;
use crate::signal::dismissal::TAKEN_OVER;
use crate::signal::entering;
use crate::signal::entrance::Entrance;
use crate::signal::hub::Hub;
use crate::signal::mailbox::Attached;
use crate::signal::message;
use crate::signal::meter::Cost;
use crate::signal::post::Output;
use crate::signal::return_settings::ResumeOutcome;
use crate::signal::returns::{self, ResumeError};
use crate::signal::session::SessionId;
use crate::signal::text::Text;

impl Hub {
    /// Opens a socket from `remote` for a new peer.
    pub fn open(&mut self, now: Instant, remote: IpAddr, entrance: &Entrance) -> Result<SessionId, OpenError> {
        let peer = self.join(now, remote, entrance)?;
        Ok(self.seat(now, peer, None))
    }

    /// Gives the peer a socket, in place of the one it has. The socket gets what the peer missed, in order. None: the
    /// peer is gone.
    pub fn attach(&mut self, now: Instant, peer: PeerId) -> Option<SessionId> {
        self.members.get(peer).filter(|_| !self.desk.post.mailboxes.is_over(peer))?;
        self.desk.post.mailboxes.forget_sent(peer);
        Some(self.seat(now, peer, None))
    }

    /// Opens a socket from `remote` for the peer of a resume token, in place of the one it has. `received`: how many
    /// texts its client has got; None: it does not count.
    pub fn resume(
        &mut self,
        now: Instant,
        remote: IpAddr,
        token: &str,
        received: Option<u64>,
    ) -> Result<SessionId, ResumeError> {
        let Hub { desk, members, .. } = self;
        let peer = match returns::admit(desk, members, now, token, received) {
            Ok(peer) => peer,
            Err((error, ended)) => {
                self.desk.resumes.count(error.outcome());
                if let Some(peer) = ended {
                    let why = error.ends_peer().unwrap_or("came back too often");
                    self.disconnect(now, peer, 1008, why);
                    self.let_go_the_lost(now);
                }
                return Err(error);
            }
        };
        self.desk.post.work = Cost::default();
        let next = returns::token(&mut self.desk, peer);
        let taken = self.desk.post.mailboxes.taken(peer);
        let member = self.members.get(peer).and_then(|member| self.channels.get(member.channel));
        let id = member.and_then(|channel| channel.peers.get(&peer)).map(|peer| peer.external.to_string());
        let data = json!({ "peerId": id, "resume": next, "received": taken });
        let session = self.seat(now, peer, Some(message::notification("resumed", &data).into()));
        self.desk.lives.back(now, peer, remote);
        self.members.charge(now, &mut self.desk.accounts, peer, self.desk.post.work);
        self.let_go_the_lost(now);
        Ok(session)
    }

    /// `greeting` comes before what the peer missed.
    fn seat(&mut self, now: Instant, peer: PeerId, greeting: Option<Text>) -> SessionId {
        let session = SessionId(self.desk.ids.number());
        let returns = greeting.is_some();
        let Attached { replaced, missed, was_told, left_out } = self.desk.post.mailboxes.attach(peer, session);
        if let Some(replaced) = replaced {
            let (code, reason) = (TAKEN_OVER, "another socket has taken this peer up");
            self.desk.post.output.push_back(Output::Disconnect { session: replaced, code, reason });
        }
        if returns {
            let outcome = if replaced.is_some() { ResumeOutcome::TakenOver } else { ResumeOutcome::Resumed };
            self.desk.resumes.count(outcome);
        }
        let texts = greeting.map(|text| (text, None)).into_iter().chain(missed);
        for (text, about) in texts {
            self.desk.post.work.add(Cost::told(1, text.len()));
            self.desk.post.output.push_back(Output::Send { session, text, about });
        }
        if left_out > 0 {
            self.desk.post.notify(peer, "messages-missed", &json!({ "count": left_out }));
        }
        if was_told {
            self.tell(now, peer, |channel, post| channel.tell_away(post, peer, false));
        }
        if let Some(channel) = self.members.get(peer).and_then(|member| self.channels.get(member.channel)) {
            entering::greet(channel, &mut self.desk.post, peer);
            if !channel.presence.is_aware(peer) {
                self.desk.post.mailboxes.tell_late(now, peer);
            }
        }
        session
    }

    /// Parts the peer from its socket for this time.
    fn part(&mut self, now: Instant, session: SessionId, stays: Duration) -> Option<PeerId> {
        let peer = self.desk.post.mailboxes.detach(now, session, stays)?;
        let channel = self.members.get(peer).and_then(|member| self.channels.get_mut(member.channel));
        channel.into_iter().for_each(|channel| channel.presence.parts(peer));
        Some(peer)
    }

    /// Ends a socket that broke; `why` is for the log. Its peer stays for a while if it was given a token, and else ends
    /// with it.
    pub fn broken(&mut self, now: Instant, session: SessionId, why: &'static str) {
        let Some(peer) = self.peer_of(session) else { return };
        let grace = self.desk.settings.returns.grace;
        if grace.is_zero() || !self.desk.post.mailboxes.may_return(peer) {
            return self.end(now, peer, why);
        }
        self.part(now, session, grace);
        self.desk.lives.broken(now, peer, why);
    }

    /// Whether the client of this socket pings regularly, and may come back on another: its silence is a break.
    pub fn pings_regularly(&self, session: SessionId) -> bool {
        let peer = self.peer_of(session);
        peer.is_some_and(|peer| self.desk.post.mailboxes.pings_regularly(peer))
    }

    /// Ends the peers that are away, for a process that ends.
    pub fn end_away(&mut self, now: Instant, why: &'static str) {
        while let Some(peer) = self.desk.post.mailboxes.one_away() {
            self.remove(now, peer, why);
        }
        self.let_go_the_lost(now);
    }

    /// Ends a socket whose peer stays for this time: its media goes on, and texts to it are kept for the next socket.
    /// None: the session has ended already.
    pub fn detach(&mut self, now: Instant, session: SessionId, stays: Duration) -> Option<PeerId> {
        self.part(now, session, stays)
    }
}
