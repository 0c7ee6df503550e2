//! Why a WebSocket ended: its name in the metrics and the log, and the close frame that says so.

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::base::limits::MESSAGE_BYTES_MAX;

/// Why a WebSocket ended; a label of `weirgate_sockets_closed_total`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SocketEnd {
    /// The client closed it.
    Left,
    /// The connection broke without a close frame.
    Lost,
    Silent,
    TooLong,
    NotUtf8,
    Protocol,
    TooSlow,
    Shutdown,
    /// Signalling ended it.
    Refused {
        code: u16,
        reason: String,
    },
}

impl SocketEnd {
    pub(super) const NAMES: [&str; 9] = [
        "left",
        "lost",
        "silent",
        "message-too-long",
        "not-utf8",
        "protocol-error",
        "reads-too-slowly",
        "shutdown",
        "refused",
    ];

    /// Its place in [`SocketEnd::NAMES`].
    pub(super) fn index(&self) -> usize {
        match self {
            SocketEnd::Left => 0,
            SocketEnd::Lost => 1,
            SocketEnd::Silent => 2,
            SocketEnd::TooLong => 3,
            SocketEnd::NotUtf8 => 4,
            SocketEnd::Protocol => 5,
            SocketEnd::TooSlow => 6,
            SocketEnd::Shutdown => 7,
            SocketEnd::Refused { .. } => 8,
        }
    }

    /// Whether the connection ended against the client's will, so that it may come back for its peer. Who closes, does
    /// what no client may, or is ended by signalling has no peer any more.
    pub(super) fn is_break(&self) -> bool {
        matches!(self, SocketEnd::Lost | SocketEnd::Silent | SocketEnd::TooSlow)
    }

    /// RFC 6455 section 7.4.1. None: nobody is there to read it, or the peer's own close is answered already.
    pub(super) fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            SocketEnd::Left | SocketEnd::Lost | SocketEnd::Silent => return None,
            SocketEnd::TooLong => (CloseCode::Size, format!("a message may have {MESSAGE_BYTES_MAX} bytes")),
            SocketEnd::NotUtf8 => (CloseCode::Invalid, "a text message was not UTF-8".to_owned()),
            SocketEnd::Protocol => (CloseCode::Protocol, "not a valid WebSocket frame".to_owned()),
            SocketEnd::TooSlow => (CloseCode::Again, "this client reads too slowly".to_owned()),
            SocketEnd::Shutdown => (CloseCode::Away, "the server is shutting down".to_owned()),
            SocketEnd::Refused { code, reason } => (CloseCode::from(*code), clipped(reason)),
        };
        Some(CloseFrame { code, reason: reason.into() })
    }
}

/// A control frame carries at most 125 bytes, two of them the code (RFC 6455 section 5.5).
fn clipped(reason: &str) -> String {
    let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end));
    reason[..end.unwrap_or_default()].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_own_name() {
        let ends = [
            SocketEnd::Left,
            SocketEnd::Lost,
            SocketEnd::Silent,
            SocketEnd::TooLong,
            SocketEnd::NotUtf8,
            SocketEnd::Protocol,
            SocketEnd::TooSlow,
            SocketEnd::Shutdown,
            SocketEnd::Refused { code: 1008, reason: String::new() },
        ];
        let indices: Vec<usize> = ends.iter().map(SocketEnd::index).collect();
        assert_eq!(indices, (0..SocketEnd::NAMES.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_reason_fits_a_control_frame() {
        let frame = SocketEnd::Refused { code: 1008, reason: "é".repeat(200) }.close_frame().unwrap();
        assert_eq!((frame.reason.len(), u16::from(frame.code)), (122, 1008));
    }
}
