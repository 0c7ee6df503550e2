//! Paths and queries of the admin API: which route a path is, the names in it, and the parameters behind it. All of it
//! percent-encoded (RFC 3986 section 2.1), and split before it is decoded.

use super::problem::Problem;
use crate::base::limits::NAME_BYTES_MAX;

/// Every route. The words are its path as `docs/openapi.json` writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdminRoute {
    Document,
    Events,
    Revocations,
    Channels,
    Channel,
    ChannelMessages,
    Bans,
    Ban,
    Comers,
    Comer,
    Admit,
    Peers,
    Peer,
    PeerMessages,
    Mute,
    Unmute,
    Move,
    Transports,
    Transport,
    Producers,
    Producer,
    Consumers,
    Consumer,
}

/// Path, route, and the methods that it has.
pub const ROUTES: &[(&str, AdminRoute, &str)] = &[
    ("/v1/openapi.json", AdminRoute::Document, "GET, HEAD"),
    ("/v1/events", AdminRoute::Events, "GET, HEAD"),
    ("/v1/revocations", AdminRoute::Revocations, "POST"),
    ("/v1/channels", AdminRoute::Channels, "GET, HEAD"),
    ("/v1/channels/{channel}", AdminRoute::Channel, "GET, HEAD, PATCH, DELETE"),
    ("/v1/channels/{channel}/messages", AdminRoute::ChannelMessages, "POST"),
    ("/v1/channels/{channel}/bans", AdminRoute::Bans, "GET, HEAD"),
    ("/v1/channels/{channel}/bans/{user}", AdminRoute::Ban, "DELETE"),
    ("/v1/channels/{channel}/waiting", AdminRoute::Comers, "GET, HEAD"),
    ("/v1/channels/{channel}/waiting/{peer}", AdminRoute::Comer, "DELETE"),
    ("/v1/channels/{channel}/waiting/{peer}/admit", AdminRoute::Admit, "POST"),
    ("/v1/channels/{channel}/peers", AdminRoute::Peers, "GET, HEAD"),
    ("/v1/channels/{channel}/peers/{peer}", AdminRoute::Peer, "GET, HEAD, PATCH, DELETE"),
    ("/v1/channels/{channel}/peers/{peer}/messages", AdminRoute::PeerMessages, "POST"),
    ("/v1/channels/{channel}/peers/{peer}/mute", AdminRoute::Mute, "POST"),
    ("/v1/channels/{channel}/peers/{peer}/unmute", AdminRoute::Unmute, "POST"),
    ("/v1/channels/{channel}/peers/{peer}/move", AdminRoute::Move, "POST"),
    ("/v1/channels/{channel}/peers/{peer}/transports", AdminRoute::Transports, "GET, HEAD"),
    ("/v1/channels/{channel}/peers/{peer}/transports/{transport}", AdminRoute::Transport, "GET, HEAD, DELETE"),
    ("/v1/channels/{channel}/peers/{peer}/producers", AdminRoute::Producers, "GET, HEAD"),
    ("/v1/channels/{channel}/peers/{peer}/producers/{producer}", AdminRoute::Producer, "GET, HEAD, PATCH, DELETE"),
    ("/v1/channels/{channel}/peers/{peer}/consumers", AdminRoute::Consumers, "GET, HEAD"),
    ("/v1/channels/{channel}/peers/{peer}/consumers/{consumer}", AdminRoute::Consumer, "GET, HEAD, DELETE"),
];

/// A path that was found among [`ROUTES`].
#[derive(Debug)]
pub(super) struct Address {
    pub(super) route: AdminRoute,
    pub(super) methods: &'static str,
    /// In the order of the path: channel, peer, and the last.
    names: [String; 3],
}

impl Address {
    pub(super) fn parse(path: &str) -> Result<Address, Problem> {
        let fits = |template: &str| {
            let (mut parts, mut wanted) = (path.split('/'), template.split('/'));
            loop {
                match (parts.next(), wanted.next()) {
                    (None, None) => return true,
                    (Some(part), Some(word)) if part == word || word.starts_with('{') && !part.is_empty() => {}
                    _ => return false,
                }
            }
        };
        let found = ROUTES.iter().find(|(template, ..)| fits(template));
        let Some((template, route, methods)) = found else {
            let message = "there is nothing here: /v1/openapi.json lists what there is";
            return Err(Problem::new(404, "not-found", message));
        };
        let mut names = [const { String::new() }; 3];
        let given = path.split('/').zip(template.split('/')).filter(|(_, word)| word.starts_with('{'));
        for ((part, word), name) in given.zip(&mut names) {
            let what = format!("path.{}", word.trim_matches(['{', '}']));
            *name = decode(part, false).ok_or_else(|| Problem::bad_field(&what, NO_ENCODING))?;
            if name.len() > NAME_BYTES_MAX {
                return Err(Problem::bad_field(&what, format_args!("longer than {NAME_BYTES_MAX} bytes")));
            }
        }
        Ok(Address { route: *route, methods, names })
    }

