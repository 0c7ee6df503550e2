//! The meaning of a setting's text. Each parser returns a valid value, or the fault and the right form.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::base::limits::{COALESCE_MAX, LAST_N_MAX, RESUME_GRACE_MAX, SHARDS_MAX, SOCKETS_MAX};
use crate::base::time::Duration;
use crate::net::udp::addresses::Exclusion;
use crate::net::{IoMode, SteeringMode};
use crate::signal::{ChannelSpread, IceServerFault, IceServerUrl, LastN, Origin, OriginFault, SameUser};

type Parsed<T> = Result<T, (String, String)>;

/// The log filter.
#[derive(Clone, PartialEq, Debug)]
pub struct LogFilter(pub Targets);

/// The log format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    /// An object on each line, with the fields of the line beside `timestamp`, `level`, `target` and `message`.
    Json,
}

fn wrong<T>(why: impl Into<String>, right: impl Into<String>) -> Parsed<T> {
    Err((why.into(), right.into()))
}

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    const RIGHT: &str = "IP:PORT, for example 0.0.0.0:4443, 127.0.0.1:4443 or [::]:4443";
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return wrong("the port is missing", RIGHT);
    }
    match text.rsplit_once(':') {
        Some((ip, port)) if port.parse::<u16>().is_err() => {
            wrong(format!("{port:?} after {ip:?} is not a port (0 to 65535)"), RIGHT)
        }
        Some((ip, _)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => {
            wrong("an IPv6 address with a port stands in brackets", RIGHT)
        }
        Some((ip, _)) => wrong(format!("{ip:?} is not an IP address (host names are not looked up)"), RIGHT),
        None => wrong("it is not an IP address with a port", RIGHT),
    }
}

/// None: no such listener.
pub(super) fn admin_address(text: &str) -> Parsed<Option<SocketAddr>> {
    if text == "off" {
        return Ok(None);
    }
    let right = "IP:PORT, for example 127.0.0.1:4444 or 127.0.0.1:0 for any free port, or off";
    address(text).map(Some).map_err(|(why, _)| (why, right.to_owned()))
}

/// None: every origin.
pub(super) fn allowed_origin(text: &str) -> Parsed<Option<Origin>> {
    const RIGHT: &str = "SCHEME://HOST or SCHEME://HOST:PORT, as the page's address begins: https://meet.example; or *";
    if text == "*" {
        return Ok(None);
    }
    Origin::parse(text).map(Some).or_else(|fault| {
        let why = match fault {
            OriginFault::NoScheme => "the scheme is missing",
            OriginFault::Null => "it is the origin of every sandboxed frame, so that only * can let one in",
            OriginFault::BadHost => "its host is none (* stands alone only)",
            OriginFault::BadPort => "its port is none",
            OriginFault::HasPath => "an origin has no path, not even a slash",
        };
        wrong(why, RIGHT)
    })
}

/// Whether a certificate is to be made.
pub(super) fn self_signed(text: &str) -> Parsed<bool> {
    match text {
        "self-signed" => Ok(true),
        "off" => Ok(false),
        _ => wrong("there is no such way", "self-signed or off"),
    }
}

/// A host name as certificates have it, in lower case.
pub(super) fn domain(text: &str) -> Parsed<String> {
    const RIGHT: &str = "the name at which clients reach this server, for example meet.example";
    // RFC 1035 section 2.3.4.
    const NAME_MAX: usize = 253;
    const LABEL_MAX: usize = 63;
    if !text.is_ascii() {
        return wrong("it has other letters than ASCII's", "its ASCII form, which begins with xn--");
    }
    if text.contains('*') {
        // RFC 8737 proves one host.
        return wrong(
            "a wildcard cannot be proved over TLS",
            "each name by itself; or --tls-cert and another ACME client",
        );
    }
    if text.parse::<IpAddr>().is_ok() || text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return wrong("it is an IP address", RIGHT);
    }
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    if text.len() > NAME_MAX || !text.split('.').all(is_label) || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong("it is no host name", RIGHT);
    }
    Ok(text.to_ascii_lowercase())
}

