//! Why an operator's request is refused: a status of HTTP, a code for programs, a sentence for people.

use std::fmt;

use crate::signal::message::{Code, Refusal};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
    /// The methods that this path has, where another was used.
    pub allow: Option<&'static str>,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), allow: None }
    }

    /// The same answer for what never was and what is no more.
    pub(super) fn not_found(what: &str) -> Problem {
        Problem::new(404, "not-found", format!("there is no such {what}"))
    }

    /// `path` begins with `path`, `query` or `body`.
    pub(super) fn bad_field(path: &str, why: impl fmt::Display) -> Problem {
        Problem::new(400, "bad-field", format!("{path}: {why}"))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let status = match refusal.code {
            Code::Unauthorized | Code::Expired => 401,
            Code::Forbidden | Code::Banned | Code::Removed | Code::Locked | Code::Full => 403,
            Code::NotFound | Code::NoProducer => 404,
            Code::WrongStep | Code::Limit | Code::Replaced => 409,
            Code::RateLimited => 429,
            Code::Unavailable => 503,
            Code::NotText | Code::BadJson | Code::UnknownType | Code::BadField | Code::Unsupported => 400,
        };
        // The requests of clients have their fields under `data`, and the ids of a path among them.
        let message = match (refusal.message.strip_prefix("data."), status) {
            (Some(rest), 404) => rest.split_once(": ").map_or(rest, |(_, rest)| rest).to_owned(),
            (Some(rest), _) => format!("body.{rest}"),
            (None, _) => refusal.message,
        };
        Problem::new(status, refusal.code.name(), message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for Problem {}
