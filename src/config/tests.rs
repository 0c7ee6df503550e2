//! Settings from text to value: accepted values, refused ones, and the words of the refusal.

use super::*;

const CPUS: [usize; 4] = [0, 1, 2, 5];

fn load(args: &[&str]) -> Result<Config, ConfigError> {
    let args = std::iter::once("weirgate").chain(args.iter().copied()).map(OsString::from);
    Config::load(args, &CPUS).map(|loaded| match loaded {
        Loaded::Run(config) => *config,
        Loaded::Print(text) => panic!("printed instead: {text}"),
    })
}

fn with_file(args: &[&str], text: &str) -> Result<Config, ConfigError> {
    let args = std::iter::once("weirgate").chain(args.iter().copied());
    let matches = Flags::command().try_get_matches_from(args).expect("the flags of a test parse");
    let file = source::File::parse("w.toml".into(), text)?;
    SettingSources { flags: &matches, file: Some(&file) }.resolve(&CPUS)
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.expect_err("it must be refused").to_string()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn sockets(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nothing_given_is_valid() {
    let config = load(&[]).unwrap();
    assert_eq!(config.listen, "0.0.0.0:4443".parse::<SocketAddr>().unwrap());
    assert_eq!(config.rtc_listen, sockets(&["0.0.0.0:40000"]));
    assert!(config.announce.is_empty());
    assert_eq!(config.cores, CPUS);
    assert_eq!((config.steering, config.io), (SteeringMode::Auto, IoMode::Auto));
}

#[test]
fn tokens_and_the_keys_for_them_come_together() {
    assert_eq!(load(&[]).unwrap().auth, None);
    assert_eq!(load(&["--auth", "none"]).unwrap().auth, None);
    let auth = |keys: &[&str], seconds| {
        Some(TokenAuth { keys: keys.iter().map(PathBuf::from).collect(), leeway: Duration::from_secs(seconds) })
    };
    assert_eq!(load(&["--auth", "token", "--auth-key", "a"]).unwrap().auth, auth(&["a"], 5));
    let two = ["--auth", "token", "--auth-key", "a", "--auth-key", "b", "--auth-leeway", "60s"];
    assert_eq!(load(&two).unwrap().auth, auth(&["a", "b"], 60));
    let file = "auth = \"token\"\nauth-key = [\"a\", \"b\"]\nauth-leeway = 0";
    assert_eq!(with_file(&[], file).unwrap().auth, auth(&["a", "b"], 0));
    for (args, why) in [
        (&["--auth", "token"][..], "there is no key to check a token with"),
        (&["--auth-key", "a"][..], "no tokens are asked for"),
        (&["--auth", "jwt", "--auth-key", "a"][..], "there is no such way"),
        (&["--auth", "token", "--auth-key", " "][..], "it names no file"),
        (&["--auth-leeway", "5"][..], "it is not a time in s"),
        (&["--auth-leeway", "301s"][..], "a token would live on for too long"),
    ] {
        let text = message(load(args));
        assert!(text.contains(why) && text.contains("--auth"), "{text}");
    }
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let files = TlsSource::Files { certificate: "a.pem".into(), key: "b.pem".into() };
    let config = load(&["--tls-cert", "a.pem", "--tls-key", "b.pem"]).unwrap();
    assert_eq!((&config.tls, config.origins.tls), (&files, true));
    let from_file = with_file(&["--tls-cert", "a.pem"], "tls-key = \"b.pem\"").unwrap();
    assert_eq!(from_file.tls, files);
    let made = load(&["--tls", "self-signed"]).unwrap();
    assert_eq!((made.tls, made.origins.tls), (TlsSource::SelfSigned, true));
    let plain = load(&["--tls", "off"]).unwrap();
    assert_eq!(plain.tls, TlsSource::Off);
    let plain = load(&[]).unwrap();
    assert_eq!((plain.tls, plain.origins.tls), (TlsSource::Off, false));
    for (args, why) in [
        (&["--tls-cert", "a.pem"][..], "its key is missing"),
        (&["--tls", "self-signed", "--tls-cert", "a.pem", "--tls-key", "b.pem"][..], "a certificate is given"),
        (&["--tls", "on"][..], "there is no such way"),
        (&["--tls-key", "b.pem"][..], "its certificate is missing"),
        (&["--tls-cert", "", "--tls-key", "b.pem"][..], "it names no single file"),
    ] {
        let text = message(load(args));
        assert!(text.contains(why) && text.contains("right: "), "{text}");
    }
}

#[test]
fn cores_are_counted_or_listed() {
    assert_eq!(load(&["--cores", "2"]).unwrap().cores, [0, 1]);
    assert_eq!(load(&["--cores", "5,0-1"]).unwrap().cores, [5, 0, 1]);
    assert_eq!(load(&["--cores", "5-5"]).unwrap().cores, [5]);
    assert_eq!(load(&["--cores", "all"]).unwrap().cores, CPUS);
    for (wrong, why) in [
        ("0", "at least one core"),
        ("5", "may use 4 cpus"),
        ("0,3", "may not run on cpu 3"),
        ("2-1", "runs backwards"),
        ("0,0", "named twice"),
        ("0-18446744073709551615", "may not run on cpu 3"),
        ("two", "neither a cpu nor a range"),
        ("1,", "neither a cpu nor a range"),
    ] {
        let text = message(load(&["--cores", wrong]));
        assert!(text.contains(why) && text.contains("--cores"), "{wrong}: {text}");
        assert!(text.contains("a count from 1 to 4, or a list out of 0-2,5 such as 0,1, or all"), "{text}");
    }
}

#[test]
fn a_time_has_a_unit_and_a_maximum() {
    assert_eq!(load(&[]).unwrap().coalesce_max, Duration::from_millis(2));
    for (text, micros) in [("0", 0), ("0ms", 0), ("500us", 500), ("20ms", 20_000)] {
        assert_eq!(load(&["--coalesce-max", text]).unwrap().coalesce_max, Duration::from_micros(micros));
    }
    for text in ["2", "2s", "ms", "-1ms", "21ms", "18446744073709551615ms"] {
        let text = message(load(&[&format!("--coalesce-max={text}")]));
        assert!(text.contains("right: 0, or a time up to 20ms"), "{text}");
    }
}

#[test]
fn sockets_are_read_by_ring_or_plain() {
    assert_eq!(load(&["--io", "ring"]).unwrap().io, IoMode::Ring);
    assert_eq!(with_file(&[], "io = \"plain\"").unwrap().io, IoMode::Plain);
    let text = message(load(&["--io", "epoll"]));
    assert!(text.contains("--io") && text.contains("right: ring, plain or auto"), "{text}");
}

#[test]
fn channels_keep_together_or_spread() {
    assert_eq!(load(&[]).unwrap().spread, ChannelSpread::Auto);
    assert_eq!(load(&["--spread", "always"]).unwrap().spread, ChannelSpread::Always);
    assert_eq!(with_file(&[], "spread = \"always\"").unwrap().spread, ChannelSpread::Always);
    let text = message(load(&["--spread", "never"]));
    assert!(text.contains("--spread") && text.contains("right: auto or always"), "{text}");
}

#[test]
fn sockets_of_one_address_and_one_user_are_bounded() {
    assert_eq!(load(&[]).unwrap().quotas, Quotas::default());
    let quotas = load(&["--sockets-per-address", "0", "--sockets-per-user", "7"]).unwrap().quotas;
    assert_eq!(quotas, Quotas { sockets_per_address: 0, sockets_per_user: 7 });
    assert!(message(load(&["--sockets-per-user", "many"])).contains("a number from 0 to 20000"));
}

#[test]
fn peers_outlive_their_sockets_for_fifteen_seconds_unless_told_otherwise() {
    let config = load(&[]).unwrap();
    assert_eq!((config.resume_grace, config.same_user), (Duration::from_secs(15), SameUser::Keep));
    for (text, millis) in [("0", 0), ("500ms", 500), ("20s", 20_000), ("10min", 600_000)] {
        assert_eq!(load(&["--resume-grace", text]).unwrap().resume_grace, Duration::from_millis(millis), "{text}");
    }
    for text in ["15", "11min", "1h", "s", "99999999999999999999s", "9999999999999999999min"] {
        assert!(message(load(&["--resume-grace", text])).contains("up to 10min"), "{text}");
    }
    assert_eq!(load(&["--same-user", "replace"]).unwrap().same_user, SameUser::Replace);
    assert!(message(load(&["--same-user", "kill"])).contains("keep or replace"));
}

#[test]
fn the_loudest_are_counted_by_the_server_or_by_peers() {
    assert_eq!(load(&[]).unwrap().last_n, LastN::Off);
    assert_eq!(load(&["--last-n", "5"]).unwrap().last_n, LastN::Fixed(5));
    assert_eq!(with_file(&[], "last-n = \"peers\"").unwrap().last_n, LastN::Peers);
    for wrong in ["0", "101", "-1", "all"] {
        let text = message(load(&[&format!("--last-n={wrong}")]));
        assert!(text.contains("right: off, peers, or a number from 1 to 100"), "{text}");
    }
}

#[test]
fn a_wrong_address_says_what_is_wrong_with_it() {
    for (wrong, why) in [
        ("foo", "not an IP address with a port"),
        ("localhost:4443", "\"localhost\" is not an IP address"),
        ("0.0.0.0", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("0.0.0.0:70000", "\"70000\" after \"0.0.0.0\" is not a port"),
        ("2001:db8:0:0:0:0:0:1:4443", "stands in brackets"),
    ] {
        let text = message(load(&["--listen", wrong]));
        assert!(text.contains(why) && text.contains("--listen") && text.contains("right: IP:PORT"), "{wrong}: {text}");
    }
    assert!(message(load(&["--rtc-listen", "0.0.0.0:0"])).contains("it must be named"));
    assert!(message(load(&["--rtc-listen", "1.2.3.4:5", "--rtc-listen", "1.2.3.4:5"])).contains("given twice"));
}

#[test]
fn an_announced_address_must_be_one_that_is_answered() {
    assert_eq!(load(&["--announce", "203.0.113.7"]).unwrap().announce, ips(&["203.0.113.7"]));
    assert!(message(load(&["--announce", "2001:db8::1"])).contains("--rtc-listen [::]:40000"));
    assert!(message(load(&["--announce", "203.0.113.7:40000"])).contains("it has a port"));
    assert!(message(load(&["--announce", "0.0.0.0"])).contains("no client can send"));
    assert!(message(load(&["--announce", "sfu.example"])).contains("host names are not looked up"));
}

#[test]
fn interfaces_and_ranges_are_excluded() {
    assert!(load(&[]).unwrap().rtc_exclude.is_empty());
    let range = |base: &str, prefix| Exclusion::Range { base: base.parse().unwrap(), prefix };
    let flags = ["--rtc-exclude", "docker0", "--rtc-exclude", "br-*,10.0.0.0/8"];
    let expected = [Exclusion::Interface("docker0".into()), Exclusion::Interfaces("br-".into()), range("10.0.0.0", 8)];
    assert_eq!(load(&flags).unwrap().rtc_exclude, expected);
    let file = "rtc-exclude = [\"fd00::/8\", \"192.0.2.7\", \"eth0.5\"]";
    let expected = [range("fd00::", 8), range("192.0.2.7", 32), Exclusion::Interface("eth0.5".into())];
    assert_eq!(with_file(&[], file).unwrap().rtc_exclude, expected);
    for (wrong, why) in [
        ("10.0.0.0/33", "\"33\" is not a length from 0 to 32"),
        ("fd00::/129", "\"129\" is not a length from 0 to 128"),
        ("10.0.0/8", "\"10.0.0\" is not an IP address"),
        ("*", "neither the name of an interface nor a range"),
        ("an-interface-of-no-linux", "neither"),
        ("a b", "neither"),
    ] {
        let text = message(load(&["--rtc-exclude", wrong]));
        assert!(text.contains(why) && text.contains("--rtc-exclude") && text.contains("right: an interface"), "{text}");
    }
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let file = "listen = \"127.0.0.1:1\"\nrtc-listen = [\"127.0.0.1:2\", \"[::1]:2\"]\ncores = 3\n";
    let config = with_file(&["--listen", "127.0.0.1:9"], file).unwrap();
    assert_eq!(config.listen, "127.0.0.1:9".parse::<SocketAddr>().unwrap());
    assert_eq!(config.rtc_listen, sockets(&["127.0.0.1:2", "[::1]:2"]));
    assert_eq!(config.cores, [0, 1, 2]);
    assert_eq!(config.steering, SteeringMode::Auto);
}

#[test]
fn the_file_is_named_with_its_key() {
    let text = message(with_file(&[], "steering = \"magic\""));
    assert!(text.contains("key `steering` of w.toml") && text.contains("\"magic\""), "{text}");
    assert!(text.contains("bpf, handover, port-per-core or auto"), "{text}");
    let text = message(with_file(&[], "listne = \"x\""));
    assert!(
        text.contains("no setting `listne`")
            && text.contains("listen, admin-listen, tls, tls-cert, tls-key, allow-origin, rtc-listen"),
        "{text}"
    );
    let text = message(with_file(&[], "listen = true"));
    assert!(text.contains("of type boolean"), "{text}");
    let text = message(with_file(&[], "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"));
    assert!(text.contains("takes one value"), "{text}");
    let text = message(with_file(&[], "listen = \n"));
    assert!(text.contains("cannot be used") && text.contains("line 1"), "{text}");
    assert!(message(load(&["--config", "/nowhere/w.toml"])).contains("/nowhere/w.toml"));
}

#[test]
fn a_level_leaves_other_crates_at_warnings() {
    let LogFilter(debug) = load(&["--log", "debug"]).unwrap().log;
    assert!(debug.would_enable("weirgate::signal", &tracing::Level::DEBUG));
    assert!(!debug.would_enable("dtls::conn", &tracing::Level::INFO));
    let LogFilter(each) = load(&["--log", "warn,dtls=trace"]).unwrap().log;
    assert!(each.would_enable("dtls::conn", &tracing::Level::TRACE));
    assert!(message(load(&["--log", "loud"])).contains("no such level"));
}

#[test]
fn announced_addresses_stand_for_their_family() {
    let bound = sockets(&["10.0.0.5:7", "10.0.0.6:7", "[2001:db8::5]:7"]);
    let config = load(&["--announce", "203.0.113.7", "--announce", "203.0.113.8"]).unwrap();
    assert_eq!(candidates(&config, &bound), sockets(&["203.0.113.7:7", "203.0.113.8:7", "[2001:db8::5]:7"]));
    assert_eq!(candidates(&load(&[]).unwrap(), &bound), bound);
}

#[test]
fn the_admin_listener_is_on_loopback_elsewhere_or_off() {
    assert_eq!(load(&[]).unwrap().admin_listen, Some("127.0.0.1:4444".parse().unwrap()));
    assert_eq!(load(&["--admin-listen", "off"]).unwrap().admin_listen, None);
    assert_eq!(with_file(&[], "admin-listen = \"[::1]:0\"").unwrap().admin_listen, Some("[::1]:0".parse().unwrap()));
    let text = message(load(&["--admin-listen", "4444"]));
    assert!(text.contains("--admin-listen") && text.contains("or off"), "{text}");
    let text = message(load(&["--listen", "127.0.0.1:4444"]));
    assert!(text.contains("it is where --listen listens"), "{text}");
    assert!(load(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).is_ok());
}

#[test]
fn origins_are_listed_or_all() {
    assert_eq!(load(&[]).unwrap().origins, Origins::default());
    let two = load(&["--allow-origin", "https://a.example", "--allow-origin", "http://b.example:8080"]).unwrap();
    assert!(two.origins.admit("https://a.example", None) && two.origins.admit("http://b.example:8080", None));
    assert!(!two.origins.admit("https://c.example", None));
    assert!(load(&["--allow-origin", "*"]).unwrap().origins.admit("https://c.example", None));
    assert!(with_file(&[], "allow-origin = \"https://a.example\"").unwrap().origins.admit("https://a.example", None));
    for (wrong, why) in [
        ("a.example", "the scheme is missing"),
        ("null", "sandboxed frame"),
        ("https://*.example", "* stands alone"),
        ("https://a.example/", "no path"),
        ("https://a.example:x", "its port"),
    ] {
        let text = message(load(&["--allow-origin", wrong]));
        assert!(text.contains(why) && text.contains("right: SCHEME://HOST"), "{wrong}: {text}");
    }
}

#[test]
fn the_log_has_a_format_and_names_addresses_or_not() {
    let config = load(&[]).unwrap();
    assert_eq!((config.log_format, config.log_addresses), (LogFormat::Text, true));
    let config = load(&["--log-format", "json", "--log-addresses", "off"]).unwrap();
    assert_eq!((config.log_format, config.log_addresses), (LogFormat::Json, false));
    assert!(message(load(&["--log-format", "xml"])).contains("right: text or json"));
    assert!(message(load(&["--log-addresses", "masked"])).contains("right: on or off"));
}

#[test]
fn a_turn_server_and_its_secret_come_together() {
    let config = load(&["--ice-server", "stun:a,turn:b?transport=tcp", "--ice-server-secret", "s"]).unwrap();
    assert_eq!((config.ice_servers.len(), config.ice_server_secret), (2, Some("s".into())));
    assert_eq!(config.ice_server_lifetime, Duration::from_secs(12 * 3_600));
    assert_eq!(load(&["--ice-server", "stun:a"]).unwrap().ice_servers.len(), 1);
    let short = load(&["--ice-server-lifetime", "30m"]).unwrap();
    assert_eq!(short.ice_server_lifetime, Duration::from_secs(1_800));
    let many = ["stun:a"; 9].join(",");
    for (args, why) in [
        (&["--ice-server", "turn:b"][..], "its secret is missing"),
        (&["--ice-server", "stun:a", "--ice-server-secret", "s"][..], "no TURN server is given"),
        (&["--ice-server", "turn://b", "--ice-server-secret", "s"][..], "no slashes follow the colon"),
        (&["--ice-server", &many][..], "there are too many"),
        (&["--ice-server-lifetime", "30s"][..], "it is not a time in m, h or d"),
        (&["--ice-server-lifetime", "8d"][..], "it is out of bounds"),
    ] {
        let message = message(load(args));
        assert!(message.contains(why), "{args:?}: {message}");
    }
}