/// RFC 8555 section 7.3: one address, without header fields.
pub(super) fn mail(text: &str) -> Parsed<String> {
    const RIGHT: &str = "one mail address, for example ops@meet.example";
    let Some((local, host)) = text.split_once('@') else { return wrong("it has no @", RIGHT) };
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | ',' | '@' | '<' | '>' | '"' | '%');
    if local.is_empty() || text.len() > 254 || !local.chars().all(plain) || domain(host).is_err() {
        return wrong("it is no mail address", RIGHT);
    }
    Ok(text.to_owned())
}

pub(super) fn acme_directory(text: &str) -> Parsed<String> {
    const RIGHT: &str = "an https URL, for example https://acme-v02.api.letsencrypt.org/directory";
    let Ok(url) = text.parse::<hyper::Uri>() else { return wrong("it is no URL", RIGHT) };
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(authority)) if !authority.as_str().contains('@') => Ok(text.to_owned()),
        (Some("https"), _) => wrong("its host is none", RIGHT),
        _ => wrong("it does not begin with https://", RIGHT),
    }
}

/// Whether who comes in has to bring a token.
pub(super) fn asks_for_tokens(text: &str) -> Parsed<bool> {
    match text {
        "token" => Ok(true),
        "none" => Ok(false),
        _ => wrong("there is no such way", "none or token"),
    }
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { wrong("it names no file", "the path of a file") } else { Ok(text.into()) }
}

/// `5s`, `0`.
pub(super) fn leeway(text: &str) -> Parsed<Duration> {
    const RIGHT: &str = "0, or whole seconds up to 300s such as 5s";
    match text.strip_suffix('s').unwrap_or(text).parse::<u64>() {
        Ok(seconds) if text == "0" || text.ends_with('s') && seconds <= 300 => Ok(Duration::from_secs(seconds)),
        Ok(_) if text.ends_with('s') => wrong("a token would live on for too long", RIGHT),
        _ => wrong("it is not a time in s", RIGHT),
    }
}

pub(super) fn rtc_address(text: &str) -> Parsed<SocketAddr> {
    const RIGHT: &str = "IP:PORT, for example 0.0.0.0:40000, 127.0.0.1:40000 or [::]:40000";
    let address = address(text).map_err(|(why, _)| (why, RIGHT.to_owned()))?;
    if address.port() == 0 {
        return wrong("every shard shares this port and clients are told it, so it must be named", RIGHT);
    }
    if address.ip().is_multicast() {
        return wrong("it is a multicast address", RIGHT);
    }
    Ok(address)
}

pub(super) fn announced(text: &str) -> Parsed<IpAddr> {
    const RIGHT: &str =
        "the IP address at which clients reach this machine, for example 203.0.113.7; ports come from --rtc-listen";
    let Ok(ip) = text.parse::<IpAddr>() else {
        if text.parse::<SocketAddr>().is_ok() {
            return wrong("it has a port", RIGHT);
        }
        return wrong("it is not an IP address (host names are not looked up)", RIGHT);
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return wrong("no client can send to this address", RIGHT);
    }
    Ok(ip)
}

/// `docker0`, `br-*`, `10.0.0.0/8`, `fd00::/8`, `192.0.2.7`.
pub(super) fn exclusion(text: &str) -> Parsed<Exclusion> {
    const RIGHT: &str = "an interface (docker0, or br-* for all that begin so) or a range of addresses (10.0.0.0/8, \
                         fd00::/8, 192.0.2.7)";
    if let Some((base, prefix)) = text.split_once('/') {
        let Ok(base) = base.parse::<IpAddr>() else {
            return wrong(format!("{base:?} is not an IP address"), RIGHT);
        };
        let bits = if base.is_ipv4() { 32 } else { 128 };
        return match prefix.parse::<u32>() {
            Ok(prefix) if prefix <= bits => Ok(Exclusion::Range { base, prefix }),
            _ => wrong(format!("{prefix:?} is not a length from 0 to {bits}"), RIGHT),
        };
    }
    if let Ok(base) = text.parse::<IpAddr>() {
        return Ok(Exclusion::Range { base, prefix: if base.is_ipv4() { 32 } else { 128 } });
    }
    let name = text.strip_suffix('*').unwrap_or(text);
    // IFNAMSIZ, with the zero at the end.
    if name.is_empty() || name.len() > 15 || name.contains(|c: char| c == '*' || c == ':' || c.is_whitespace()) {
        return wrong("it is neither the name of an interface nor a range of addresses", RIGHT);
    }
    Ok(if name == text { Exclusion::Interface(name.to_owned()) } else { Exclusion::Interfaces(name.to_owned()) })
}

