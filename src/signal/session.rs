//! The number of an open socket. Which peer it belongs to is known to `members`, and changes when another socket takes
//! the peer up.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);
