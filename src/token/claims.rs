//! The claims of a token whose signature is right (RFC 7519 section 4, and our own): which are needed, what each may
//! be, and whether they hold now and here.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::channels::Channels;
use super::fault::TokenFault;
use super::strict_json;
use crate::base::limits::NAME_BYTES_MAX;
use crate::base::time::{Duration, Instant};
use crate::signal::{Entrance, Grants, TokenId, is_name};

/// The end of the year 9999: beyond it, a time is a mistake, as milliseconds are.
const TIME_MAX: u64 = 253_402_300_799;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    pub user: String,
    pub name: Option<String>,
    pub channels: Channels,
    pub grants: Grants,
    /// It may use the admin API, and needs no channel and no grants for that.
    pub admin: bool,
    /// In seconds since 1970, as the other.
    pub expires: u64,
    not_before: Option<u64>,
    token: Option<TokenId>,
}

impl Claims {
    pub(super) fn read(payload: &[u8]) -> Result<Claims, TokenFault> {
        let claims = strict_json::object(payload).ok_or(TokenFault::Payload)?;
        time(&claims, "iat", "the token's iat must be a time in whole seconds since 1970")?;
        audience(&claims)?;
        let user = name(&claims, "sub", "the token's sub, the user, must be a name of 1 to 256 bytes")?;
        let once = match claims.get("once") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(TokenFault::Claim("the token's once must be true or false")),
        };
        let token = match claims.get("jti") {
            None if once => {
                return Err(TokenFault::Claim("the token is to be taken once, and has no jti to know it by"));
            }
            None => None,
            Some(Value::String(jti)) if (1..=NAME_BYTES_MAX).contains(&jti.len()) => {
                Some(TokenId { jti: jti.as_str().into(), once })
            }
            Some(_) => return Err(TokenFault::Claim("the token's jti must be a string of 1 to 256 bytes")),
        };
        let admin = match claims.get("admin") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(TokenFault::Claim("the token's admin must be true or false")),
        };
        let channels = match claims.get("channel") {
            None if admin => Channels::default(),
            channel => channel.and_then(Channels::read).ok_or(TokenFault::Claim(
                "the token's channel must be a name, a pattern with *, or a list of at most 32 of them",
            ))?,
        };
        let grants = claims.get("grants").map(Grants::read);
        let exp = "the token's exp must be a time in whole seconds since 1970";
        Ok(Claims {
            user: user.ok_or(TokenFault::Claim("the token has no sub, which names the user"))?,
            name: name(&claims, "name", "the token's name must be a name of 1 to 256 bytes")?,
            channels,
            grants: match grants {
                Some(Ok(grants)) => grants,
                Some(Err(_)) => return Err(TokenFault::Claim("the token's grants are malformed: see PROTOCOL.md")),
                None if admin => Grants::default(),
                None => return Err(TokenFault::Claim("the token has no grants")),
            },
            admin,
            expires: time(&claims, "exp", exp)?.ok_or(TokenFault::Claim("the token has no exp"))?,
            not_before: time(&claims, "nbf", "the token's nbf must be a time in whole seconds since 1970")?,
            token,
        })
    }

    /// The clocks of who made it and of this machine may differ by the leeway.
    pub(super) fn hold_at(&self, unix: u64, leeway: u64) -> Result<(), TokenFault> {
        if unix >= self.expires.saturating_add(leeway) {
            return Err(TokenFault::Expired);
        }
        match self.not_before {
            Some(begin) if unix.saturating_add(leeway) < begin => Err(TokenFault::NotYet),
            _ => Ok(()),
        }
    }

    /// A way into this channel; `unix` and `now` are one moment. It is open until the leeway is over.
    pub fn entrance(&self, channel: &str, unix: u64, now: Instant, leeway: u64) -> Result<Entrance, TokenFault> {
        match self.channels.hold(channel) {
            true => Ok(self.way_to(channel, unix, now, leeway)),
            false => Err(TokenFault::Channel),
        }
    }

    /// A way to the admin API, which is in no channel.
    pub fn operator(&self, unix: u64, now: Instant, leeway: u64) -> Result<Entrance, TokenFault> {
        if self.admin { Ok(self.way_to("", unix, now, leeway)) } else { Err(TokenFault::NotAdmin) }
    }

    fn way_to(&self, channel: &str, unix: u64, now: Instant, leeway: u64) -> Entrance {
        let left = self.expires.saturating_add(leeway).saturating_sub(unix);
        Entrance {
            user: self.user.as_str().into(),
            channel: channel.into(),
            name: self.name.as_deref().map(Arc::from),
            grants: self.grants.clone(),
            expires: Some(now + Duration::from_secs(left)),
            token: self.token.clone(),
        }
    }
}

fn time(claims: &Map<String, Value>, name: &str, wanted: &'static str) -> Result<Option<u64>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64().filter(|time| *time <= TIME_MAX) {
            Some(time) => Ok(Some(time)),
            None => Err(TokenFault::Claim(wanted)),
        },
    }
}

fn name(claims: &Map<String, Value>, name: &str, wanted: &'static str) -> Result<Option<String>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if is_name(text) => Ok(Some(text.clone())),
        Some(_) => Err(TokenFault::Claim(wanted)),
    }
}

/// RFC 7519 section 4.1.3: a token that is for others is refused.
fn audience(claims: &Map<String, Value>) -> Result<(), TokenFault> {
    let ours = |value: &Value| value.as_str() == Some("weirgate");
    match claims.get("aud") {
        None => Ok(()),
        Some(Value::Array(audiences)) if audiences.iter().any(ours) => Ok(()),
        Some(single) if ours(single) => Ok(()),
        Some(_) => Err(TokenFault::Claim("the token is for others: where it has an aud, that must be weirgate")),
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
