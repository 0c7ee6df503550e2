//! The change of a producer's pause, and what the shard and the peers hear of it. `turn` brings the wish of its owner,
//! `muting` the mute.

use serde_json::json;

use crate::base::id::ProducerId;
use crate::shard::command::Command;
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::journal::Occurrence;
use crate::signal::news::News;
use crate::signal::pause::Pause;

/// Gives the producer another pause. Who subscribes is told what that changes, the shard only whether packets pass.
/// `by`: the moderator.
pub(super) fn change(
    channel: &mut Channel,
    desk: &mut Desk,
    id: ProducerId,
    by: Option<By>,
    to: impl FnOnce(Pause) -> Pause,
) {
    let Some(&owner) = channel.producers.get(&id) else { return };
    let Some(peer) = channel.peers.get_mut(&owner) else { return };
    let (shard, peer_external) = (peer.place.shard(), peer.external.to_string());
    let here = peer.place.node().is_none();
    let Some(producer) = peer.producers.get_mut(&id) else { return };
    let before = producer.pause;
    let after = to(before);
    producer.pause = after;
    let (flips, mutes) = (before.holds() != after.holds(), before.muted != after.muted);
    let external = producer.external.to_string();
    let consumers: Vec<_> = producer.consumers.iter().map(|(consumer, peer)| (*consumer, *peer)).collect();
    if let Some(shard) = shard.filter(|_| flips) {
        let command = match after.holds() {
            true => Command::PauseProducer { producer: id },
            false => Command::ResumeProducer { producer: id },
        };
        desk.post.command(shard, command);
    }
    if mutes {
        let kind = if after.muted { "producer-muted" } else { "producer-unmuted" };
        let by = by.map(|by| by.to_string());
        desk.post.notify(owner, kind, &json!({ "producerId": external, "by": by }));
    }
    if flips || mutes {
        let mut data = json!({ "id": external, "peerId": peer_external });
        if after.muted {
            data["muted"] = json!(true);
        }
        if let Some(by) = by {
            data["by"] = json!(by.to_string());
        }
        channel.tell_others(&mut desk.post, owner, &News::producer_paused(id, after.holds()), &data);
        if here {
            desk.post.journal.note(Occurrence::ProducerChanged, &channel.name, || {
                data["paused"] = json!(after.holds());
                data
            });
        }
    }
    if !flips {
        return;
    }
    let kind = if after.holds() { "consumer-paused" } else { "consumer-resumed" };
    for (consumer, owner) in consumers {
        let Some(consumer) = channel.peers.get(&owner).and_then(|peer| peer.consumers.get(&consumer)) else {
            continue;
        };
        let data = json!({
            "id": consumer.external.to_string(), "producerId": external, "paused": consumer.paused,
        });
        channel.tell(&mut desk.post, owner, kind, &data);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, call, heard, said, told};

    #[test]
    fn a_wish_and_a_mute_do_not_touch_each_other() {
        let (mut channel, mut desk) = call();
        let by = By::Operator;
        let mut set = |own: bool, muted: bool, by| {
            change(&mut channel, &mut desk, CAMERA, by, |_| Pause { own, muted });
            said(&mut desk)
        };
        let (pause, resume) =
            (Command::PauseProducer { producer: CAMERA }, Command::ResumeProducer { producer: CAMERA });
        let muted = [(ANNA.0, "producer-muted "), (BERTA.0, "producer-paused "), (BERTA.0, "consumer-paused ")];
        assert_eq!(set(false, true, Some(by)), (told(&muted), vec![pause.clone()]));
        assert_eq!(set(true, true, None), (vec![], vec![]), "it is a wish, and nothing passes anyway");
        let unmuted = told(&[(ANNA.0, "producer-unmuted "), (BERTA.0, "producer-paused ")]);
        assert_eq!(set(true, false, Some(by)), (unmuted, vec![]), "its owner still wants it paused");
        let resumed = told(&[(BERTA.0, "producer-resumed "), (BERTA.0, "consumer-resumed ")]);
        assert_eq!(set(false, false, None), (resumed, vec![resume]));
        assert_eq!(set(false, false, None), (vec![], vec![]));
    }

    #[test]
    fn the_news_say_whether_it_is_muted_and_by_whom() {
        let (mut channel, mut desk) = call();
        let mut data = |muted| {
            let by = Some(By::Operator);
            change(&mut channel, &mut desk, CAMERA, by, |pause| Pause { muted, ..pause });
            let heard = heard(&mut desk).0;
            let field = |text: &Value, name: &str| text["data"][name].clone();
            heard.iter().map(|(_, text)| (field(text, "muted"), field(text, "by"))).collect::<Vec<_>>()
        };
        // To its owner, to the others, and of a consumer.
        let by = json!("operator");
        assert_eq!(data(true), [(json!(null), by.clone()), (json!(true), by.clone()), (json!(null), json!(null))]);
        assert_eq!(data(false), [(json!(null), by.clone()), (json!(null), by), (json!(null), json!(null))]);
    }
}
