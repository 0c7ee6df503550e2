//! The subjects of the bus, all of them below `wg.` and the cluster's name, so that one line of permissions is enough.

use crate::base::node_id::NodeId;

#[derive(Clone, Debug)]
pub(super) struct Subjects {
    /// `wg.` and the cluster's name.
    prefix: String,
    own: NodeId,
}

/// Whether a cluster may be called that: the name is a part of subjects.
pub fn is_cluster_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Subjects {
    pub(super) fn new(cluster: &str, own: NodeId) -> Subjects {
        Subjects { prefix: format!("wg.{cluster}"), own }
    }

    /// Of all nodes.
    pub(super) fn nodes(&self) -> String {
        format!("{}.nodes", self.prefix)
    }

    /// Of one node alone.
    pub(super) fn of(&self, node: NodeId) -> String {
        format!("{}.n.{node}", self.prefix)
    }

    /// Nobody listens there.
    pub(super) fn echo(&self) -> String {
        format!("{}.echo", self.prefix)
    }

    fn inbox(&self) -> String {
        format!("{}.in.{}.", self.prefix, self.own)
    }

    pub(super) fn echo_inbox(&self, number: u64) -> String {
        format!("{}echo.{number}", self.inbox())
    }

    pub(super) fn echo_number(&self, inbox: &str) -> Option<u64> {
        inbox.strip_prefix(&self.inbox())?.strip_prefix("echo.")?.parse().ok()
    }

    /// Where this node listens.
    pub(super) fn own_all(&self) -> [String; 3] {
        [self.nodes(), self.of(self.own), format!("{}>", self.inbox())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_finds_back_to_its_number() {
        let subjects = Subjects::new("prod", NodeId(10));
        let inbox = subjects.echo_inbox(7);
        assert_eq!(inbox, "wg.prod.in.000000000000000a.echo.7");
        assert_eq!(subjects.echo_number(&inbox), Some(7));
        assert_eq!(Subjects::new("prod", NodeId(11)).echo_number(&inbox), None);
        assert_eq!(
            subjects.own_all(),
            ["wg.prod.nodes", "wg.prod.n.000000000000000a", "wg.prod.in.000000000000000a.>"]
        );
    }

    #[test]
    fn a_cluster_has_a_name_that_a_subject_can_carry() {
        assert!(["default", "prod-1", "a_B", &"a".repeat(32)].iter().all(|name| is_cluster_name(name)));
        assert!(["", "a.b", "a b", "*", ">", "é", &"a".repeat(33)].iter().all(|name| !is_cluster_name(name)));
    }
}
