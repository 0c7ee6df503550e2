//! The relays and STUN servers that clients are told of, as WebRTC's `RTCIceServer`s. A TURN server that shares a secret
//! with this one takes credentials that end by themselves: the name is the time of their end, the password an HMAC of the
//! name ("A REST API For Access To TURN Services", draft-uberti-behave-turn-rest-00 section 2.2; coturn's
//! `use-auth-secret`).

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::base::limits::{ICE_SERVERS_MAX, NAME_BYTES_MAX};
use crate::base::time::Duration;

/// The URL of a STUN or TURN server (RFC 7064 section 3.1, RFC 7065 section 3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceServerUrl {
    text: String,
    relays: bool,
}

/// A text that is no such URL, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IceServerFault {
    Scheme,
    /// `//` follows the scheme, as in other URLs.
    Slashes,
    Host,
    Port,
    /// Something but `?transport=udp` or `?transport=tcp` follows, or it follows a STUN server.
    Transport,
    TooLong,
}

impl IceServerUrl {
    pub fn parse(text: &str) -> Result<IceServerUrl, IceServerFault> {
        if text.len() > NAME_BYTES_MAX {
            return Err(IceServerFault::TooLong);
        }
        let (scheme, rest) = text.split_once(':').ok_or(IceServerFault::Scheme)?;
        let relays = match scheme {
            "turn" | "turns" => true,
            "stun" | "stuns" => false,
            _ => return Err(IceServerFault::Scheme),
        };
        if rest.starts_with("//") {
            return Err(IceServerFault::Slashes);
        }
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        match query {
            None => {}
            Some("transport=udp" | "transport=tcp") if relays => {}
            Some(_) => return Err(IceServerFault::Transport),
        }
        let host_len = place.find(']').map_or_else(|| place.find(':').unwrap_or(place.len()), |bracket| bracket + 1);
        let (host, port) = place.split_at(host_len);
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let named =
            |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !in_brackets.map_or_else(|| named(host), |ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Err(IceServerFault::Host);
        }
        let port =
            if port.is_empty() { Some(1) } else { port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) };
        if port.is_none_or(|port| port == 0) {
            return Err(IceServerFault::Port);
        }
        Ok(IceServerUrl { text: text.to_owned(), relays })
    }

    /// It is a TURN server, which asks for credentials.
    pub fn relays(&self) -> bool {
        self.relays
    }
}

/// What TURN servers and this one know; shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServerSecret(Box<[u8]>);

impl IceServerSecret {
    /// Of a file's text: a line end behind the secret is not part of it. None: there is nothing in it.
    pub fn from_text(text: &str) -> Option<IceServerSecret> {
        let text = text.trim_end_matches(['\r', '\n']);
        (!text.is_empty()).then(|| IceServerSecret(text.as_bytes().into()))
    }
}

impl fmt::Debug for IceServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IceServerSecret")
    }
}

/// The servers, and what makes their credentials. The default is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IceServers {
    /// At most [`ICE_SERVERS_MAX`].
    pub urls: Vec<IceServerUrl>,
    /// TURN servers are told of only with it.
    pub secret: Option<IceServerSecret>,
    /// How long credentials hold.
    pub lifetime: Duration,
}

impl IceServers {
    /// For a client that is shown as `name` to the TURN server's operator; `unix` are the seconds since 1970. None: there
    /// are no servers.
    pub(super) fn told(&self, unix: u64, name: &str) -> Option<Value> {
        debug_assert!(self.urls.len() <= ICE_SERVERS_MAX, "the configuration bounds them");
        let of = |relays| self.urls.iter().filter(move |url| url.relays == relays).map(|url| &url.text);
        let mut servers = Vec::new();
        let stun: Vec<_> = of(false).collect();
        if !stun.is_empty() {
            servers.push(json!({ "urls": stun }));
        }
        let turn: Vec<_> = of(true).collect();
        if let Some(secret) = self.secret.as_ref().filter(|_| !turn.is_empty()) {
            let username = format!("{}:{name}", unix + self.lifetime.as_nanos() as u64 / 1_000_000_000);
            let mut mac = Hmac::<Sha1>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
            mac.update(username.as_bytes());
            let credential = BASE64_STANDARD.encode(mac.finalize().into_bytes());
            servers.push(json!({ "urls": turn, "username": username, "credential": credential }));
        }
        (!servers.is_empty()).then_some(Value::Array(servers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> IceServerUrl {
        IceServerUrl::parse(text).unwrap()
    }

    #[test]
    fn urls_are_those_of_stun_and_turn_and_what_is_wrong_is_named() {
        for (text, relays) in [
            ("stun:stun.example.org", false),
            ("stuns:192.0.2.1:5349", false),
            ("turn:turn.example.org:443?transport=tcp", true),
            ("turns:turn.example.org", true),
            ("turn:[2001:db8::1]:3478?transport=udp", true),
        ] {
            assert_eq!(IceServerUrl::parse(text).map(|url| url.relays()), Ok(relays), "{text}");
        }
        for (text, fault) in [
            ("turn.example.org", IceServerFault::Scheme),
            ("TURN:turn.example.org", IceServerFault::Scheme),
            ("https:turn.example.org", IceServerFault::Scheme),
            ("turn://turn.example.org", IceServerFault::Slashes),
            ("turn:", IceServerFault::Host),
            ("turn:user@turn.example.org", IceServerFault::Host),
            ("turn:[192.0.2.1]", IceServerFault::Host),
            ("turn:2001:db8::1", IceServerFault::Port),
            ("turn:a:0", IceServerFault::Port),
            ("turn:a:70000", IceServerFault::Port),
            ("turn:a?transport=sctp", IceServerFault::Transport),
            ("stun:a?transport=tcp", IceServerFault::Transport),
        ] {
            assert_eq!(IceServerUrl::parse(text), Err(fault), "{text}");
        }
        assert_eq!(IceServerUrl::parse(&format!("turn:{}", "a".repeat(300))), Err(IceServerFault::TooLong));
    }

    #[test]
    fn credentials_are_those_that_a_turn_server_with_the_secret_computes() {
        let urls = vec![url("stun:stun.example.org"), url("turn:turn.example.org"), url("turns:turn.example.org:443")];
        let secret = IceServerSecret::from_text("north\n");
        let servers = IceServers { urls, secret, lifetime: Duration::from_secs(3_600) };
        // printf 1800003600:anna | openssl dgst -sha1 -hmac north -binary | base64
        let turn = json!({ "urls": ["turn:turn.example.org", "turns:turn.example.org:443"],
            "username": "1800003600:anna", "credential": "lPkPO7EcJRyVewSIt5p/9E6QEZQ=" });
        let told = servers.told(1_800_000_000, "anna").unwrap();
        assert_eq!(told, json!([{ "urls": ["stun:stun.example.org"] }, turn]));
    }

    #[test]
    fn without_servers_nothing_is_told_and_no_relay_without_a_secret() {
        assert_eq!(IceServers::default().told(1, "anna"), None);
        let servers = IceServers { urls: vec![url("turn:turn.example.org")], ..IceServers::default() };
        assert_eq!(servers.told(1, "anna"), None);
        assert_eq!(IceServerSecret::from_text("\n"), None);
        assert!(!format!("{:?}", IceServerSecret::from_text("north")).contains("north"));
    }
}