/// `4`: the first four cpus of this process; `0,2,4-7`: these; `all`.
pub(super) fn cores(text: &str, cpus: &[usize]) -> Parsed<Vec<usize>> {
    let right = format!(
        "a count from 1 to {}, or a list out of {} such as {}, or all",
        cpus.len().min(SHARDS_MAX),
        ranges(cpus),
        example(cpus)
    );
    if text == "all" {
        return Ok(cpus.iter().copied().take(SHARDS_MAX).collect());
    }
    if let Ok(count) = text.parse::<usize>() {
        if count == 0 {
            return wrong("media needs at least one core", right);
        }
        if count > cpus.len().min(SHARDS_MAX) {
            return wrong(format!("this process may use {} cpus, at most {SHARDS_MAX} shards", cpus.len()), right);
        }
        return Ok(cpus[..count].to_vec());
    }
    let mut cores: Vec<usize> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            return wrong(format!("{part:?} is neither a cpu nor a range of cpus"), right);
        };
        if first > last {
            return wrong(format!("the range {part:?} runs backwards"), right);
        }
        // The cpus decide how far the loop runs, not the text: `0-18446744073709551615` costs nothing.
        if let Some(missing) = (first..=last).find(|cpu| !cpus.contains(cpu)) {
            return wrong(format!("this process may not run on cpu {missing}"), right);
        }
        for cpu in first..=last {
            if cores.contains(&cpu) {
                return wrong(format!("cpu {cpu} is named twice"), right);
            }
            cores.push(cpu);
        }
    }
    if cores.len() > SHARDS_MAX {
        return wrong(format!("{} shards are more than {SHARDS_MAX}", cores.len()), right);
    }
    Ok(cores)
}

pub(super) fn steering(text: &str) -> Parsed<SteeringMode> {
    text.parse().or_else(|_| wrong("there is no such way", "bpf, handover, port-per-core or auto"))
}

pub(super) fn io(text: &str) -> Parsed<IoMode> {
    text.parse().or_else(|_| wrong("there is no such way", "ring, plain or auto"))
}

pub(super) fn spread(text: &str) -> Parsed<ChannelSpread> {
    match text {
        "auto" => Ok(ChannelSpread::Auto),
        "always" => Ok(ChannelSpread::Always),
        _ => wrong("there is no such way", "auto or always"),
    }
}

/// `2ms`, `500us`, `0`.
pub(super) fn coalesce_max(text: &str) -> Parsed<Duration> {
    const RIGHT: &str = "0, or a time up to 20ms such as 500us or 2ms";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let micros = match (number.parse::<u64>(), unit.trim()) {
        (Ok(0), "" | "us" | "ms") => 0,
        (Ok(micros), "us") => micros,
        (Ok(millis), "ms") => millis.saturating_mul(1_000),
        _ => return wrong("it is not a time in us or ms", RIGHT),
    };
    if micros > COALESCE_MAX.as_micros() as u64 {
        return wrong("conversations suffer from that much", RIGHT);
    }
    Ok(Duration::from_micros(micros))
}

pub(super) fn last_n(text: &str) -> Parsed<LastN> {
    match text {
        "off" => return Ok(LastN::Off),
        "peers" => return Ok(LastN::Peers),
        _ => {}
    }
    match text.parse() {
        Ok(n) if (1..=LAST_N_MAX).contains(&n) => Ok(LastN::Fixed(n)),
        _ => wrong("it is no such number", format!("off, peers, or a number from 1 to {LAST_N_MAX}")),
    }
}

