//! The ways in: what a client comes with, by its URL and its subprotocols, before anything of a peer exists.

use super::query::{BadQuery, Query, Why};
use super::subprotocol::Subprotocols;
use crate::base::secret::Secret;

/// What lets a client in.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Credential {
    /// A user and a channel, which prove nothing.
    Names { user: String, channel: String },
    /// A JWT, for this channel.
    Token { token: Secret, channel: String },
    /// The token that a peer was given to be taken up again.
    Resume { token: Secret, received: Option<u64> },
}

/// What a client has come with so far.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Offer {
    Complete(Credential),
    /// The credential comes in its first message.
    Promised(Promise),
}

/// The first message that a client is let in for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Promise {
    Authenticate { channel: String },
    Resume,
}

impl Offer {
    /// `tokens`: users are those of tokens. A token to resume outweighs the rest, so that a client may come back by the
    /// URL that it came by.
    pub(super) fn of(tokens: bool, query: Query, protocols: Subprotocols) -> Result<Offer, BadQuery> {
        if query.resume.is_some() && protocols.resume.is_some() {
            return Err(BadQuery::new("resume", Why::Repeated));
        }
        let received = query.received;
        if let Some(resume) = query.resume.map(Secret::new).or(protocols.resume) {
            return Ok(match resume.expose() {
                "" => Offer::Promised(Promise::Resume),
                _ => Offer::Complete(Credential::Resume { token: resume, received }),
            });
        }
        if !tokens && protocols.auth.is_some() {
            return Err(BadQuery::new("auth", Why::NoTokens));
        }
        let auth = query.auth.filter(|auth| !auth.is_empty());
        if !tokens && auth.is_none() {
            return Err(BadQuery::new("auth", Why::Missing));
        }
        let channel = query.channel.filter(|channel| !channel.is_empty());
        let channel = channel.ok_or(BadQuery::new("channelId", Why::Missing))?;
        match (auth, protocols.auth) {
            (Some(_), Some(_)) => Err(BadQuery::new("auth", Why::Repeated)),
            (Some(user), None) if !tokens => Ok(Offer::Complete(Credential::Names { user, channel })),
            (Some(token), None) => Ok(Offer::Complete(Credential::Token { token: Secret::new(token), channel })),
            (None, Some(token)) => Ok(Offer::Complete(Credential::Token { token, channel })),
            (None, None) => Ok(Offer::Promised(Promise::Authenticate { channel })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(tokens: bool, query: &str, auth: Option<&str>, resume: Option<&str>) -> Result<Offer, &'static str> {
        let secret = |text: Option<&str>| text.map(Secret::new);
        let protocols = Subprotocols { spoken: true, auth: secret(auth), resume: secret(resume) };
        let query = Query::parse(Some(query)).expect("it is well-formed");
        Offer::of(tokens, query, protocols).map_err(BadQuery::code)
    }

    fn token(text: &str) -> Result<Offer, &'static str> {
        Ok(Offer::Complete(Credential::Token { token: Secret::new(text), channel: "c".to_owned() }))
    }

    fn resumed(text: &str) -> Result<Offer, &'static str> {
        counted(text, None)
    }

    fn counted(text: &str, received: Option<u64>) -> Result<Offer, &'static str> {
        Ok(Offer::Complete(Credential::Resume { token: Secret::new(text), received }))
    }

    #[test]
    fn names_are_enough_where_no_tokens_are_asked_for() {
        let names = Credential::Names { user: "a".to_owned(), channel: "c".to_owned() };
        assert_eq!(offer(false, "auth=a&channelId=c", None, None), Ok(Offer::Complete(names)));
        for (query, auth, code) in [
            ("", None, "missing-auth"),
            ("auth=&channelId=c", None, "missing-auth"),
            ("channelId=c", None, "missing-auth"),
            ("auth=a&channelId=", None, "missing-channel-id"),
            ("channelId=c", Some("j.w.t"), "bad-auth"),
        ] {
            assert_eq!(offer(false, query, auth, None), Err(code), "{query}");
        }
    }

    #[test]
    fn a_token_comes_one_way_and_a_promise_without_one() {
        assert_eq!(offer(true, "auth=j.w.t&channelId=c", None, None), token("j.w.t"));
        assert_eq!(offer(true, "channelId=c", Some("j.w.t"), None), token("j.w.t"));
        assert_eq!(offer(true, "auth=j.w.t&channelId=c", Some("j.w.t"), None), Err("bad-auth"));
        assert_eq!(offer(true, "auth=j.w.t", None, None), Err("missing-channel-id"));
        let promised = Ok(Offer::Promised(Promise::Authenticate { channel: "c".to_owned() }));
        for query in ["channelId=c", "channelId=c&auth="] {
            assert_eq!(offer(true, query, None, None), promised);
        }
    }

    #[test]
    fn a_token_to_resume_outweighs_the_rest() {
        for tokens in [false, true] {
            assert_eq!(offer(tokens, "resume=r", None, None), resumed("r"));
            assert_eq!(offer(tokens, "", None, Some("r")), resumed("r"));
            assert_eq!(offer(tokens, "resume=r&received=9", None, None), counted("r", Some(9)));
            assert_eq!(offer(tokens, "received=9", None, Some("r")), counted("r", Some(9)));
            assert_eq!(offer(tokens, "auth=a&channelId=c", None, Some("r")), resumed("r"));
            assert_eq!(offer(tokens, "auth=a&channelId=c&resume", None, None), Ok(Offer::Promised(Promise::Resume)));
            assert_eq!(offer(tokens, "resume=r", None, Some("r")), Err("bad-resume"));
        }
    }
}
