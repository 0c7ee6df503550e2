//! TLS on the public listener of the whole binary: clients of rustls, and openssl's where it is installed.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "the real binary: its tests wait by the clock")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};
use tungstenite::{Message, WebSocket};

const WAIT: Duration = Duration::from_secs(20);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate for localhost and its key, in files of this test alone.
struct Pair {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
}

impl Pair {
    fn new(test: &str) -> Pair {
        let folder = std::env::temp_dir().join(format!("weirgate-tls-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut pair = Pair { folder, certificate: vec![].into() };
        pair.renew();
        pair
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn made() -> (CertificateDer<'static>, String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.der().clone(), made.cert.pem(), made.signing_key.serialize_pem())
    }

    /// Writes another certificate with another key.
    fn renew(&mut self) {
        let (certificate, pem, key) = Pair::made();
        self.certificate = certificate;
        fs::write(self.path("cert.pem"), pem).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
    }

    fn args(&self) -> Vec<String> {
        ["--tls-cert".to_owned(), self.path("cert.pem"), "--tls-key".to_owned(), self.path("key.pem")].into()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn weirgate(words: &[&str], args: &[String]) -> Command {
    let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    command.args(words).args(["--cores", "1", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--rtc-listen", &media]).args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIRGATE_")) {
        command.env_remove(name);
    }
    command
}

fn trusting(trusted: &CertificateDer<'static>, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Trusts whatever comes, as a user does who goes on past his browser's warning.
#[derive(Debug)]
struct PastTheWarning;

impl ServerCertVerifier for PastTheWarning {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

struct Running {
    child: Child,
    banner: String,
    address: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Running {
    fn start(args: &[String]) -> Running {
        let mut child = weirgate(&[], args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  stop ") {
            assert!(out.read_line(&mut banner).unwrap() > 0, "it did not start: {banner}");
        }
        let at = |word: &str| -> SocketAddr {
            let line = banner.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
            line.split("://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
        };
        let (address, admin) = (at("console"), at("admin"));
        let log = Arc::<Mutex<String>>::default();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || errors.lines().map_while(Result::ok).for_each(|line| *log.lock().unwrap() += &(line + "\n"))
        });
        Running { child, banner, address, admin, log }
    }

    /// Waits until the log holds so many lines with this.
    fn logged(&self, part: &str, times: usize) {
        let started = Instant::now();
        while self.log.lock().unwrap().matches(part).count() < times {
            assert!(started.elapsed() < WAIT, "no {part:?} in\n{}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn tcp(&self, address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    /// A connection that trusts this certificate alone; None: it does not get through its handshake.
    fn tls(&self, trusted: &CertificateDer<'static>, version: &'static SupportedProtocolVersion) -> Option<Tls> {
        self.tls_for(trusted, version, &[b"http/1.1"])
    }

    fn tls_for(
        &self,
        trusted: &CertificateDer<'static>,
        version: &'static SupportedProtocolVersion,
        protocols: &[&[u8]],
    ) -> Option<Tls> {
        let mut config = trusting(trusted, version);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self.shake_hands(config, "localhost")
    }

    fn shake_hands(&self, config: ClientConfig, name: &str) -> Option<Tls> {
        let name = name.to_owned().try_into().unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(session, self.tcp(self.address));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).ok()?;
        }
        Some(stream)
    }

    /// The certificate that a new connection gets is this one.
    fn presents(&self, certificate: &CertificateDer<'static>) -> bool {
        let Some(stream) = self.tls(certificate, &TLS13) else { return false };
        stream.conn.peer_certificates().unwrap()[0] == *certificate
    }

    fn socket(&self, trusted: &CertificateDer<'static>, user: &str) -> WebSocket<Tls> {
        let url = format!("wss://localhost:{}/socket?auth={user}&channelId=room", self.address.port());
        tungstenite::client(url, self.tls(trusted, &TLS13).unwrap()).unwrap().0
    }

    fn metrics(&self) -> String {
        get(self.tcp(self.admin), "/metrics", "t")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is what most tests want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(mut stream: impl Read + Write, path: &str, host: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One of the five messages, and the data of its answer.
fn ask(socket: &mut WebSocket<Tls>, kind: &str, data: Value, expected: &str) -> Value {
    socket.send(Message::text(json!({ "type": kind, "data": data }).to_string())).unwrap();
    loop {
        let reply: Value = match socket.read().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            _ => continue,
        };
        assert_ne!(reply["type"], "error", "{reply}");
        if reply["type"] == expected {
            return reply["data"].clone();
        }
    }
}

#[test]
fn both_versions_are_spoken_and_the_console_is_there() {
    let pair = Pair::new("versions");
    let running = Running::start(&pair.args());
    let port = running.address.port();
    for part in [format!("console     https://127.0.0.1:{port}/"), format!("signalling  wss://127.0.0.1:{port}/socket")]
    {
        assert!(running.banner.contains(&part), "{part} is missing in {}", running.banner);
    }
    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (path, part) in [("/healthz", "\"status\":\"ok\""), ("/readyz", "\"status\":\"ready\""), ("/", "<html")] {
            let stream = running.tls(&pair.certificate, version).unwrap();
            assert_eq!(
                (stream.conn.protocol_version(), stream.conn.alpn_protocol()),
                (Some(name), Some(&b"http/1.1"[..]))
            );
            let answer = get(stream, path, "localhost");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(part), "{path}: {answer}");
        }
    }
    assert!(running.tls_for(&pair.certificate, &TLS13, &[]).is_some(), "a client need not ask for a protocol");
    assert!(running.tls_for(&pair.certificate, &TLS13, &[b"h2"]).is_none(), "one that asks for another is refused");
    let (stranger, ..) = Pair::made();
    assert!(running.tls(&stranger, &TLS13).is_none(), "who does not trust the certificate goes");
    let metrics = running.metrics();
    assert!(metrics.contains("weirgate_tls_handshakes_total 7\n"), "{metrics}");
}

#[test]
fn the_five_messages_go_over_tls_and_the_end_is_told() {
    let pair = Pair::new("messages");
    let mut running = Running::start(&pair.args());
    let mut peers = ["anna", "bob"].map(|user| running.socket(&pair.certificate, user));
    let mut produced = Value::Null;
    for (n, socket) in peers.iter_mut().enumerate() {
        let capabilities = ask(socket, "get-rtp-capabilities", Value::Null, "rtp-capabilities");
        ask(socket, "create-transport", Value::Null, "transport-params");
        let hash = vec!["AB"; 32].join(":");
        let fingerprint = json!({ "algorithm": "sha-256", "value": hash });
        let dtls = json!({ "dtlsParameters": { "role": "client", "fingerprints": [fingerprint] } });
        ask(socket, "connect-transport", dtls, "transport-connected");
        if n == 0 {
            let codec = json!({ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 });
            let parameters = json!({ "mid": "0", "codecs": [codec], "encodings": [{ "ssrc": 7 }] });
            let data = json!({ "kind": "audio", "rtpParameters": parameters });
            produced = ask(socket, "produce", data, "producer-id")["id"].clone();
        } else {
            let consumer = ask(socket, "consume", json!({ "rtpCapabilities": capabilities }), "consumer-params");
            assert_eq!(consumer["producerId"], produced);
        }
    }
    running.signal("-TERM");
    for socket in &mut peers {
        let close = loop {
            match socket.read().unwrap() {
                Message::Close(frame) => break frame.unwrap(),
                _ => continue,
            }
        };
        assert_eq!(u16::from(close.code), 1001);
    }
    drop(peers);
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn plain_http_is_sent_to_https() {
    let pair = Pair::new("redirect");
    let running = Running::start(&pair.args());
    for (host, path, location) in [
        ("sfu.example:4443", "/", "https://sfu.example:4443/"),
        ("sfu.example", "/console.js?a=b&c=//d", "https://sfu.example/console.js?a=b&c=//d"),
        ("[::1]:7", "/socket?auth=a&channelId=b", "https://[::1]:7/socket?auth=a&channelId=b"),
    ] {
        let answer = get(running.tcp(running.address), path, host);
        assert!(answer.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nlocation: {location}\r\n")), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n") && answer.contains("tls-required"), "{answer}");
    }
    for host in ["a b", "evil.example/path", "user@evil.example", ""] {
        let answer = get(running.tcp(running.address), "/", host);
        assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("location:"), "{host}: {answer}");
    }
    let metrics = running.metrics();
    assert!(metrics.starts_with("HTTP/1.1 200"), "the admin listener stays plain: {metrics}");
    assert!(metrics.contains("weirgate_http_responses_total{code=\"308\"} 3\n"), "{metrics}");
}

#[test]
fn a_page_of_the_servers_own_is_of_https_alone() {
    let pair = Pair::new("origins");
    let running = Running::start(&pair.args());
    for (origin, status) in
        [("https://sfu.example", "101"), ("http://sfu.example", "403"), ("https://evil.example", "403")]
    {
        let mut stream = running.tls(&pair.certificate, &TLS13).unwrap();
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let upgrade = format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{key}");
        let path = "/socket?auth=anna&channelId=room";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sfu.example\r\nOrigin: {origin}\r\n{upgrade}\r\n\r\n").unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"), "{origin}");
    }
}

#[test]
fn a_renewed_certificate_is_used_when_it_is_written_and_when_somebody_asks() {
    let mut pair = Pair::new("reload");
    let running = Running::start(&pair.args());
    let first = pair.certificate.clone();
    let mut before = running.socket(&first, "anna");
    assert!(running.presents(&first));

    // By itself.
    pair.renew();
    running.logged("new connections get the certificate", 1);
    assert!(running.presents(&pair.certificate) && !running.presents(&first));

    // A pair that does not fit changes nothing, and is one line.
    let (_, other, _) = Pair::made();
    let (fitting, key) = (fs::read(pair.path("cert.pem")).unwrap(), fs::read(pair.path("key.pem")).unwrap());
    fs::write(pair.path("cert.pem"), other).unwrap();
    running.logged("the certificate in use stays: the key", 1);
    running.signal("-HUP");
    running.logged("the certificate in use stays: the key", 2);
    assert!(running.presents(&pair.certificate));
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(running.log.lock().unwrap().matches("in use stays").count(), 2, "each change is a line, not each look");
    fs::remove_file(pair.path("key.pem")).unwrap();
    running.logged("cannot be read: No such file", 1);
    assert!(running.presents(&pair.certificate));

    // When it is asked for.
    fs::write(pair.path("cert.pem"), fitting).unwrap();
    fs::write(pair.path("key.pem"), key).unwrap();
    running.signal("-HUP");
    running.logged("new connections get the certificate", 2);
    assert!(running.presents(&pair.certificate));
    ask(&mut before, "get-rtp-capabilities", Value::Null, "rtp-capabilities");
}

fn refused(args: &[String], words: &[&str]) -> (Output, String) {
    let output = weirgate(words, args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

#[test]
fn a_wrong_pair_is_refused_at_the_start_with_cause_and_cure() {
    let pair = Pair::new("refused");
    let (_, _, key) = Pair::made();
    fs::write(pair.path("other.pem"), key).unwrap();
    let with = |certificate: &str, key: &str| -> Vec<String> {
        ["--tls-cert".to_owned(), pair.path(certificate), "--tls-key".to_owned(), pair.path(key)].into()
    };
    for words in [&[][..], &["check"][..]] {
        for (args, what, cure) in [
            (
                with("cert.pem", "other.pem"),
                "does not belong to the first certificate",
                "that the certificate was made for",
            ),
            (with("absent.pem", "key.pem"), "cannot be read: No such file", "cure: name a PEM file"),
            (with("key.pem", "cert.pem"), "holds no certificate", "cure: give it the server's certificate"),
        ] {
            let (output, text) = refused(&args, words);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("error: ") && text.contains(what) && text.contains(cure), "{text}");
        }
    }
    let (output, text) = refused(&with("cert.pem", "key.pem")[..2], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("its key is missing") && text.contains("right: --tls-cert and --tls-key together"), "{text}");
    assert_eq!(refused(&pair.args(), &["check"]).0.status.code(), Some(0));
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_by_the_check() {
    let pair = Pair::new("ending");
    for (days, warning) in [(5, Some("ends in 119 hours")), (20, None)] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = (std::time::SystemTime::now() + Duration::from_secs(days * 24 * 3_600)).into();
        fs::write(pair.path("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(pair.path("key.pem"), key.serialize_pem()).unwrap();
        let output = weirgate(&["check"], &pair.args()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.contains("the certificate of --tls-cert"), warning.is_some(), "{told}");
        assert!(told.contains(warning.unwrap_or_default()), "{told}");
    }
}

/// PKCS#1 and SEC1, as openssl writes them, and its client in both versions.
#[test]
fn other_forms_of_keys_and_another_client_do() {
    if Command::new("openssl").arg("version").output().is_err() {
        return eprintln!("skipped: openssl is not installed");
    }
    let pair = Pair::new("openssl");
    let (key, certificate) = (pair.path("key.pem"), pair.path("cert.pem"));
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (begin, generate) in [
        ("-----BEGIN RSA PRIVATE KEY-----", &["genrsa", "-traditional", "-out", &key, "2048"][..]),
        ("-----BEGIN EC PRIVATE KEY-----", &["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", &key][..]),
    ] {
        openssl(generate);
        assert!(fs::read_to_string(&key).unwrap().starts_with(begin));
        openssl(&["req", "-x509", "-key", &key, "-subj", "/CN=localhost", "-days", "9", "-out", &certificate]);
        let running = Running::start(&pair.args());
        let at = running.address.to_string();
        for version in ["-tls1_2", "-tls1_3"] {
            let told =
                openssl(&["s_client", "-connect", &at, version, "-CAfile", &certificate, "-verify_return_error"]);
            assert!(told.contains("Verify return code: 0 (ok)"), "{told}");
        }
    }
}

#[test]
fn a_certificate_of_our_own_names_this_machine_and_is_made_at_each_start() {
    let args = ["--tls", "self-signed"].map(str::to_owned);
    let running = Running::start(&args);
    let presented = |running: &Running| {
        let mut config = trusting(&Pair::made().0, &TLS12);
        config.dangerous().set_certificate_verifier(Arc::new(PastTheWarning));
        let stream = running.shake_hands(config, "any.example").unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let certificate = presented(&running);
    // Who trusts it has it verified: its dates, its purpose, and each name.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    for name in ["localhost", "127.0.0.1", "::1", &host, &format!("{}.local", host.split('.').next().unwrap())] {
        let stream = running.shake_hands(trusting(&certificate, &TLS13), name);
        let answer = get(stream.unwrap_or_else(|| panic!("{name} is not in it")), "/healthz", "localhost");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(running.shake_hands(trusting(&certificate, &TLS13), "any.example").is_none());
    assert!(running.banner.contains("https://127.0.0.1:"), "{}", running.banner);
    let mut socket = running.socket(&certificate, "anna");
    ask(&mut socket, "get-rtp-capabilities", Value::Null, "rtp-capabilities");
    running.signal("-HUP");
    running.logged("SIGHUP changes nothing", 1);
    assert!(running.presents(&certificate));
    assert!(presented(&Running::start(&args)) != certificate, "it is kept nowhere");
}

/// Of memory: an idle peer with its socket and its TLS session.
const KIB_PER_PEER: u64 = 30;

#[test]
fn idle_peers_over_tls_are_small() {
    let peers: u64 = std::env::var("IDLE_TLS_PEERS").map_or(5_000, |value| value.parse().expect("a number"));
    let needed = peers + 500;
    let (soft, hard) = rlimit::Resource::NOFILE.get().expect("the limit can be read");
    if soft < needed && rlimit::Resource::NOFILE.set(needed.min(hard), hard).is_err() || hard < needed {
        return println!("skipped: idle_peers_over_tls_are_small: this process may not open as many files");
    }
    let pair = Pair::new("idle");
    let running = Running::start(&pair.args());
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel says it");
        line.split_whitespace().nth(1).expect("a figure").parse::<u64>().expect("a number")
    };
    let join = |number: u64| {
        let url = format!("wss://localhost/socket?auth=idler{number}&channelId=idle{}", number / 4);
        let mut socket = tungstenite::client(url, running.tls(&pair.certificate, &TLS13).unwrap()).unwrap().0;
        ask(&mut socket, "subscribe", Value::Null, "subscribed");
        socket
    };
    let first: Vec<_> = (0..50).map(join).collect();
    let before = resident();
    let others: Vec<_> = (50..50 + peers).map(join).collect();
    let each = resident().saturating_sub(before) * 1_024 / peers;
    println!("{peers} peers over TLS, {each} bytes of memory each");
    assert!(each < KIB_PER_PEER * 1_024, "{each} bytes a peer");
    drop((first, others));
}
