//! The number of an open socket. `mailbox` knows whose it is; that changes when another socket takes the peer up.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);