    pub(super) fn into_names(self) -> [String; 3] {
        self.names
    }
}

const NO_ENCODING: &str = "no percent-encoded UTF-8";

/// The parameters of a query, each of which may be there once, and only if somebody takes it.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(query: &str) -> Result<Parameters, Problem> {
        let mut given: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(key) = decode(key, true) else { return Err(Problem::bad_field("query", NO_ENCODING)) };
            let path = shown(&key);
            let value = decode(value, true).ok_or_else(|| Problem::bad_field(&path, NO_ENCODING))?;
            if given.iter().any(|(other, _)| *other == key) {
                return Err(Problem::bad_field(&path, "given twice"));
            }
            if given.len() == PARAMETERS_MAX {
                return Err(Problem::bad_field("query", "too many parameters"));
            }
            given.push((key, value));
        }
        Ok(Parameters(given))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(place).1)
    }

    pub(super) fn number(&mut self, name: &str, most: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        let why = || Problem::bad_field(&shown(name), format_args!("not a number from 1 to {most}"));
        number.ok_or_else(why).map(Some)
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::bad_field(&shown(name), "neither true nor false")),
        }
    }

    /// Nothing may be left over: a misspelt parameter would be ignored.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(Problem::bad_field(&shown(key), "no such parameter here")),
        }
    }
}

const PARAMETERS_MAX: usize = 8;

/// As much of a name as a message repeats.
fn shown(key: &str) -> String {
    format!("query.{}", key.escape_debug().take(64).collect::<String>())
}

/// None when a `%` is not followed by two hex digits or the bytes are no UTF-8. In a query `+` is a space.
fn decode(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if plus => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_whatever_is_encoded() {
        let address = Address::parse("/v1/channels/caf%C3%A9%2F1+%25/peers/x").unwrap();
        assert_eq!((address.route, &*address.names[0]), (AdminRoute::Peer, "café/1+%"));
        let own = Address::parse("/v1/channels/peers").unwrap();
        assert_eq!((own.route, &*own.names[0]), (AdminRoute::Channel, "peers"));
        for nothing in
            ["", "/", "/v1", "/v1/", "/v1/channels/", "/v1/channels//peers", "/v1/channels/a/peers/", "/v2/x"]
        {
            assert_eq!(Address::parse(nothing).unwrap_err().status, 404, "{nothing}");
        }
        for bad in ["/v1/channels/%", "/v1/channels/%f", "/v1/channels/%FF", "/v1/channels/%zz"] {
            let problem = Address::parse(bad).unwrap_err();
            assert!(problem.status == 400 && problem.message.starts_with("path.channel: "), "{problem}");
        }
        let long = format!("/v1/channels/{}", "a".repeat(NAME_BYTES_MAX + 1));
        assert_eq!(Address::parse(&long).unwrap_err().status, 400);
    }

    #[test]
    fn every_route_finds_itself() {
        for (path, route, _) in ROUTES {
            assert_eq!(Address::parse(path).unwrap().route, *route, "{path}");
        }
    }

    #[test]
    fn a_parameter_is_there_once_and_known() {
        let mut parameters = Parameters::parse("a=1&b+c=%26").unwrap();
        assert_eq!((parameters.number("a", 1), parameters.take("b c").as_deref()), (Ok(Some(1)), Some("&")));
        assert_eq!(parameters.end(), Ok(()));
        let fault = |query: &str| match Parameters::parse(query) {
            Ok(mut parameters) => {
                parameters.number("n", 9).and_then(|_| parameters.flag("f")).and_then(|_| parameters.end())
            }
            Err(problem) => Err(problem),
        };
        for (query, path) in [
            ("n=0", "n"),
            ("n=10", "n"),
            ("n=x", "n"),
            ("n", "n"),
            ("n=1&n=1", "n"),
            ("f=1", "f"),
            ("x", "x"),
            ("%", ""),
        ] {
            let problem = fault(query).unwrap_err();
            let dot = if path.is_empty() { "" } else { "." };
            assert!(problem.message.starts_with(&format!("query{dot}{path}: ")), "{query}: {problem}");
        }
        assert_eq!(fault("n=9&f=true&"), Ok(()));
    }
}
