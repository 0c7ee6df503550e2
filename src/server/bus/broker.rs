//! Who gets what on a bus without an engine: interest of each process, and the way of a message. Decides, and sends
//! nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use super::frames::BusFrame;

/// Subjects that one process may listen to.
const INTEREST_MAX: usize = 100_000;

/// A process, by the order in which it came.
pub(super) type ProcessId = u64;

#[derive(Default)]
pub(super) struct Broker {
    interest: BTreeMap<ProcessId, BTreeSet<String>>,
}

fn listens(interest: &BTreeSet<String>, subject: &str) -> bool {
    if interest.contains(subject) {
        return true;
    }
    // `a.b.>` stands for all below `a.b`.
    let above = subject.match_indices('.').map(|(at, _)| &subject[..=at]);
    above.into_iter().any(|above| interest.contains(&format!("{above}>")))
}

impl Broker {
    pub(super) fn joined(&mut self, process: ProcessId) {
        self.interest.entry(process).or_default();
    }

    pub(super) fn left(&mut self, process: ProcessId) {
        self.interest.remove(&process);
    }

    /// What a process sends, and what comes of it: frames, and for whom.
    pub(super) fn take(&mut self, from: ProcessId, frame: BusFrame) -> Vec<(ProcessId, BusFrame)> {
        match frame {
            BusFrame::Subscribe(subject) => {
                if let Some(interest) = self.interest.get_mut(&from).filter(|interest| interest.len() < INTEREST_MAX) {
                    interest.insert(subject);
                }
                Vec::new()
            }
            BusFrame::Unsubscribe(subject) => {
                if let Some(interest) = self.interest.get_mut(&from) {
                    interest.remove(&subject);
                }
                Vec::new()
            }
            BusFrame::Message { subject, reply, payload } => {
                let others = self.interest.iter().filter(|(id, _)| **id != from);
                let hearers: Vec<ProcessId> =
                    others.filter(|(_, interest)| listens(interest, &subject)).map(|(id, _)| *id).collect();
                match (hearers.is_empty(), reply) {
                    (true, Some(inbox)) => vec![(from, BusFrame::Nobody(inbox))],
                    (_, reply) => {
                        let message = BusFrame::Message { subject, reply, payload };
                        hearers.into_iter().map(|to| (to, message.clone())).collect()
                    }
                }
            }
            // Said by the broker alone.
            BusFrame::Nobody(_) | BusFrame::Behind => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, reply: Option<&str>) -> BusFrame {
        BusFrame::Message { subject: subject.to_owned(), reply: reply.map(str::to_owned), payload: vec![1] }
    }

    fn broker() -> Broker {
        let mut broker = Broker::default();
        for (process, subject) in [(1, "p.nodes"), (2, "p.nodes"), (3, "p.in.3.>")] {
            broker.joined(process);
            broker.take(process, BusFrame::Subscribe(subject.to_owned()));
        }
        broker
    }

    #[test]
    fn a_message_goes_to_all_that_listen_but_its_sender() {
        let mut broker = broker();
        assert_eq!(broker.take(1, message("p.nodes", None)), [(2, message("p.nodes", None))]);
        let both = broker.take(3, message("p.nodes", None));
        assert_eq!(both.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [1, 2]);
        for inbox in ["p.in.3.a", "p.in.3.a.b"] {
            assert_eq!(broker.take(1, message(inbox, None)).len(), 1, "{inbox}");
        }
        for elsewhere in ["p.in.3", "p.in.33.a", "p.node", "p.nodes.x", ""] {
            assert_eq!(broker.take(1, message(elsewhere, None)), [], "{elsewhere}");
        }
    }

    #[test]
    fn a_question_that_nobody_hears_comes_back() {
        let mut broker = broker();
        assert_eq!(broker.take(1, message("p.echo", Some("in"))), [(1, BusFrame::Nobody("in".to_owned()))]);
        broker.take(1, BusFrame::Subscribe("p.echo".to_owned()));
        assert_eq!(broker.take(1, message("p.echo", Some("in"))).len(), 1, "it does not hear itself");
        assert_eq!(broker.take(2, message("p.echo", Some("in"))), [(1, message("p.echo", Some("in")))]);
        broker.take(1, BusFrame::Unsubscribe("p.echo".to_owned()));
        assert_eq!(broker.take(2, message("p.echo", Some("in")))[0].1, BusFrame::Nobody("in".to_owned()));
    }

    #[test]
    fn who_left_hears_nothing_and_who_lies_is_not_heard() {
        let mut broker = broker();
        broker.left(2);
        assert_eq!(broker.take(1, message("p.nodes", None)), []);
        broker.take(2, BusFrame::Subscribe("p.nodes".to_owned()));
        assert_eq!(broker.take(1, message("p.nodes", None)), []);
        assert_eq!(broker.take(1, BusFrame::Nobody("p.nodes".to_owned())), []);
        assert_eq!(broker.take(1, BusFrame::Behind), []);
    }
}