pub(super) fn ice_server(text: &str) -> Parsed<IceServerUrl> {
    IceServerUrl::parse(text).or_else(|fault| {
        let why = match fault {
            IceServerFault::Scheme => "it begins with none of stun:, stuns:, turn: and turns:",
            IceServerFault::Slashes => "no slashes follow the colon",
            IceServerFault::Host => "it has no host that can be right",
            IceServerFault::Port => "it has no port that can be right",
            IceServerFault::Transport => "what follows the ? is not understood",
            IceServerFault::TooLong => "it is too long",
        };
        wrong(why, "turn:turn.example.org:443?transport=tcp, turns:turn.example.org or stun:stun.example.org")
    })
}

pub(super) fn lifetime(text: &str) -> Parsed<Duration> {
    const RIGHT: &str = "a time from 1m to 7d such as 30m or 12h";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let minutes = match unit.trim() {
        "m" => 1,
        "h" => 60,
        "d" => 24 * 60,
        _ => return wrong("it is not a time in m, h or d", RIGHT),
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(minutes)) {
        Some(minutes @ 1..=10_080) => Ok(Duration::from_secs(60 * minutes)),
        _ => wrong("it is out of bounds", RIGHT),
    }
}

/// 0: as many as the server serves.
pub(super) fn sockets(text: &str) -> Parsed<usize> {
    match text.parse() {
        Ok(number) if number <= SOCKETS_MAX => Ok(number),
        _ => wrong("it is no such number", format!("a number from 0 to {SOCKETS_MAX}")),
    }
}

/// 0: no peer outlives its socket.
pub(super) fn resume_grace(text: &str) -> Parsed<Duration> {
    const RIGHT: &str = "0, or a time up to 10min such as 15s or 500ms";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let millis = match (number.parse::<u64>(), unit.trim()) {
        (Ok(0), "" | "ms" | "s" | "min") => 0,
        (Ok(millis), "ms") => millis,
        (Ok(seconds), "s") => seconds.saturating_mul(1_000),
        (Ok(minutes), "min") => minutes.saturating_mul(60_000),
        _ => return wrong("it is not a time in ms, s or min", RIGHT),
    };
    let grace = Duration::from_millis(millis);
    if grace > RESUME_GRACE_MAX {
        return wrong("nobody waits that long for who is gone", RIGHT);
    }
    Ok(grace)
}

pub(super) fn same_user(text: &str) -> Parsed<SameUser> {
    match text {
        "keep" => Ok(SameUser::Keep),
        "replace" => Ok(SameUser::Replace),
        _ => wrong("there is no such way", "keep or replace"),
    }
}

pub(super) fn log(text: &str) -> Parsed<LogFilter> {
    const RIGHT: &str = "error, warn, info, debug, trace or off; or per module, as in warn,weirgate::signal=debug";
    if let Ok(level) = text.parse::<LevelFilter>() {
        // Other crates' lines below a warning say nothing about calls; a filter per module brings them back.
        let others = level.min(LevelFilter::WARN);
        let targets = Targets::new().with_default(others).with_target("weirgate", level);
        // The DTLS library warns of every extension of a browser's ClientHello that it does not know.
        let targets = targets.with_target("dtls", others.min(LevelFilter::ERROR));
        // The client of the cluster's engine has a line for each try; the bus has its own, seldom.
        return Ok(LogFilter(targets.with_target("async_nats", LevelFilter::OFF)));
    }
    if !text.contains(['=', ',']) {
        return wrong("there is no such level", RIGHT);
    }
    match text.parse::<Targets>() {
        Ok(targets) => Ok(LogFilter(targets)),
        Err(error) => wrong(error.to_string(), RIGHT),
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => wrong("there is no such format", "text or json"),
    }
}

pub(super) fn on_or_off(text: &str) -> Parsed<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => wrong("it is neither", "on or off"),
    }
}

/// `0-3,6`.
fn ranges(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some((&first, _)) = rest.split_first() {
        let length = rest.iter().enumerate().take_while(|(n, cpu)| first + n == **cpu).count();
        let comma = if text.is_empty() { "" } else { "," };
        match length {
            1 => text.push_str(&format!("{comma}{first}")),
            _ => text.push_str(&format!("{comma}{first}-{}", first + length - 1)),
        }
        rest = &rest[length..];
    }
    text
}

fn example(cpus: &[usize]) -> String {
    match cpus {
        [first, second, ..] => format!("{first},{second}"),
        [only] => format!("{only}-{only}"),
        [] => "0-0".to_owned(),
    }
}
