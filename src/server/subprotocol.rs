//! The subprotocols that a client offers (RFC 6455 section 1.9): `weirgate`, and beside it a credential that a page
//! cannot put into a header.

use hyper::header::{self, HeaderMap};

use super::query::{BadQuery, Why};
use crate::base::secret::Secret;

/// The one that is spoken here, and selected where it is offered.
pub(super) const NAME: &str = "weirgate";
const AUTH: &str = "weirgate.auth.";
const RESUME: &str = "weirgate.resume.";

#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Subprotocols {
    pub(super) spoken: bool,
    pub(super) auth: Option<Secret>,
    pub(super) resume: Option<Secret>,
}

impl Subprotocols {
    /// Others than these change nothing.
    pub(super) fn of(headers: &HeaderMap) -> Result<Subprotocols, BadQuery> {
        let mut offered = Subprotocols::default();
        let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        for name in values.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')) {
            let name = name.trim();
            if name == NAME {
                offered.spoken = true;
            } else if let Some(token) = name.strip_prefix(AUTH) {
                set(&mut offered.auth, token, "auth")?;
            } else if let Some(token) = name.strip_prefix(RESUME) {
                set(&mut offered.resume, token, "resume")?;
            }
        }
        Ok(offered)
    }
}

fn set(place: &mut Option<Secret>, token: &str, name: &'static str) -> Result<(), BadQuery> {
    match place.replace(Secret::new(token)) {
        None => Ok(()),
        Some(_) => Err(BadQuery::new(name, Why::Repeated)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(lists: &[&str]) -> Result<Subprotocols, BadQuery> {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, list.parse().expect("it is a header's value"));
        }
        Subprotocols::of(&headers)
    }

    #[test]
    fn credentials_are_found_among_whatever_is_offered() {
        let secret = |text: &str| Some(Secret::new(text));
        assert_eq!(offered(&[]), Ok(Subprotocols::default()));
        assert_eq!(offered(&["mqtt, WEIRGATE"]), Ok(Subprotocols::default()));
        let both = Subprotocols { spoken: true, auth: secret("a.b.c"), resume: None };
        assert_eq!(offered(&["weirgate, weirgate.auth.a.b.c"]), Ok(both));
        let lists = Subprotocols { spoken: true, auth: None, resume: secret("r") };
        assert_eq!(offered(&["x,weirgate.resume.r ", "weirgate"]), Ok(lists));
        let twice = offered(&["weirgate.auth.a", "weirgate.auth.a"]).unwrap_err();
        assert_eq!(twice.code(), "bad-auth");
    }
}
