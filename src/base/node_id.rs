//! The name of a running node of a cluster. Drawn at each start, so that a machine that starts again is another node.

use std::fmt;

/// 64 random bits. Written as 16 hex digits, everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Reads what [`fmt::Display`] writes: 16 hex digits in lower case. None for anything else.
    pub fn parse(text: &str) -> Option<NodeId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(NodeId)
    }

    pub const fn to_be_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub const fn from_be_bytes(bytes: [u8; 8]) -> NodeId {
        NodeId(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_sixteen_digits_and_is_read_back() {
        for node in [NodeId(0), NodeId(7), NodeId(0xfedc_ba98_7654_3210), NodeId(u64::MAX)] {
            let text = node.to_string();
            assert_eq!((text.len(), NodeId::parse(&text)), (16, Some(node)));
            assert_eq!(NodeId::from_be_bytes(node.to_be_bytes()), node);
        }
        for wrong in ["", "7", "000000000000000G", "00000000000000AB", "+000000000000007", "00000000000000070"] {
            assert_eq!(NodeId::parse(wrong), None, "{wrong}");
        }
    }
}
