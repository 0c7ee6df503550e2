//! An act as it goes to the node of the peer that it is about: the data of its request, so that it is read there as a
//! client's is.

use serde_json::{Value, json};

use crate::base::time::Duration;
use crate::signal::act::{Act, ChannelChange};
use crate::signal::ortc::kind_name;

impl Act {
    /// What [`Act::parse`] reads, for the type [`Act::name`].
    pub(super) fn write(&self) -> Value {
        match self {
            Act::MuteProducer { producer, .. } | Act::StopProducer { producer } => json!({ "producerId": producer }),
            Act::MutePeer { peer, kinds, .. } => {
                json!({ "peerId": peer, "kinds": kinds.iter().copied().map(kind_name).collect::<Vec<_>>() })
            }
            Act::RemovePeer { peer, reason, ban } => {
                json!({ "peerId": peer, "reason": reason, "banSeconds": ban.map(|ban: Duration| ban.as_secs()) })
            }
            Act::Unban { user } => json!({ "user": user }),
            Act::SetChannel(ChannelChange { locked, waiting, peers_max }) => {
                json!({ "locked": locked, "waiting": waiting, "peersMax": peers_max })
            }
            Act::AdmitPeer { peer } => json!({ "peerId": peer }),
            Act::TurnAwayPeer { peer, reason } => json!({ "peerId": peer, "reason": reason }),
            Act::SetGrants { peer, change } => json!({ "peerId": peer, "grants": change.write() }),
            Act::Rename { peer, name } => json!({ "peerId": peer, "name": name }),
            Act::SetAppData { peer, app_data } => json!({ "peerId": peer, "appData": app_data }),
            Act::SendMessage { peer, data } => json!({ "peerId": peer, "data": data }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_act() {
        let all = json!({
            "producerId": "p", "peerId": "q", "user": "anna", "data": { "text": "hi" }, "reason": "be kind",
            "banSeconds": 60, "kinds": ["video"], "name": "Anna", "appData": { "hand": true },
            "locked": true, "peersMax": 7,
            "grants": { "publish": { "kinds": ["audio"], "sources": ["mic"] }, "subscribe": false },
        });
        let least = json!({ "producerId": "p", "peerId": "q", "user": "anna", "data": 0, "grants": {} });
        let many = json!({
            "producerId": "p", "peerId": "q", "user": "anna", "data": 0, "grants": { "publish": false, "moderate": true },
        });
        for kind in [
            "mute-producer",
            "unmute-producer",
            "stop-producer",
            "mute-peer",
            "unmute-peer",
            "remove-peer",
            "unban",
            "set-channel",
            "admit-peer",
            "turn-away-peer",
            "set-grants",
            "rename",
            "set-app-data",
            "send-message",
        ] {
            for data in [&all, &least, &many] {
                let act = Act::parse(kind, data.clone()).expect("it is well-formed");
                assert_eq!(Act::parse(act.name(), act.write()), Ok(act.clone()), "{kind}");
            }
        }
    }
}
