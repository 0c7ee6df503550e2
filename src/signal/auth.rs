//! The two names a socket brings along, `auth` and `channelId`: what they may be. They come percent-decoded from the
//! server's request line. Proof of identity is not asked for: `auth` is the user id that others are shown.

use std::fmt;

use crate::base::limits::{NAME_BYTES_MAX, PEERS_PER_CHANNEL_MAX, SOCKETS_MAX};

/// Why a socket was not let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The query parameter and what is wrong with it.
    BadName {
        parameter: &'static str,
        fault: NameFault,
    },
    SocketsMax,
    ChannelFull,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameFault {
    Empty,
    TooLong,
    Unprintable,
}

impl OpenError {
    pub const fn code(&self) -> &'static str {
        match self {
            OpenError::BadName { .. } => "bad-name",
            OpenError::SocketsMax => "sockets-max",
            OpenError::ChannelFull => "channel-full",
        }
    }

    /// The HTTP status that says the same.
    pub const fn http_status(&self) -> u16 {
        match self {
            OpenError::BadName { .. } => 400,
            OpenError::SocketsMax | OpenError::ChannelFull => 503,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::BadName { parameter, fault: NameFault::Empty } => {
                write!(f, "the query parameter {parameter} is missing or empty")
            }
            OpenError::BadName { parameter, fault: NameFault::TooLong } => {
                write!(f, "the query parameter {parameter} is longer than {NAME_BYTES_MAX} bytes")
            }
            OpenError::BadName { parameter, fault: NameFault::Unprintable } => {
                write!(f, "the query parameter {parameter} holds control characters")
            }
            OpenError::SocketsMax => {
                write!(f, "this server serves no more than {SOCKETS_MAX} sockets: try again later")
            }
            OpenError::ChannelFull => write!(f, "a channel holds no more than {PEERS_PER_CHANNEL_MAX} peers"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Any text without control characters, and not only blanks: names are compared byte by byte and shown as they are.
pub(super) fn check_name(parameter: &'static str, name: &str) -> Result<(), OpenError> {
    let fault = if name.trim().is_empty() {
        NameFault::Empty
    } else if name.len() > NAME_BYTES_MAX {
        NameFault::TooLong
    } else if name.chars().any(char::is_control) {
        NameFault::Unprintable
    } else {
        return Ok(());
    };
    Err(OpenError::BadName { parameter, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(check_name("auth", "Zoë Ångström 🎥"), Ok(()));
        let fault = |name: &str| match check_name("auth", name) {
            Err(OpenError::BadName { parameter: "auth", fault }) => Some(fault),
            _ => None,
        };
        assert_eq!(fault(" \t"), Some(NameFault::Empty));
        assert_eq!(fault("a\nb"), Some(NameFault::Unprintable));
        assert_eq!(fault(&"a".repeat(NAME_BYTES_MAX)), None);
        assert_eq!(fault(&"a".repeat(NAME_BYTES_MAX + 1)), Some(NameFault::TooLong));
    }
}
