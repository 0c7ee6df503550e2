//! Why a client was turned away at the door, and how it is told: by a status of HTTP, or on a socket that was opened
//! only for that, because a page cannot read a refused upgrade.

use serde_json::json;

use crate::signal::OpenError;

pub(super) enum OpenRefusal {
    Stopping,
    /// A node of a cluster that does not serve yet.
    Starting,
    Hub(OpenError),
}

/// Close codes for who shall try later (IANA), and for a server that goes (RFC 6455 section 7.4.1).
const TRY_AGAIN_LATER: u16 = 1013;
const GOING_AWAY: u16 = 1001;

impl OpenRefusal {
    /// Every code; a label of `weirgate_entries_refused_total`.
    pub(super) const CODES: [&'static str; OpenError::CODES.len() + 2] = {
        let mut codes = ["stopping"; OpenError::CODES.len() + 2];
        codes[OpenError::CODES.len()] = "starting";
        let mut place = 0;
        while place < OpenError::CODES.len() {
            codes[place] = OpenError::CODES[place];
            place += 1;
        }
        codes
    };

    pub(super) fn code(&self) -> &'static str {
        match self {
            OpenRefusal::Stopping => "stopping",
            OpenRefusal::Starting => "starting",
            OpenRefusal::Hub(error) => error.code(),
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            OpenRefusal::Stopping => "this server is shutting down".to_owned(),
            OpenRefusal::Starting => "this node of a cluster does not serve yet: go to another".to_owned(),
            OpenRefusal::Hub(error) => error.to_string(),
        }
    }

    pub(super) fn http_status(&self) -> u16 {
        match self {
            OpenRefusal::Stopping | OpenRefusal::Starting => 503,
            OpenRefusal::Hub(error) => error.http_status(),
        }
    }

    /// A matter of who the client is or where it wants to go: a page is told on a socket.
    pub(super) fn is_told_on_a_socket(&self) -> bool {
        matches!(self, OpenRefusal::Hub(error) if error.close_code().is_some())
    }

    pub(super) fn close_code(&self) -> u16 {
        match self {
            OpenRefusal::Stopping => GOING_AWAY,
            OpenRefusal::Starting => TRY_AGAIN_LATER,
            OpenRefusal::Hub(error) => error.close_code().unwrap_or(TRY_AGAIN_LATER),
        }
    }

    /// The one message on such a socket.
    pub(super) fn text(&self) -> String {
        let data = json!({ "code": self.code(), "message": self.message(), "request": null });
        format!("{{\"type\":\"error\",\"data\":{data}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_who_it_must_be() {
        let full = OpenRefusal::Hub(OpenError::ChannelFull);
        assert!(full.is_told_on_a_socket());
        assert_eq!((full.close_code(), full.http_status(), full.code()), (4403, 403, "full"));
        let message = full.message();
        assert_eq!(
            full.text(),
            format!(r#"{{"type":"error","data":{{"code":"full","message":"{message}","request":null}}}}"#)
        );
        let expired = OpenRefusal::Hub(OpenError::Expired);
        assert_eq!((expired.close_code(), expired.http_status()), (4401, 401));
        let later = [OpenRefusal::Starting, OpenRefusal::Hub(OpenError::SocketsMax)].map(|other| (other, 1013));
        for (other, code) in [(OpenRefusal::Stopping, 1001)].into_iter().chain(later) {
            assert!(!other.is_told_on_a_socket());
            assert_eq!(other.close_code(), code);
        }
    }
}
