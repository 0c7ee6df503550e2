//! Keeps the pages of browsers away from the admin API where nothing but the network guards it: a page of any site can
//! send requests to an address that its browser reaches, and by a name of its own that leads there (DNS rebinding) also
//! read the answers.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap};
use hyper::http::uri::Authority;

use crate::signal::admin::Problem;

/// `names`: the host names that the operator has given this server.
pub(super) fn keep_out(headers: &HeaderMap, names: &[String]) -> Result<(), Problem> {
    let refused = |code, message| Err(Problem::new(403, code, message));
    // Fetch (section 4.6) sends it with every request that could change something, and with every one across origins.
    if headers.contains_key(header::ORIGIN) {
        return refused("origin-refused", "pages of browsers have no business here".to_owned());
    }
    // None: somebody has typed the address.
    if headers.get_all("sec-fetch-site").iter().any(|site| site != "none") {
        return refused("origin-refused", "pages of browsers have no business here".to_owned());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let named = host.as_ref().map_or("", Authority::host).to_ascii_lowercase();
    let is_address = named.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if is_address || named == "localhost" || names.contains(&named) {
        return Ok(());
    }
    let named: String = named.escape_debug().take(64).collect();
    let message = format!(
        "the header Host names {named:?}: use an address or localhost, or have the operator give that name with \
         --admin-host"
    );
    refused("host-refused", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&'static str, &'static str)]) -> &'static str {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match keep_out(&map, &["admin.example".to_owned()]) {
            Ok(()) => "in",
            Err(problem) => problem.code,
        }
    }

    #[test]
    fn a_name_that_anybody_may_own_leads_nowhere() {
        for fine in ["127.0.0.1:4444", "[::1]:4444", "localhost", "LOCALHOST:1", "admin.example:4444", "10.0.0.7"] {
            assert_eq!(verdict(&[("host", fine)]), "in", "{fine}");
        }
        for bad in
            ["evil.example", "evil.example:4444", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "", "a b"]
        {
            assert_eq!(verdict(&[("host", bad)]), "host-refused", "{bad}");
        }
        assert_eq!(verdict(&[]), "host-refused");
        assert_eq!(verdict(&[("host", "localhost"), ("host", "evil.example")]), "host-refused");
        assert_eq!(verdict(&[("host", "user@localhost")]), "in", "the authority's host is localhost all the same");
    }

    #[test]
    fn no_page_gets_in_wherever_it_says_it_is_from() {
        for origin in ["null", "http://127.0.0.1:4444", "https://evil.example", ""] {
            assert_eq!(verdict(&[("host", "127.0.0.1:4444"), ("origin", origin)]), "origin-refused", "{origin}");
        }
        for site in ["cross-site", "same-site", "same-origin", ""] {
            assert_eq!(verdict(&[("host", "localhost"), ("sec-fetch-site", site)]), "origin-refused", "{site}");
        }
        assert_eq!(verdict(&[("host", "localhost"), ("sec-fetch-site", "none")]), "in");
    }
}
