//! The pages that may open a socket, by the Origin that their browser names (RFC 6455 section 10.2). A client that is
//! no page names none and is let in: this guards people's browsers, not the server.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A tuple origin as browsers serialise it (RFC 6454 section 6.2), in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    scheme: String,
    /// IPv6 in brackets.
    host: String,
    /// None: the scheme's own.
    port: Option<u16>,
}

/// A text that is no origin, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginFault {
    NoScheme,
    /// The origin of every sandboxed frame and many local files: it names nobody.
    Null,
    BadHost,
    BadPort,
    /// Something follows the port: a path, most likely.
    HasPath,
}

/// The pages that may open a socket beside the server's own and those of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    pub any: bool,
    pub listed: Vec<Origin>,
    /// The server speaks TLS: its own pages are of https alone.
    pub tls: bool,
}

impl Origin {
    pub fn parse(text: &str) -> Result<Origin, OriginFault> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Err(OriginFault::Null);
        }
        let (scheme, rest) = text.split_once("://").ok_or(OriginFault::NoScheme)?;
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(letters) {
            return Err(OriginFault::NoScheme);
        }
        if rest.contains(['/', '?', '#']) {
            return Err(OriginFault::HasPath);
        }
        let host_len = match rest.find(']') {
            Some(bracket) => bracket + 1,
            None => rest.find(':').unwrap_or(rest.len()),
        };
        let (host, port) = rest.split_at(host_len);
        let default = match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        // Only schemes of the web need one: a page of `file://` has none.
        if !(is_host(host) || host.is_empty() && default.is_none()) {
            return Err(OriginFault::BadHost);
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| OriginFault::BadPort)?)
            }
            _ => return Err(OriginFault::BadPort),
        };
        Ok(Origin { scheme: scheme.to_owned(), host: host.to_owned(), port: port.filter(|_| port != default) })
    }

    /// A page that this machine serves to itself, at whatever port.
    fn is_loopback(&self) -> bool {
        // RFC 6761 section 6.3: names below localhost are this machine's, too.
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host == "[::1]"
            || self.host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// An IPv6 address in brackets, an IPv4 one, or a name as browsers write it in ASCII (RFC 5890 A-labels).
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !text.is_empty() && text.bytes().all(letters)
        }
    }
}

impl Origins {
    /// `origin` and `host` are the headers of the request that asks for a socket.
    pub fn admit(&self, origin: &str, host: Option<&str>) -> bool {
        if self.any {
            return true;
        }
        let Ok(origin) = Origin::parse(origin) else { return false };
        // Behind a proxy for TLS the page's scheme differs from ours: the host and the port have to do.
        let host = host.filter(|_| !self.tls || origin.scheme == "https");
        let own = || host.and_then(|host| Origin::parse(&format!("{}://{host}", origin.scheme)).ok());
        origin.is_loopback() || self.listed.contains(&origin) || own().as_ref() == Some(&origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(texts: &[&str]) -> Origins {
        let listed = texts.iter().map(|text| Origin::parse(text).unwrap()).collect();
        Origins { listed, ..Origins::default() }
    }

    #[test]
    fn a_server_that_speaks_tls_has_no_page_of_its_own_over_http() {
        let (plain, tls) = (Origins::default(), Origins { tls: true, ..Origins::default() });
        for (origin, over_plain, over_tls) in [
            ("https://sfu.example:4443", true, true),
            ("http://sfu.example:4443", true, false),
            ("http://localhost:4443", true, true),
            ("https://evil.example", false, false),
        ] {
            let host = Some("sfu.example:4443");
            assert_eq!((plain.admit(origin, host), tls.admit(origin, host)), (over_plain, over_tls), "{origin}");
        }
    }

    #[test]
    fn pages_of_this_machine_and_of_the_server_itself_are_let_in() {
        let none = Origins::default();
        for loopback in [
            "http://localhost",
            "http://localhost:3000",
            "https://LOCALHOST:8443",
            "http://app.localhost:1",
            "http://127.0.0.1:5173",
            "http://127.8.8.8",
            "http://[::1]:9",
        ] {
            assert!(none.admit(loopback, Some("sfu.example:4443")), "{loopback}");
        }
        for (origin, host) in [
            ("http://192.0.2.7:4443", "192.0.2.7:4443"),
            ("https://sfu.example", "sfu.example"),
            ("https://sfu.example", "SFU.example:443"),
            ("http://sfu.example", "sfu.example:80"),
            ("http://[2001:db8::7]:4443", "[2001:db8::7]:4443"),
        ] {
            assert!(none.admit(origin, Some(host)), "{origin} at {host}");
        }
    }

    #[test]
    fn every_other_page_is_refused() {
        let none = Origins::default();
        for origin in [
            "https://evil.example",
            "http://sfu.example",
            "http://sfu.example:4444",
            "https://sfu.example:4443.evil.example",
            "http://localhost.evil.example",
            "http://localhost@evil.example",
            "http://evil.example/localhost",
            "http://evillocalhost",
            "http://127.0.0.1.evil.example",
            "http://0.0.0.0:1",
            "http://[::1",
            "http://[::1]evil.example",
            "http://",
            "://localhost",
            "localhost",
            "file://",
            "null",
            "",
        ] {
            assert!(!none.admit(origin, Some("sfu.example:4443")), "{origin}");
        }
        assert!(!none.admit("http://sfu.example", None));
        assert!(!none.admit("http://", Some("")));
    }

    #[test]
    fn what_is_listed_is_let_in_with_its_scheme_and_port() {
        let some = listed(&["https://meet.example", "http://dev.example:8080", "capacitor://app", "file://"]);
        for origin in ["https://meet.example", "https://Meet.Example:443", "http://dev.example:8080", "file://"] {
            assert!(some.admit(origin, Some("sfu.example")), "{origin}");
        }
        for origin in ["http://meet.example", "https://meet.example:8443", "http://dev.example", "null", "file://x"] {
            assert!(!some.admit(origin, Some("sfu.example")), "{origin}");
        }
        let any = Origins { any: true, ..Origins::default() };
        assert!(any.admit("https://evil.example", None) && any.admit("null", None));
    }

    #[test]
    fn what_is_no_origin_says_why() {
        for (text, fault) in [
            ("meet.example", OriginFault::NoScheme),
            ("1a://meet.example", OriginFault::NoScheme),
            ("null", OriginFault::Null),
            ("https://", OriginFault::BadHost),
            ("https://*.example", OriginFault::BadHost),
            ("https://a.example:0x1", OriginFault::BadPort),
            ("https://a.example:70000", OriginFault::BadPort),
            ("https://a.example:", OriginFault::BadPort),
            ("https://a.example/", OriginFault::HasPath),
        ] {
            assert_eq!(Origin::parse(text), Err(fault), "{text}");
        }
        assert_eq!(Origin::parse("HTTP://A.example:81").unwrap().to_string(), "http://a.example:81");
    }
}
