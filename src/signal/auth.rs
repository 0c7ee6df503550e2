//! The two names of a socket, `auth` and `channelId`: which texts are allowed. They come percent-decoded from the
//! server's request line. `auth` is the user id that others are shown, unless a token says it.

use std::fmt;

use crate::base::limits::{NAME_BYTES_MAX, SOCKETS_MAX};
use crate::base::time::Duration;
use crate::signal::message::Code;

/// Why a socket was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The query parameter and what is wrong with it.
    BadName {
        parameter: &'static str,
        fault: NameFault,
    },
    SocketsMax,
    ChannelFull,
    /// There is no token, or one that says nothing; and why.
    Unauthorized(&'static str),
    Expired,
    /// The peer that it comes back for cannot be taken up any more; and why.
    NotResumed(&'static str),
    /// Its token does not grant this; and why.
    Forbidden(&'static str),
    /// A moderator has banned the user from the channel.
    Banned,
    /// A moderator has locked the channel.
    Locked,
    /// The user has all the sockets it may have.
    Limit {
        who: &'static str,
        max: usize,
    },
    /// Its address caused too much lately; it may try again after this time.
    RateLimited(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameFault {
    Empty,
    TooLong,
    Unprintable,
}

impl OpenError {
    /// Every code.
    pub const CODES: [&'static str; 10] = [
        "bad-name",
        "banned",
        "expired",
        "forbidden",
        "full",
        "limit",
        "locked",
        "rate-limited",
        "sockets-max",
        "unauthorized",
    ];

    pub const fn code(&self) -> &'static str {
        match self {
            OpenError::BadName { .. } => "bad-name",
            OpenError::SocketsMax => "sockets-max",
            OpenError::ChannelFull => "full",
            OpenError::Unauthorized(_) => "unauthorized",
            OpenError::Expired | OpenError::NotResumed(_) => "expired",
            OpenError::Forbidden(_) => "forbidden",
            OpenError::Banned => "banned",
            OpenError::Locked => "locked",
            OpenError::Limit { .. } => "limit",
            OpenError::RateLimited(_) => "rate-limited",
        }
    }

    /// The close code of a WebSocket that is opened to tell it, where a page has to read it. None: plain HTTP will do.
    pub const fn close_code(&self) -> Option<u16> {
        match self {
            OpenError::Unauthorized(_) | OpenError::Expired | OpenError::NotResumed(_) => Some(4401),
            OpenError::Forbidden(_) | OpenError::ChannelFull | OpenError::Banned | OpenError::Locked => Some(4403),
            OpenError::BadName { .. } | OpenError::SocketsMax | OpenError::Limit { .. } | OpenError::RateLimited(_) => {
                None
            }
        }
    }

    /// The matching error of a request.
    pub(super) const fn as_code(&self) -> Code {
        match self {
            OpenError::Unauthorized(_) => Code::Unauthorized,
            OpenError::Expired | OpenError::NotResumed(_) => Code::Expired,
            OpenError::Forbidden(_) => Code::Forbidden,
            OpenError::BadName { .. } => Code::BadField,
            OpenError::Banned => Code::Banned,
            OpenError::Locked => Code::Locked,
            OpenError::ChannelFull => Code::Full,
            OpenError::SocketsMax | OpenError::Limit { .. } => Code::Limit,
            OpenError::RateLimited(_) => Code::RateLimited,
        }
    }

    /// The matching HTTP status.
    pub const fn http_status(&self) -> u16 {
        match self {
            OpenError::BadName { .. } => 400,
            OpenError::Unauthorized(_) | OpenError::Expired | OpenError::NotResumed(_) => 401,
            OpenError::Forbidden(_) | OpenError::ChannelFull | OpenError::Banned | OpenError::Locked => 403,
            OpenError::SocketsMax => 503,
            OpenError::Limit { .. } | OpenError::RateLimited(_) => 429,
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
                write!(f, "the query parameter {parameter} holds control characters or nothing that is seen")
            }
            OpenError::SocketsMax => {
                write!(f, "this server serves no more than {SOCKETS_MAX} sockets: try again later")
            }
            OpenError::ChannelFull => f.write_str("the channel holds as many peers as it may"),
            OpenError::Unauthorized(why) | OpenError::Forbidden(why) | OpenError::NotResumed(why) => f.write_str(why),
            OpenError::Expired => f.write_str("this token has expired: get a new one"),
            OpenError::Banned => f.write_str("a moderator has banned this user from the channel"),
            OpenError::Locked => f.write_str("the channel is locked"),
            OpenError::Limit { who, max } => {
                write!(f, "no more than {max} sockets for one {who}: close some first")
            }
            OpenError::RateLimited(wait) => {
                write!(f, "too much from this address: try again in {} s", wait.as_secs() + 1)
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// Whether a user, a channel or a person may be called so.
pub fn is_name(text: &str) -> bool {
    check_name("auth", text).is_ok()
}

/// Any text with a visible character, without control characters and line separators: names are compared byte by byte
/// and shown as they are.
pub(super) fn check_name(parameter: &'static str, name: &str) -> Result<(), OpenError> {
    match fault_of(name, NAME_BYTES_MAX) {
        Some(fault) => Err(OpenError::BadName { parameter, fault }),
        None => Ok(()),
    }
}

/// The fault of a text that strangers are shown, in at most `max` bytes.
pub(super) fn fault_of(text: &str, max: usize) -> Option<NameFault> {
    if text.trim().is_empty() {
        Some(NameFault::Empty)
    } else if text.len() > max {
        Some(NameFault::TooLong)
    } else if text.chars().any(breaks_lines) || text.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
        Some(NameFault::Unprintable)
    } else {
        None
    }
}

fn breaks_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Format characters (general category Cf), what Unicode calls default ignorable, and the blank of braille.
const INVISIBLE: [(u32, u32); 26] = [
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x0600, 0x0605),
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
];

/// Invisible by itself. Beside other characters it may be needed: to join the parts of an emoji, for example.
fn is_invisible(c: char) -> bool {
    INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
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
        assert_eq!(fault("a\u{2028}b"), Some(NameFault::Unprintable), "a line separator");
        for unseen in ["\u{200b}", "\u{202e}\u{2066}", "\u{ad}\u{feff} ", "\u{e0041}", "\u{3164}", "\u{fe0f}"] {
            assert_eq!(fault(unseen), Some(NameFault::Unprintable), "{unseen:?}");
        }
        for seen in ["\u{200b}a", "👩\u{200d}👩\u{200d}👧", "\u{200f}שלום", "❤\u{fe0f}", "一", "."] {
            assert_eq!(fault(seen), None, "{seen:?}");
        }
        assert_eq!(fault(&"a".repeat(NAME_BYTES_MAX)), None);
        assert_eq!(fault(&"a".repeat(NAME_BYTES_MAX + 1)), Some(NameFault::TooLong));
    }
}
